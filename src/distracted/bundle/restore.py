"""`make restore`: puts a bundle's runs into a workspace, after every hash was checked."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distracted.bundle.contents import PREDICTIONS, place_of
from distracted.bundle.make import is_same
from distracted.bundle.manifest import Bundle, BundledFile, project_version, read_bundle
from distracted.errors import BundleError
from distracted.files import atomic_path, atomic_paths, remove_empty, remove_leftovers
from distracted.locks import hold
from distracted.paths import CONFIGS, METRICS, Workspace
from distracted.predictions.manifest import MANIFEST
from distracted.predictions.placing import stores_of
from distracted.progress import Progress, silent
from distracted.training.checkpoints import LAST, PREVIOUS

_log = logging.getLogger(__name__)

_SHOWN = 3


@dataclass(frozen=True)
class Restored:
    """A bundle in a workspace; `num_written` of its files were not there before."""

    bundle: Bundle
    num_written: int


@dataclass(frozen=True)
class _Item:
    """A file of the bundle and its place in the workspace."""

    file: BundledFile
    source: Path
    target: Path


def restore_bundle(
    folder: Path,
    workspace: Workspace,
    *,
    force: bool = False,
    configs: Path = CONFIGS,
    progress: Progress = silent,
) -> Restored:
    """Copy a bundle's files into a workspace; what is there already, with the same content, stays.

    All hashes are checked before anything is written. A fold's manifest is written last, so an interrupted
    call leaves whole folds, and the next call continues.

    Args:
        folder: Holds bundle.json; may be read-only.
        force: Replace files of the workspace that differ.
        configs: The project's configs/; files other than the data set's own are only added.

    Raises:
        BundleError: a file of the bundle is missing or changed, or one of the workspace differs.
        LockError: a process trains one of the folds.
    """
    bundle = read_bundle(folder)
    if not bundle.complete:
        raise BundleError(f"{folder}: `make bundle` did not finish; run it again, it continues")
    if bundle.project != project_version():
        _log.info("the bundle was made by distracted %s, this is %s", bundle.project, project_version())
    _check(bundle, folder, progress)
    _check_store(bundle, folder, workspace, force)
    items = _plan(bundle, folder, workspace, configs, progress)
    if not force:
        _refuse_other_files(items, folder)
    groups: dict[Path, list[_Item]] = {}
    for item in items:
        groups.setdefault(_group(item, workspace, bundle.data), []).append(item)
    with progress("restoring", total=len(items), unit="files") as step:
        for place in sorted(groups, key=lambda place: len(place.parts)):  # the store's own files first
            _write(place, groups[place], workspace, bundle.data)
            step(len(groups[place]))
    return Restored(bundle, len(items))


def _check_store(bundle: Bundle, folder: Path, workspace: Workspace, force: bool) -> None:
    """Refuse to mix two data sets or two splits, whatever is forced; and a second store of the same data."""
    listed = {file.path: file for file in bundle.files}
    for name in ("data.json", "folds.csv"):
        path, file = workspace.oof(bundle.data) / name, listed.get(f"oof/{bundle.data}/{name}")
        if file is not None and path.exists() and not is_same(path, file):
            what = "other data" if name == "data.json" else "another split"
            raise BundleError(
                f"{path}: of {what} than {folder} holds; move {path.parent} and "
                f"{workspace.runs(bundle.data)} away, or restore into another copy of the project"
            )
    others = [name for name in stores_of(workspace, bundle.index_hash) if name != bundle.data]
    if others and not force and not workspace.data_binding(bundle.data).exists():
        raise BundleError(
            f"{workspace.oof(others[0])}: a store of the same data as {folder}, which DATA=<folder> takes "
            f"instead of {bundle.data}; move it away, or FORCE=1 restores beside it"
        )


def _check(bundle: Bundle, folder: Path, progress: Progress) -> None:
    bad = []
    with progress("checking the bundle", total=len(bundle.files), unit="files") as step:
        for file in bundle.files:
            if not (folder / file.path).is_file():
                bad.append(f"{file.path} is missing")
            elif not is_same(folder / file.path, file):
                bad.append(f"{file.path} is not the file that bundle.json lists")
            step()
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise BundleError(f"{folder}: {'; '.join(bad[:_SHOWN])}{more}; copy or make the bundle again")


def _plan(
    bundle: Bundle, folder: Path, workspace: Workspace, configs: Path, progress: Progress
) -> list[_Item]:
    """The files that the workspace lacks or has otherwise."""
    items = []
    with progress("comparing", total=len(bundle.files), unit="files") as step:
        for file in bundle.files:
            target = place_of(file.path, workspace, configs, bundle.data)
            if target is not None and not is_same(target, file):
                items.append(_Item(file, folder / file.path, target))
            step()
    further = [run for run in _folds(bundle) if _is_further(*run, folder, workspace, bundle)]
    for name, fold in further:
        _log.info("%s, fold %d: further here than in the bundle; kept", name, fold)
    scratches = {workspace.scratch(bundle.data, *run) for run in further}
    left = [item for item in items if item.target.parent not in scratches]
    # the same index, as data.json says, has other bytes if another version of pandas wrote it
    index = workspace.index(bundle.data)
    left = [item for item in left if item.target != index or not index.exists()]
    return [item for item in left if not _is_own_config(item, bundle)]


def _folds(bundle: Bundle) -> list[tuple[str, int]]:
    """Run and fold of all unfinished folds of a bundle."""
    return [(run.name, fold) for run in bundle.runs for fold in run.begun if fold not in run.finished]


def _is_further(run: str, fold: int, folder: Path, workspace: Workspace, bundle: Bundle) -> bool:
    """Whether an unfinished fold was finished here, or went on here: its metrics begin with the bundle's."""
    if (workspace.fold(bundle.data, run, fold) / MANIFEST).is_file():
        return True
    here, there = workspace.metrics(bundle.data, run, fold), folder / f"runs/{bundle.data}/{run}/fold{fold}"
    if not here.is_file() or not (there / METRICS).is_file():
        return False
    ours, theirs = here.read_bytes(), (there / METRICS).read_bytes()
    return len(ours) > len(theirs) and ours.startswith(theirs)


def _is_own_config(item: _Item, bundle: Bundle) -> bool:
    """Whether it is a file of configs/ that differs here, and is not the data set's own."""
    path, data = item.file.path, bundle.data
    of_data = path in (f"configs/data/{data}.yaml", f"configs/data/{data}_drop.csv")
    if not path.startswith("configs/") or of_data or not item.target.exists():
        return False
    _log.info("%s differs from the bundle's; kept as it is here", item.target)
    return True


def _refuse_other_files(items: Sequence[_Item], folder: Path) -> None:
    if differ := [item for item in items if item.target.exists()]:
        names = ", ".join(str(item.target) for item in differ[:_SHOWN])
        more = f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
        raise BundleError(
            f"{names}{more}: differ from those in {folder}; FORCE=1 takes the bundle's, or restore into "
            "another copy of the project"
        )


def _group(item: _Item, workspace: Workspace, data: str) -> Path:
    """Files that are written together: those of a fold by its lock, others by their folder."""
    is_fold = item.target.parent.name.startswith("fold")
    run, fold = item.target.parts[-3:-1]
    return workspace.runs(data) / run / fold if is_fold else item.target.parent


def _write(place: Path, items: Sequence[_Item], workspace: Workspace, data: str) -> None:
    if not place.name.startswith("fold") or place.parent.parent != workspace.runs(data):
        for item in items:
            _copy(item.source, item.target)
        return
    run, fold = place.parent.name, int(place.name.removeprefix("fold"))
    predictions = workspace.fold(data, run, fold)
    by_name = {item.target.name: item for item in items if item.target.parent == predictions}
    with hold(workspace.lock(data, run, fold), f"{run}, fold {fold}"):
        remove_leftovers(place)
        remove_leftovers(predictions)
        others = [item for item in items if item.target.parent != predictions]
        if any(item.target.name in (LAST, PREVIOUS) for item in others):  # none of another state may stay
            for name in (LAST, PREVIOUS):
                (place / name).unlink(missing_ok=True)
        for item in others:
            _copy(item.source, item.target)
        if by_name:  # the manifest appears last
            bundled = next(iter(by_name.values())).source.parent
            with atomic_paths([predictions / name for name in PREDICTIONS]) as temporaries:
                for name, temporary in zip(PREDICTIONS, temporaries, strict=True):
                    shutil.copyfile(bundled / name, temporary)
    remove_empty(workspace.run_scratch(data, run))


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
