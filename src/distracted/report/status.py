"""`make status`: what is done and what is missing."""

from dataclasses import dataclass

from distracted.errors import StoreError
from distracted.metrics import scores
from distracted.predictions.store import Store


@dataclass(frozen=True)
class RunStatus:
    """One run's state.

    Attributes:
        folds: Log loss of each fold that is done, by fold (NaN where its manifest has none); missing: the
            others.
        pooled: OOF scores over all rows by name (cross-fitted for a blend), empty where folds are missing.
        problem: Why the run cannot be used, or "".
    """

    run: str
    kind: str
    weights: str
    folds: dict[int, float]
    missing: tuple[int, ...]
    pooled: dict[str, float]
    seconds: float
    problem: str = ""


def run_statuses(store: Store) -> list[RunStatus]:
    """The state of every run in the store."""
    return [_status(store, run) for run in store.runs()]


def pooled_scores(store: Store, run: str) -> dict[str, float]:
    """OOF scores of a finished run over all rows (cross-fitted for a blend), as `metrics.scores`.

    Raises:
        StoreError: as `Store.read_run`.
    """
    scored = store.folds.scored
    return scores(store.read_run(run).oof[scored], store.folds.labels[scored])


def _status(store: Store, run: str) -> RunStatus:
    done = store.finished_folds(run)
    missing = tuple(fold for fold in range(store.folds.num_folds) if fold not in done)
    try:
        manifests = [store.manifest(run, fold) for fold in done]
        pooled = {} if missing else pooled_scores(store, run)
    except StoreError as error:
        return RunStatus(run, "?", "", {}, missing, {}, 0.0, str(error))
    return RunStatus(
        run=run,
        kind=manifests[0].kind + ", leaky" * manifests[0].leaky,
        weights=manifests[0].weights.get("origin", ""),
        folds={manifest.fold: manifest.scores.get("valid/log_loss", float("nan")) for manifest in manifests},
        missing=missing,
        pooled=pooled,
        seconds=sum(manifest.seconds for manifest in manifests),
    )
