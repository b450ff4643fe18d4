"""The OOF store: predictions by run and fold, written whole, read aligned by `img`, refused when anything
differs.

A fold is a folder with valid.parquet, test.parquet (`img` and a column a class of natural log-probabilities)
and manifest.json, which is written last.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from distracted.data.competition import Competition, load_competition
from distracted.data.folds import Folds, ensure_folds, feasible_folds, read_folds
from distracted.errors import StoreError, first_line
from distracted.files import atomic_paths, remove_empty, remove_leftovers, sha256_bytes, sha256_file
from distracted.locks import Lock, hold
from distracted.paths import AUDIT, REPORT, Workspace
from distracted.predictions._binding import bind_data
from distracted.predictions._file_memory import FileMemory, read_bytes
from distracted.predictions._rows import as_table, read_rows
from distracted.predictions.manifest import Kind, Manifest, Parent
from distracted.predictions.provenance import git_commit, package_versions
from distracted.predictions.run import Run
from distracted.progress import Progress, silent
from distracted.schema import DataConfig, check_name, hash_config

MANIFEST = "manifest.json"

#: What finishes a run, or makes it anew.
_FINISH: dict[Kind, str] = {
    "model": "`make cv` finishes a run",
    "derived": "the step that made it finishes it (`make status` names the command)",
    "blend": "`make ensemble` makes it anew",
}


class Store:
    """The predictions of all runs on one competition and its folds.

    Raises:
        StoreError: on construction, where the data's name is bound to another index.
    """

    def __init__(self, workspace: Workspace, competition: Competition, folds: Folds) -> None:
        bind_data(workspace, competition)
        self.workspace = workspace
        self.competition = competition
        self.folds = folds
        self._manifests = FileMemory[Manifest]()  # read and checked
        self._hashes = FileMemory[str]()  # of prediction files
        self._valid = FileMemory[bytes]()  # small files, which are often checked first and parsed later
        self._runs = WeakValueDictionary[str, Run]()  # as long as somebody holds them: they are large

    def runs(self) -> list[str]:
        """Names of the runs that have a manifest for at least one of the folds."""
        names = list_runs(self.workspace, self.competition.name)
        return [name for name in names if self.finished_folds(name)]  # a fold number may be of an older split

    def finished_folds(self, run: str) -> list[int]:
        """Folds of a run that have a manifest."""
        return [fold for fold in range(self.folds.num_folds) if self._path(run, fold).is_file()]

    def manifest(self, run: str, fold: int) -> Manifest:
        """Read and check a fold's manifest.

        Raises:
            StoreError: missing, not a manifest, or of other data or folds.
        """
        path = self._path(run, fold)
        if (known := self._manifests.get(path)) is not None:
            return known
        try:
            content, identity = read_bytes(path)
            manifest = Manifest.model_validate_json(content)
        except FileNotFoundError:
            raise StoreError(
                f"{path}: no such prediction; `make train FOLD={fold} MODEL={run}` makes it"
            ) from None
        except (ValidationError, UnicodeDecodeError) as error:
            raise StoreError(f"{path}: not a manifest ({first_line(error)}); {_redo(run)}") from error
        expected = {"run": run, "fold": fold, "data": self.competition.name}
        for key, value in expected.items():
            if getattr(manifest, key) != value:
                raise StoreError(
                    f"{path}: {key} is {getattr(manifest, key)!r}, expected {value!r}; {_redo(run)}"
                )
        if _hash_or_none(manifest.config) != manifest.config_hash:
            raise StoreError(
                f"{path}: its config is not the one that its hash stands for (edited); {_redo(run)}"
            )
        if manifest.index_hash != self.competition.index_hash:
            raise StoreError(
                f"{path}: made from other data than {self.competition.config.folder}; {_redo(run)}"
            )
        if manifest.folds_hash != self.folds.hash:
            raise StoreError(f"{path}: made with other folds than folds.csv; {_redo(run)}")
        self._manifests.put(path, identity, manifest)
        return manifest

    def find_manifest(self, run: str, fold: int) -> Manifest | None:
        """A fold's manifest; None where there is none that can be read."""
        if self._path(run, fold).is_file():
            with suppress(StoreError):
                return self.manifest(run, fold)
        return None

    def check_config(self, run: str, config_hash: str, *, redone: Collection[int] = ()) -> None:
        """Refuse to mix configs in a run: all its folds share one hash.

        Args:
            redone: Folds that are about to be made anew, whatever is there.
        """
        self._check_name(run)
        for fold in self.finished_folds(run):
            if fold not in redone and self.manifest(run, fold).config_hash != config_hash:
                raise StoreError(
                    f"{self._path(run, fold).parent} was made with another config; a run has one config over "
                    f"all its folds: give this one a name (NAME={run}_2), or redo all of them in one command "
                    "(FORCE=1)"
                )

    def write_fold(
        self,
        run: str,
        fold: int,
        *,
        kind: Kind,
        config: dict[str, Any],
        valid: NDArray[np.floating[Any]],
        test: NDArray[np.floating[Any]],
        parents: Sequence[Parent] = (),
        **facts: Any,
    ) -> Manifest:
        """Write a fold's predictions, the manifest last.

        All is written under other names first: a full disk leaves what was there. While they are renamed, for
        a moment, the fold does not exist.

        Args:
            config: What the run is, as plain JSON values; its hash is kept beside it.
            valid: Log-probabilities in the order of `Folds.valid(fold)`, (num_valid, num_classes).
            test: Log-probabilities in the competition's order, (num_test, num_classes).
            facts: Further fields of the manifest: weights, scores, seconds, images_per_second, details.

        Raises:
            StoreError: shapes, a value that is not finite, or a row that does not sum to 1.
        """
        self._check_name(run)
        folder = self._path(run, fold).parent
        imgs, classes = self._imgs(fold), self.competition.classes
        tables = {
            part: as_table(imgs[part], log_probs, classes, folder / f"{part}.parquet")
            for part, log_probs in (("valid", valid), ("test", test))
        }
        with atomic_paths([*(folder / f"{name}.parquet" for name in tables), self._path(run, fold)]) as paths:
            hashes = {}
            for (name, table), temporary in zip(tables.items(), paths, strict=False):
                table.to_parquet(temporary, index=False)
                hashes[name] = sha256_file(temporary)  # of what was written, whoever else writes there now
            manifest = Manifest(
                kind=kind,
                run=run,
                fold=fold,
                data=self.competition.name,
                config=config,
                config_hash=hash_config(config),
                index_hash=self.competition.index_hash,
                folds_hash=self.folds.hash,
                valid_sha256=hashes["valid"],
                test_sha256=hashes["test"],
                parents=tuple(parents),
                git_commit=git_commit(),
                packages=package_versions(),
                written=datetime.now(UTC).isoformat(timespec="seconds"),
                **facts,
            )
            paths[-1].write_text(manifest.model_dump_json(indent=2) + "\n")
        return manifest

    @contextmanager
    def hold(
        self, run: str, folds: Iterable[int] | None = None, *, patience: float = 0.0
    ) -> Iterator[list[Lock]]:
        """Hold the locks of some folds of a run, or of all: nobody else writes them meanwhile.

        What killed processes left half-written there is removed.

        Args:
            patience: Seconds to wait for another that holds one.

        Raises:
            LockError: another process holds one; says which.
        """
        check_name(run, "NAME")
        name = self.competition.name
        with ExitStack() as stack:
            stack.callback(remove_empty, self.workspace.run_scratch(name, run))
            locks = []
            for fold in range(self.folds.num_folds) if folds is None else folds:
                path = self.workspace.lock(name, run, fold)
                locks.append(stack.enter_context(hold(path, f"{run}, fold {fold}", patience=patience)))
                remove_leftovers(self._path(run, fold).parent)
                remove_leftovers(path.parent)
            yield locks

    def has_one_config(self, run: str) -> bool:
        """Whether all of a run's folds are of one config; not so while it is made anew with another."""
        return len({self.manifest(run, fold).config_hash for fold in self.finished_folds(run)}) == 1

    def kinds(self, run: str) -> set[Kind]:
        """What a run's folds are, as far as their manifests can be read; empty where there is none."""
        found = (self.find_manifest(run, fold) for fold in range(self.folds.num_folds))
        return {manifest.kind for manifest in found if manifest is not None}

    def manifests(self, run: str) -> tuple[Manifest, ...]:
        """Those of a run's finished folds.

        Raises:
            StoreError: there is no such run, or as `manifest`.
        """
        self._check_name(run)
        there = self.finished_folds(run)
        if not there:
            known = ", ".join(self.runs()) or "none yet"
            raise StoreError(f"there is no run {run!r} on {self.competition.name}; there are: {known}")
        return tuple(self.manifest(run, fold) for fold in there)

    def read_run(self, run: str, *, partial: bool = False) -> Run:
        """Read a run's predictions, checked and aligned by `img`.

        Args:
            partial: Take the folds that are there; otherwise a missing fold is an error.

        Raises:
            StoreError: there is no such run; folds are missing or of several configs; a file was edited; an
                image is missing, double or unknown; a value is not finite; a row does not sum to 1.
        """
        manifests = self._usable_manifests(run, partial)
        try:
            if (known := self._runs.get(run)) is not None and known.manifests == manifests:
                self._check_parts(*manifests)
                return known
            oof = self._read_valid(manifests)
            test = np.stack([self._read(manifest, "test") for manifest in manifests])
        except StoreError:
            if self._has_changed(*manifests):  # retrained while it was read
                return self.read_run(run, partial=partial)
            raise
        oof.flags.writeable = test.flags.writeable = False  # others may be given the same arrays
        folds = tuple(manifest.fold for manifest in manifests)
        self._runs[run] = loaded = Run(run, oof, test, folds, manifests)
        return loaded

    def read_oof(self, run: str, *, partial: bool = False) -> NDArray[np.float64]:
        """`Run.oof` alone, without a look at the test predictions.

        Raises:
            StoreError: as `read_run`.
        """
        manifests = self._usable_manifests(run, partial)
        try:
            return self._read_valid(manifests)
        except StoreError:
            if self._has_changed(*manifests):
                return self.read_oof(run, partial=partial)
            raise

    def _usable_manifests(self, run: str, partial: bool) -> tuple[Manifest, ...]:
        """The manifests of a run whose folds belong together; raises StoreError otherwise."""
        manifests = self.manifests(run)
        finish = _FINISH[manifests[0].kind]
        missing = sorted(set(range(self.folds.num_folds)) - {manifest.fold for manifest in manifests})
        if missing and not partial:
            names = ", ".join(map(str, missing))
            raise StoreError(
                f"{run}: fold {names} of {self.folds.num_folds} is missing; {finish} (make submit takes "
                "PARTIAL=1)"
            )
        if len({manifest.config_hash for manifest in manifests}) > 1:
            raise StoreError(f"{run}: its folds were made with different configs; {finish}, with FORCE=1")
        return manifests

    def _read_valid(self, manifests: Sequence[Manifest]) -> NDArray[np.float64]:
        oof = np.full((len(self.competition.train), self.competition.num_classes), np.nan)
        for manifest in manifests:
            oof[self.folds.valid(manifest.fold)] = self._read(manifest, "valid")
        return oof

    def _check_name(self, run: str) -> None:
        check_name(run, "NAME")
        if (path := self.workspace.run(self.competition.name, run)).is_file():
            raise StoreError(f"NAME={run}: {path} is a file of the store; choose another name")
        if run in (AUDIT, REPORT):
            raise StoreError(f"NAME={run}: runs/ has something else of that name; choose another name")

    def _path(self, run: str, fold: int) -> Path:
        return self.workspace.fold(self.competition.name, run, fold) / MANIFEST

    def check_files(self, *manifests: Manifest) -> None:
        """Refuse prediction files that are not those that their manifests describe.

        Raises:
            StoreError: one was edited, is gone, or was replaced just now.
        """
        for manifest in manifests:
            try:
                self._check_parts(manifest)
            except StoreError as error:
                if self._has_changed(manifest):
                    raise StoreError(
                        f"{manifest.run}, fold {manifest.fold} was made again just now; repeat the command"
                    ) from error
                raise

    def _check_parts(self, *manifests: Manifest) -> None:
        for manifest in manifests:
            for part in ("valid", "test"):
                if self._hashes.get(self._part(manifest, part)) != getattr(manifest, f"{part}_sha256"):
                    self._bytes(manifest, part)

    def _has_changed(self, *manifests: Manifest) -> bool:
        """Whether a fold is not the one any more that its manifest was read of."""
        return any(self.find_manifest(manifest.run, manifest.fold) != manifest for manifest in manifests)

    def _part(self, manifest: Manifest, part: str) -> Path:
        return self._path(manifest.run, manifest.fold).with_name(f"{part}.parquet")

    def _bytes(self, manifest: Manifest, part: str) -> tuple[Path, bytes]:
        """A prediction file: the very bytes that its manifest describes."""
        path, redo = self._part(manifest, part), _redo(manifest.run)
        expected = getattr(manifest, f"{part}_sha256")
        if (kept := self._valid.get(path)) is not None and self._hashes.get(path) == expected:
            return path, kept
        try:
            content, identity = read_bytes(path)
        except FileNotFoundError:
            raise StoreError(f"{path}: no such file; {redo}") from None
        if self._hashes.get(path, identity) != expected:
            if sha256_bytes(content) != expected:
                raise StoreError(
                    f"{path}: not the file that its manifest describes (edited or damaged); {redo}"
                )
            self._hashes.put(path, identity, expected)
        if part == "valid":
            self._valid.put(path, identity, content)
        return path, content

    def _read(self, manifest: Manifest, part: str) -> NDArray[np.float64]:
        path, content = self._bytes(manifest, part)
        imgs, classes = self._imgs(manifest.fold)[part], self.competition.classes
        return read_rows(content, imgs, classes, path, _redo(manifest.run))

    def _imgs(self, fold: int) -> dict[str, NDArray[Any]]:
        """Names of the images of each part of a fold, in the order of its rows."""
        train, test = (part["img"].to_numpy() for part in (self.competition.train, self.competition.test))
        return {"valid": train[self.folds.valid(fold)], "test": test}


def open_store(
    workspace: Workspace, data: DataConfig, *, num_folds: int | None = None, progress: Progress = silent
) -> Store:
    """Read and check the competition, bind its name, and take its folds.

    Args:
        num_folds: Make so many folds where there are none yet; None only reads them.

    Raises:
        DataError, FoldsError, StoreError: what does not fit, where, and the way out.
    """
    competition = load_competition(data, cache=workspace.cache(data.name), progress=progress)
    path = workspace.folds(competition.name)
    if num_folds is not None:
        feasible_folds(competition, num_folds)  # nothing is bound to data that cannot be split
        bind_data(workspace, competition)
        folds = ensure_folds(path, competition, num_folds)
    else:
        folds = read_folds(path, competition)
    return Store(workspace, competition, folds)


def list_runs(workspace: Workspace, data: str) -> list[str]:
    """Names of the runs on a data set that have at least one fold's manifest."""
    return sorted({path.parent.parent.name for path in workspace.oof(data).glob(f"*/fold*/{MANIFEST}")})


def _hash_or_none(config: dict[str, Any]) -> str | None:
    """None where it holds an infinite number, of which no hash is made."""
    try:
        return hash_config(config)
    except ValueError:
        return None


def _redo(run: str) -> str:
    return f"restore it, or make {run} anew with FORCE=1"
