"""`make status`: which folds are done, running, failed or missing, which runs are stale, what to do next."""

from dataclasses import dataclass
from typing import Literal

from distracted.ensemble.blend import blend_command
from distracted.paths import JOB
from distracted.postprocess.steps import command_for
from distracted.predictions.catalogue import Catalogue, Entry
from distracted.predictions.job_state import JobState, read_job_state, redo_of
from distracted.predictions.manifest import Manifest
from distracted.predictions.store import Store
from distracted.report.curves import read_curves
from distracted.submission.submit import is_submitted


@dataclass(frozen=True)
class FoldStatus:
    """One fold of one run.

    Attributes:
        state: A `stopped` fold goes on from its checkpoint.
        score: Log loss of a finished fold; NaN if its manifest has none.
        share: Fraction of epochs completed by an unfinished fold.
        reason: Why it failed, or was stopped.
        retraining: Whether a finished fold is being retrained.
        redo: For a finished fold that is marked to be retrained: how far the retraining is; else "".
    """

    state: Literal["done", "running", "failed", "stopped", "missing"]
    score: float | None = None
    share: float = 0.0
    reason: str = ""
    retraining: bool = False
    redo: str = ""


@dataclass(frozen=True, eq=False)
class RunStatus:
    """One run's state: what the catalogue knows, and its folds by number."""

    entry: Entry
    folds: tuple[FoldStatus, ...]

    @property
    def is_trained_now(self) -> bool:
        """Whether a process is training one of its folds."""
        return any(fold.state == "running" or fold.retraining for fold in self.folds)

    @property
    def left_by(self) -> str:
        """The command that tried it and left it unfinished; "" if none did."""
        if self.is_trained_now or all(fold.state == "done" for fold in self.folds):
            return ""
        return self.entry.tried_by

    @property
    def made_by(self) -> str:
        """The command that makes a derived run or a blend; "" for a trained run."""
        if self.entry.kind == "blend":
            return blend_command(self.entry.store, self.entry.name)
        return command_for(self.entry.manifests[0]) if self.entry.kind == "derived" else ""


def run_statuses(catalogue: Catalogue) -> list[RunStatus]:
    """The state of every run in the store, and of those that are trained for the first time."""
    store = catalogue.store
    return [_status(store, catalogue.entry(name)) for name in sorted({*store.runs(), *_begun(store)})]


def _begun(store: Store) -> set[str]:
    """Runs with a fold that was begun and is not done; not those whose predictions were removed."""
    paths = store.workspace.in_each_fold(store.competition.name, JOB)
    states = {path: read_job_state(path.parent) for path in paths}
    return {path.parents[1].name for path, job in states.items() if job is not None and job.state != "done"}


def next_steps(catalogue: Catalogue, statuses: list[RunStatus]) -> list[str]:
    """What to run next, each with its reason, most urgent first; empty if all is done."""
    if not statuses:
        return ["make cv MODEL=resnet50: there are no runs yet"]
    store, steps = catalogue.store, []
    for status in sorted(statuses, key=lambda status: catalogue.depth(status.entry.name)):  # parents first
        entry = status.entry
        open_folds = [n for n, f in enumerate(status.folds) if f.state in ("failed", "stopped", "missing")]
        names = ", ".join(map(str, open_folds))
        if status.is_trained_now:
            steps.append(f"wait: {entry.name} is being trained")
        elif status.left_by:
            continue
        elif entry.problem:
            steps.append(f"fix {entry.name}: {entry.problem}")
        elif entry.stale and status.made_by:
            steps.append(f"{status.made_by}: {entry.stale}")
        elif open_folds and entry.kind in ("model", "?"):
            steps.append(f"make cv for {entry.name}, as it was begun: fold {names} to do")
        elif open_folds:
            steps.append(f"{status.made_by}: fold {names} of {entry.name} to do")
        begun = [number for number, fold in enumerate(status.folds) if fold.redo]
        if begun and not status.is_trained_now:
            marks = store.workspace.redo(store.competition.name, entry.name, begun[0])
            names = ", ".join(map(str, begun))
            steps.append(
                f"make cv for {entry.name} without FORCE=1: fold {names} is marked to be retrained (to keep "
                f"its predictions, remove {marks} of each fold)"
            )
    entries = [status.entry for status in statuses]
    blends = [entry for entry in entries if entry.kind == "blend"]
    blended = {name for blend in blends if blend.is_current for name in blend.parents}
    others = [entry for entry in entries if entry.kind != "blend" and not entry.tried_by]
    current = [entry for entry in others if entry.is_current and not entry.leaky]
    left = [entry.name for entry in current if entry.name not in blended]
    if left and not any(blend.stale or blend.problem for blend in blends):
        steps.append(f"make ensemble: no blend holds {', '.join(left)}")
    meant = catalogue.meant_blend
    if meant is not None and not is_submitted(store, meant.run):
        steps.append(f"make submit NAME={meant.run}: its predictions are not submitted yet")
    return steps


def pooled_scores(store: Store, run: str) -> dict[str, float]:
    """OOF scores of a finished run over all rows (cross-fitted for a blend), as `Competition.scores`.

    Raises:
        StoreError: as `Store.read_run`.
    """
    scored = store.folds.scored
    return store.competition.scores(store.read_run(run).oof[scored], store.folds.labels[scored])


def _status(store: Store, entry: Entry) -> RunStatus:
    manifests = {manifest.fold: manifest for manifest in entry.manifests}
    numbers = range(store.folds.num_folds)
    return RunStatus(entry, tuple(fold_status(store, entry.name, n, manifests.get(n)) for n in numbers))


def fold_status(store: Store, run: str, fold: int, manifest: Manifest | None) -> FoldStatus:
    """The state of one fold, by its manifest (None: it has none) and what its training says of itself."""
    scratch = store.scratch(run, fold)
    job = read_job_state(scratch)
    if manifest is not None:
        score = manifest.scores.get("valid/log_loss", float("nan"))
        if job is not None and job.is_alive:
            return FoldStatus("done", score, _share(store, run, fold, job), retraining=True)
        if redo_of(scratch) is None:
            return FoldStatus("done", score)
        if job is None or job.state == "done":
            return FoldStatus("done", score, redo="not begun")
        return FoldStatus("done", score, _share(store, run, fold, job), redo=job.state)
    if job is None or job.state == "done":  # done, and its predictions were removed
        return FoldStatus("missing")
    return FoldStatus(job.state, share=_share(store, run, fold, job), reason=job.error)


def _share(store: Store, run: str, fold: int, job: JobState) -> float:
    steps = read_curves(store.workspace.metrics(store.competition.name, run, fold), fold).steps
    behind = steps[-1].get("train/epoch", 0.0) if steps else 0.0
    return min(1.0, behind / job.epochs) if job.epochs else 0.0
