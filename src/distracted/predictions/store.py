"""The OOF store: predictions by run and fold, written whole, read aligned by `img`, and checked.

A fold is a folder with valid.parquet and test.parquet (`img` and a column of natural log-probabilities for
each class) and manifest.json, which is written last.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from distracted.data.competition import Competition, load_competition
from distracted.data.folds import Folds, ensure_folds, feasible_folds, read_folds
from distracted.data.stored_index import keep_index, read_index
from distracted.errors import ConfigError, StoreError
from distracted.files import atomic_paths, remove_empty, remove_leftovers, sha256_file
from distracted.locks import Lock, hold
from distracted.paths import AUDIT, PLAN, REPORT, Workspace
from distracted.predictions._binding import bind_data, bound_hash
from distracted.predictions._fold_reader import PARTS, FoldReader
from distracted.predictions._rows import LogProbs, as_table
from distracted.predictions.kept_scores import KeptScores
from distracted.predictions.manifest import MANIFEST, Kind, Manifest, Parent
from distracted.predictions.placing import other_store
from distracted.predictions.provenance import git_commit, package_versions
from distracted.predictions.run import Run, StoredRun
from distracted.progress import Progress, silent
from distracted.schema import DataConfig, check_name, hash_config, list_differences

_log = logging.getLogger(__name__)

#: Characters of a run's name and its data's together.
MAX_NAMES = 112

#: The command that finishes or repeats a run.
_FINISH: dict[Kind, str] = {
    "model": "`make cv` finishes a run",
    "derived": "the step that made it finishes it (`make status` names the command)",
    "blend": "`make ensemble` makes it again",
}


class Store(FoldReader):
    """The predictions of all runs on one competition and its folds.

    Attributes:
        kept_scores: Pooled scores that were computed before.

    Raises:
        StoreError: on construction, if the data's name is bound to another index.
    """

    def __init__(self, workspace: Workspace, competition: Competition, folds: Folds) -> None:
        bind_data(workspace, competition)
        super().__init__(workspace, competition, folds)
        self.kept_scores = KeptScores(workspace.cache(competition.name) / "scores")
        self._runs = WeakValueDictionary[str, Run]()  # those that somebody still holds: they are large
        self._oofs: dict[str, tuple[tuple[Manifest, ...], LogProbs]] = {}

    def runs(self) -> list[str]:
        """Names of the runs that have a manifest for at least one of the folds."""
        paths = self.workspace.oof(self.competition.name).glob(f"*/fold*/{MANIFEST}")
        names = sorted({path.parent.parent.name for path in paths})
        return [name for name in names if self.finished_folds(name)]  # folds of an older split do not count

    def finished_folds(self, run: str) -> list[int]:
        """Folds of a run that have a manifest."""
        return [fold for fold in range(self.folds.num_folds) if self.path(run, fold).is_file()]

    def find_manifest(self, run: str, fold: int) -> Manifest | None:
        """A fold's manifest; None if it is missing or unreadable."""
        if self.path(run, fold).is_file():
            with suppress(StoreError):
                return self.manifest(run, fold)
        return None

    def check_config(
        self,
        run: str,
        config_hash: str,
        *,
        config: Mapping[str, Any] | None = None,
        redone: Collection[int] = (),
    ) -> None:
        """Refuse to mix configs in a run: all its folds share one hash.

        Args:
            config: What has that hash; to say where a fold's config differs.
            redone: Folds that are about to be replaced, whatever their config.
        """
        self._check_name(run)
        self.check_new(run)
        for fold in self.finished_folds(run):
            if fold not in redone and (manifest := self.manifest(run, fold)).config_hash != config_hash:
                changed = f" ({list_differences(manifest.config, config)})" if config is not None else ""
                raise StoreError(
                    f"{self.path(run, fold).parent} was made with another config{changed}; a run has one "
                    "config over all its folds: set what differs as it was, give this one a name "
                    f"(NAME={run}_2), or redo all of them in one command (FORCE=1)"
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

        All files are written under temporary names first: if the disk is full, the old fold stays. While they
        are renamed, the fold does not exist for a moment.

        Args:
            config: What defines the run, as plain JSON values; the manifest also holds its hash.
            valid: Log-probabilities in the order of `Folds.valid(fold)`, (num_valid, num_classes).
            test: Log-probabilities in the competition's order, (num_test, num_classes).
            facts: Further fields of the manifest: weights, scores, seconds, images_per_second, details.

        Raises:
            StoreError: shapes, a value that is not finite, or a row that does not sum to 1.
        """
        self._check_name(run)
        files = [self.path(run, fold, f"{part}.parquet") for part in PARTS]
        tables = [
            as_table(self.imgs(fold, part), log_probs, self.competition.classes, path)
            for part, log_probs, path in zip(PARTS, (valid, test), files, strict=True)
        ]
        with atomic_paths([*files, self.path(run, fold)]) as paths:
            hashes = []
            for table, temporary in zip(tables, paths, strict=False):
                table.to_parquet(temporary, index=False)
                hashes.append(sha256_file(temporary))  # before the renaming: others may write there, too
            manifest = Manifest(
                kind=kind,
                run=run,
                fold=fold,
                data=self.competition.name,
                config=config,
                config_hash=hash_config(config),
                index_hash=self.competition.index_hash,
                folds_hash=self.folds.hash,
                valid_sha256=hashes[0],
                test_sha256=hashes[1],
                parents=tuple(parents),
                unlisted={part: len(names) for part, names in self.competition.unlisted.items() if names},
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
        """Hold the locks of a run's folds, all by default: no other process writes them meanwhile.

        Temporary files of killed processes are removed.

        Args:
            patience: Seconds to wait for another process's lock.

        Raises:
            LockError: another process holds one; says which.
        """
        check_name(run, "NAME")
        self.check_new(run)
        name = self.competition.name
        with ExitStack() as stack:
            stack.callback(remove_empty, self.workspace.run_scratch(name, run))
            locks = []
            for fold in range(self.folds.num_folds) if folds is None else folds:
                path = self.workspace.lock(name, run, fold)
                locks.append(stack.enter_context(hold(path, f"{run}, fold {fold}", patience=patience)))
                remove_leftovers(self.path(run, fold).parent)
                remove_leftovers(path.parent)
            yield locks

    def kinds(self, run: str) -> set[Kind]:
        """The kinds that a run's readable manifests state; empty if there are none."""
        manifests = (self.find_manifest(run, fold) for fold in range(self.folds.num_folds))
        return {manifest.kind for manifest in manifests if manifest is not None}

    def manifests(self, run: str) -> tuple[Manifest, ...]:
        """The manifests of a run's finished folds.

        Raises:
            StoreError: there is no such run, or as `manifest`.
        """
        self._check_name(run)
        folds = self.finished_folds(run)
        if not folds:
            known = ", ".join(self.runs()) or "none yet"
            raise StoreError(f"there is no run {run!r} on {self.competition.name}; there are: {known}")
        return tuple(self.manifest(run, fold) for fold in folds)

    def find_run(self, run: str, *, partial: bool = False, parts: Sequence[str] = PARTS) -> StoredRun:
        """A run whose files have the hashes in its manifests; its predictions are not read.

        Args:
            partial: Take the finished folds; by default a missing fold is an error.
            parts: The files to check, "valid" or "test"; all by default.

        Raises:
            StoreError: there is no such run; folds are missing or have several configs; a file was edited.
        """
        manifests = self._usable_manifests(run, partial)
        try:
            for manifest in manifests:
                self.check_parts(manifest, parts)
        except StoreError:
            if self._has_changed(*manifests):  # retrained while it was checked
                return self.find_run(run, partial=partial, parts=parts)
            raise
        return StoredRun(run, manifests)

    def read_run(self, run: str, *, partial: bool = False) -> Run:
        """Read a run's predictions, checked and aligned by `img`.

        Returns:
            Read-only arrays, which others may hold, too.

        Raises:
            StoreError: as `find_run`; or an image is missing, duplicate or unknown; a value is not finite; a
                row does not sum to 1.
        """
        manifests = self._usable_manifests(run, partial)
        try:
            if (known := self._runs.get(run)) is not None and known.manifests == manifests:
                for manifest in manifests:
                    self.check_parts(manifest)
                return known
            oof = self.oof(StoredRun(run, manifests)).astype(np.float64)
            parts = [self.log_probs(manifest, "test") for manifest in manifests]
        except StoreError:
            if self._has_changed(*manifests):  # retrained while it was read
                return self.read_run(run, partial=partial)
            raise
        test = np.stack(parts, dtype=np.float64)
        oof.flags.writeable = test.flags.writeable = False
        self._runs[run] = loaded = Run(run, manifests, oof, test)
        return loaded

    def oof(self, run: StoredRun) -> LogProbs:
        """`Run.oof` of exactly these manifests, read-only; it is kept in memory.

        Raises:
            StoreError: as `read_run`, and where the run has changed since its manifests were read.
        """
        manifests, known = self._oofs.get(run.name, ((), None))
        if known is not None and manifests == run.manifests:
            for manifest in manifests:
                self.check_parts(manifest, ("valid",))
            return known
        oof = np.full((len(self.competition.train), self.competition.num_classes), np.nan, dtype=np.float32)
        for manifest in run.manifests:
            oof[self.folds.valid(manifest.fold)] = self.log_probs(manifest, "valid")
        oof.flags.writeable = False
        self._oofs[run.name] = run.manifests, oof
        return oof

    def test_of(self, run: StoredRun, fold: int) -> LogProbs:
        """The test set's predictions by a fold's network, (num_test, num_classes).

        Raises:
            StoreError: as `read_run`, and where the run has changed since its manifests were read.
        """
        manifest = run.manifests[run.folds.index(fold)]
        self.check_files(manifest)
        return self.log_probs(manifest, "test")

    def missing_folds(self, manifests: Sequence[Manifest]) -> str:
        """The folds that a run with these manifests lacks, in words; "" if it has all."""
        missing = sorted(set(range(self.folds.num_folds)) - {manifest.fold for manifest in manifests})
        names = ", ".join(map(str, missing))
        return f"fold {names} of {self.folds.num_folds} is missing" if missing else ""

    def _usable_manifests(self, run: str, partial: bool) -> tuple[Manifest, ...]:
        """The manifests of a run; refuses missing folds, unless `partial`, and several configs."""
        manifests = self.manifests(run)
        finish = _FINISH[manifests[0].kind]
        missing = self.missing_folds(manifests)
        if missing and not partial:
            raise StoreError(f"{run}: {missing}; {finish} (make submit takes PARTIAL=1)")
        if len({manifest.config_hash for manifest in manifests}) > 1:
            first, other = list({manifest.config_hash: manifest for manifest in manifests}.values())[:2]
            changed = list_differences(first.config, other.config)
            raise StoreError(
                f"{run}: its folds were made with different configs ({changed}); {finish}, with FORCE=1"
            )
        return manifests

    def check_new(self, run: str) -> None:
        """Refuse a new run's name that W&B would refuse once the run is done.

        It holds whether or not W&B is on: a run may be sent later. Runs that are there already go on.

        Raises:
            ConfigError: says how much too long it is.
        """
        data = self.competition.name
        over = len(data) + len(run) - MAX_NAMES
        folders = self.workspace.run(data, run), self.workspace.run_scratch(data, run)
        if over > 0 and not any(folder.exists() for folder in folders):
            raise ConfigError(
                f"NAME={run}: {len(run)} characters, with the data's name {data} {len(data) + len(run)}; "
                f"expected at most {MAX_NAMES}, since W&B refuses names above 128 (oof-{data}-<NAME>-fold0); "
                f"leave out {over}"
            )

    def _check_name(self, run: str) -> None:
        check_name(run, "NAME")
        if (path := self.workspace.run(self.competition.name, run)).is_file():
            raise StoreError(f"NAME={run}: {path} is a file of the store; choose another name")
        if run in (AUDIT, REPORT, PLAN):
            raise StoreError(f"NAME={run}: runs/ has another file of that name; choose another name")

    def check_files(self, *manifests: Manifest) -> None:
        """Refuse prediction files that do not have the hashes in their manifests.

        Raises:
            StoreError: one was edited, is gone, or was replaced just now.
        """
        for manifest in manifests:
            try:
                self.check_parts(manifest)
            except StoreError as error:
                if self._has_changed(manifest):
                    raise StoreError(
                        f"{manifest.run}, fold {manifest.fold} was made again just now; repeat the command"
                    ) from error
                raise

    def _has_changed(self, *manifests: Manifest) -> bool:
        """Whether a fold was replaced since its manifest was read."""
        return any(self.find_manifest(manifest.run, manifest.fold) != manifest for manifest in manifests)


def open_store(
    workspace: Workspace,
    data: DataConfig,
    *,
    num_folds: int | None = None,
    images: bool = True,
    progress: Progress = silent,
) -> Store:
    """Read and check the competition, bind its name to the data, and read its folds.

    Args:
        num_folds: Make this many folds if there are none yet; None only reads them.
        images: Whether the images are needed; if not, and their folder is missing, the stored index is used.

    Raises:
        DataError, FoldsError, StoreError: the data, the folds or the name do not fit; says how to fix it.
    """
    index = workspace.index(data.name)
    if images or data.folder.exists() or not index.is_file():
        cache = workspace.digests(data.folder)
        competition = load_competition(data, cache=cache, progress=progress)
    else:
        competition = read_index(index, data, index_hash=bound_hash(workspace, data.name))
        text = "%s: no such folder; no images are needed here, %s is their index"
        _log.info(text, data.folder, index)
    path = workspace.folds(competition.name)
    if num_folds is not None:
        feasible_folds(competition, num_folds)  # first: no name is bound to data that cannot be split
        bind_data(workspace, competition)
        folds = ensure_folds(path, competition, num_folds, progress=progress)
    else:
        folds = read_folds(path, competition)
    store = Store(workspace, competition, folds)
    if competition.has_images:
        with suppress(OSError):  # a read-only store: commands on predictions need the images then
            keep_index(index, competition)
    if other := other_store(workspace, competition.name, competition.index_hash):
        there = workspace.oof(other)
        _log.info("%s holds predictions of the same data; DATA=%s/ uses them", there, data.folder)
    return store
