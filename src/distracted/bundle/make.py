"""`make bundle`: one folder of plain files from which work goes on elsewhere."""

import logging
import platform
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from distracted.bundle.contents import choose_runs, code_files, config_files, store_files, without_networks
from distracted.bundle.manifest import NAME, Bundle, BundledFile, project_version, read_bundle
from distracted.bundle.wheels import collect_wheels
from distracted.errors import BundleError
from distracted.files import atomic_path, remove_empty, sha256_file
from distracted.paths import CONFIGS
from distracted.predictions.store import Store
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)


def make_bundle(
    store: Store,
    out: Path,
    *,
    runs: Sequence[str] = (),
    code: bool = True,
    wheels: bool = False,
    configs: Path = CONFIGS,
    progress: Progress = silent,
) -> Bundle:
    """Copy a store's runs, with all that is needed to go on with them, into a folder.

    Files that are there already are kept, so that an interrupted call continues and a later one updates the
    bundle. The runs are locked meanwhile.

    Args:
        runs: These and everything that they were made from; by default all, also those that were only begun.
        code: Add the project's code.
        wheels: Add the packages that a machine with torch, but without a network, needs.

    Raises:
        BundleError: the folder holds something else.
        StoreError: a run is missing or damaged.
        LockError: one is being trained; says by whom.
    """
    name = store.competition.name
    _check_folder(out, name)
    chosen = choose_runs(store, runs)
    if gone := without_networks(store, chosen):
        _log.warning("no network, so that predict and tta are impossible there: %s", "; ".join(gone))
    with ExitStack() as stack:
        for run in chosen:
            stack.enter_context(store.hold(run.name))
        sources = store_files(store, chosen) | config_files(configs)
        if code:
            sources |= code_files(configs.parent)
        bundle = Bundle(
            project=project_version(),
            data=name,
            index_hash=store.competition.index_hash,
            runs=tuple(chosen),
            code=code,
            python=".".join(platform.python_version_tuple()[:2]) if wheels else "",
        )
        begun = Bundle(data=name, index_hash=bundle.index_hash)
        if not (out / NAME).is_file():
            begun.write(out)
        if wheels:  # may fail, which leaves an earlier bundle as it is
            sources |= collect_wheels(out / "wheels", configs.parent, progress=progress)
        begun.write(out)  # incomplete until the end
        files = _copy(sources, out, progress)
    _remove_others(out, sources)
    bundle = bundle.model_copy(update={"files": tuple(files), "complete": True})
    bundle.write(out)
    return bundle


def _check_folder(out: Path, data: str) -> None:
    if out.is_file():
        raise BundleError(f"OUT={out}: a file; name a folder")
    if (out / NAME).is_file():
        if (there := read_bundle(out).data) != data:
            raise BundleError(f"OUT={out}: a bundle of {there}, not of {data}; name another folder")
    elif out.is_dir() and any(out.iterdir()):
        raise BundleError(f"OUT={out}: holds other files; name a new folder, or an earlier bundle")


def _copy(sources: Mapping[str, Path], out: Path, progress: Progress) -> list[BundledFile]:
    sizes = {path: source.stat().st_size for path, source in sources.items()}
    files = []
    with progress("bundling", total=_megabytes(sum(sizes.values())), unit="MB") as step:
        behind = 0
        for path in sorted(sources):
            source, target = sources[path], out / path
            file = BundledFile(path=path, size=sizes[path], sha256=sha256_file(source))
            if source != target and not is_same(target, file):
                with atomic_path(target) as temporary:
                    shutil.copyfile(source, temporary)
                if not is_same(target, file):
                    raise BundleError(f"{source}: changed while it was copied; run the command again")
            files.append(file)
            step(_megabytes(behind + file.size) - _megabytes(behind))
            behind += file.size
    return files


def is_same(path: Path, file: BundledFile) -> bool:
    """Whether a file is there with the listed size and hash."""
    return path.is_file() and path.stat().st_size == file.size and sha256_file(path) == file.sha256


def _megabytes(size: int) -> int:
    return -(-size // 1_000_000)


def _remove_others(out: Path, sources: Mapping[str, Path]) -> None:
    """Remove files of an earlier state of the bundle, and those of interrupted copies."""
    known = {out / path for path in sources} | {out / NAME}
    for path in sorted(out.rglob("*"), reverse=True):
        if path.is_dir():
            remove_empty(path)
        elif path not in known:
            path.unlink()
