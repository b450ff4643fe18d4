"""`make status`: what is done, running, failed, missing and stale, and what to do next."""

from dataclasses import dataclass
from typing import Literal

from distracted.errors import StoreError
from distracted.metrics import scores
from distracted.postprocess.steps import command_for
from distracted.predictions.job_state import JobState, read_job_state, redo_of
from distracted.predictions.lineage import check_parents
from distracted.predictions.manifest import Manifest
from distracted.predictions.store import Store
from distracted.report.curves import read_curves
from distracted.submission.submit import is_submitted


@dataclass(frozen=True)
class FoldStatus:
    """One fold of one run.

    Attributes:
        state: `stopped` goes on from its checkpoint; anew: done, and being trained once more.
        score: Log loss of a fold that is done (NaN where its manifest has none).
        share: Of its epochs that a fold which is not done has behind it.
        reason: Why it failed, or was stopped.
        redo: Of one that is done: how the training that is to replace it ended, or "" where there is none.
    """

    state: Literal["done", "running", "failed", "stopped", "missing"]
    score: float | None = None
    share: float = 0.0
    reason: str = ""
    anew: bool = False
    redo: str = ""


@dataclass(frozen=True)
class RunStatus:
    """One run's state.

    Attributes:
        kind: model, derived or blend; "?" where its manifests cannot be read.
        weights: Where they come from.
        folds: By number, all of them.
        pooled: OOF scores over all rows by name (cross-fitted for a blend), empty where folds are missing.
        stale: What it was made of that has changed since, or "".
        problem: Why the run cannot be used, or "".
        written: When its last fold was, UTC, ISO 8601.
        parents: Runs that it was made of; made_by: the command that makes it of them.
    """

    run: str
    kind: str
    weights: str
    leaky: bool
    folds: tuple[FoldStatus, ...]
    pooled: dict[str, float]
    seconds: float
    stale: str = ""
    problem: str = ""
    written: str = ""
    parents: tuple[str, ...] = ()
    made_by: str = ""

    @property
    def is_complete(self) -> bool:
        """All folds are there, and nothing speaks against them."""
        return not self.problem and all(fold.state == "done" for fold in self.folds)

    @property
    def is_trained_now(self) -> bool:
        """Some process works on it."""
        return any(fold.state == "running" or fold.anew for fold in self.folds)

    @property
    def is_current(self) -> bool:
        """Complete, and what it was made of is as it was."""
        return self.is_complete and not self.stale


def run_statuses(store: Store) -> list[RunStatus]:
    """The state of every run in the store, and of those that are trained for the first time."""
    return [_status(store, run) for run in sorted({*store.runs(), *_begun(store)})]


def _begun(store: Store) -> set[str]:
    """Runs with a fold that was begun and is not done: those whose predictions were removed are gone."""
    paths = store.workspace.jobs(store.competition.name)
    states = {path: read_job_state(path.parent) for path in paths}
    return {path.parents[1].name for path, job in states.items() if job is not None and job.state != "done"}


def best_blend(statuses: list[RunStatus]) -> RunStatus | None:
    """The current blend with the lowest cross-fitted log loss."""
    blends = [s for s in statuses if s.kind == "blend" and s.is_current and not s.leaky]
    return min(blends, key=lambda status: status.pooled["log_loss"], default=None)


def next_steps(store: Store, statuses: list[RunStatus]) -> list[str]:
    """What to run next, each with why, the most urgent first; nothing where all is done."""
    if not statuses:
        return ["make cv MODEL=resnet50: there are no runs yet"]
    steps = []
    for status in sorted(statuses, key=lambda status: _depth(status, statuses)):  # parents first
        open_folds = [n for n, f in enumerate(status.folds) if f.state in ("failed", "stopped", "missing")]
        names = ", ".join(map(str, open_folds))
        if status.is_trained_now:
            steps.append(f"wait: {status.run} is being trained")
        elif status.problem:
            steps.append(f"mend {status.run}: {status.problem}")
        elif status.stale and status.made_by:
            steps.append(f"{status.made_by}: {status.stale}")
        elif open_folds and status.kind in ("model", "?"):
            steps.append(f"make cv for {status.run}, as it was begun: fold {names} to do")
        elif open_folds:
            steps.append(f"{status.made_by}: fold {names} of {status.run} to do")
        begun = [number for number, fold in enumerate(status.folds) if fold.redo]
        if begun and not status.is_trained_now:
            marks = store.workspace.redo(store.competition.name, status.run, begun[0])
            steps.append(
                f"make cv for {status.run} without FORCE=1: fold {', '.join(map(str, begun))} is to be made "
                f"anew (or remove {marks} and its kin, to keep what is there)"
            )
    blended = {name for s in statuses if s.kind == "blend" and s.is_current for name in s.parents}
    waiting = [s.run for s in statuses if s.kind != "blend" and s.is_current and not s.leaky]
    anew = any(status.kind == "blend" and (status.stale or status.problem) for status in statuses)
    if (left := [run for run in waiting if run not in blended]) and not anew:
        steps.append(f"make ensemble: no blend holds {', '.join(left)}")
    best = best_blend(statuses)
    if best is not None and not is_submitted(store, best.run):
        steps.append(f"make submit NAME={best.run}: no submission holds it as it is")
    return steps


def _depth(status: RunStatus, statuses: list[RunStatus]) -> int:
    """How many steps lie between a run and the trainings that it is made of."""
    parents = [other for other in statuses if other.run in status.parents]
    return 1 + max((_depth(parent, statuses) for parent in parents), default=0)


def _made_by(manifest: Manifest) -> str:
    """The command that makes a derived run or a blend."""
    return f"make ensemble NAME={manifest.run}" if manifest.kind == "blend" else command_for(manifest)


def pooled_scores(store: Store, run: str) -> dict[str, float]:
    """OOF scores of a finished run over all rows (cross-fitted for a blend), as `metrics.scores`.

    Raises:
        StoreError: as `Store.read_run`.
    """
    scored = store.folds.scored
    return scores(store.read_run(run).oof[scored], store.folds.labels[scored])


def _status(store: Store, run: str) -> RunStatus:
    done = store.finished_folds(run)
    every = range(store.folds.num_folds)
    stale = ""
    try:
        manifests = {fold: store.manifest(run, fold) for fold in done}
        changes = len(done) == len(every) and not store.has_one_config(run) and _is_redone(store, run)
        pooled = pooled_scores(store, run) if len(done) == len(every) and not changes else {}
    except StoreError as error:
        folds = tuple(FoldStatus("missing") for _ in every)
        return RunStatus(run, "?", "", False, folds, {}, 0.0, problem=str(error))
    folds = tuple(fold_status(store, run, fold, manifests.get(fold)) for fold in every)
    if not manifests:
        return RunStatus(run, "model", "", False, folds, {}, 0.0)
    try:
        check_parents(store, run)
    except StoreError as error:
        stale = str(error)
    first = next(iter(manifests.values()))
    if changes:
        stale = f"{run}: its folds are being made anew with another config"
    return RunStatus(
        run=run,
        kind=first.kind,
        weights=first.weights.get("origin", ""),
        leaky=first.leaky,
        folds=folds,
        pooled=pooled,
        seconds=sum(manifest.seconds for manifest in manifests.values()),
        stale=stale,
        written=max(manifest.written for manifest in manifests.values()),
        parents=tuple(parent.run for parent in first.parents),
        made_by=_made_by(first) if first.kind != "model" else "",
    )


def fold_status(store: Store, run: str, fold: int, manifest: Manifest | None) -> FoldStatus:
    """The state of one fold, by its manifest (None: it has none) and what its training says of itself."""
    name = store.competition.name
    scratch = store.workspace.scratch(name, run, fold)
    job = read_job_state(scratch)
    if manifest is not None:
        score = manifest.scores.get("valid/log_loss", float("nan"))
        if job is not None and job.is_alive:
            return FoldStatus("done", score, _share(store, run, fold, job), anew=True)
        if redo_of(scratch) is None:
            return FoldStatus("done", score)
        if job is None or job.state == "done":
            return FoldStatus("done", score, redo="not begun")
        return FoldStatus("done", score, _share(store, run, fold, job), redo=job.state)
    if job is None or job.state == "done":  # done, and its predictions were removed
        return FoldStatus("missing")
    return FoldStatus(job.state, share=_share(store, run, fold, job), reason=job.error)


def _is_redone(store: Store, run: str) -> bool:
    name, folds = store.competition.name, range(store.folds.num_folds)
    return any(redo_of(store.workspace.scratch(name, run, fold)) is not None for fold in folds)


def _share(store: Store, run: str, fold: int, job: JobState) -> float:
    steps = read_curves(store.workspace.metrics(store.competition.name, run, fold), fold).steps
    behind = steps[-1].get("train/epoch", 0.0) if steps else 0.0
    return min(1.0, behind / job.epochs) if job.epochs else 0.0
