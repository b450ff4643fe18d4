"""What is known of runs: scores of finished folds and of short fits, from the store and the folds' files."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distracted.compete.candidates import Candidate
from distracted.compete.value import Evidence, Trial
from distracted.metrics import CLIP
from distracted.predictions.store import Store
from distracted.report.curves import read_curves
from distracted.report.status import fold_status

_MOST_PAIRED = 10  # finished runs, the last ones, whose pairs are compared


class Results(Protocol):
    """What a campaign asks about its runs."""

    def evidence(
        self, hidden: Collection[int], chosen: Sequence[Candidate], tried: Mapping[Candidate, int]
    ) -> Evidence:
        """What is known without the labels of some folds.

        Args:
            chosen: Runs whose scores count.
            tried: Runs of which short fits count, up to so many epochs.
        """
        ...

    def finished_folds(self, run: str) -> Sequence[int]:
        """Folds of a run that are stored."""
        ...

    def share(self, run: str, fold: int) -> float:
        """The share of an unfinished fold's epochs that are done."""
        ...

    def epochs_scored(self, run: str, fold: int) -> int:
        """The last epoch of an unfinished fold after which its held-out rows were scored; 0: none."""
        ...

    def loss(self, run: str) -> float:
        """Pooled log loss of a finished run; for readers, not to plan by."""
        ...

    def seconds(self, run: str) -> float:
        """Seconds that a finished run took, all folds together."""
        ...


@dataclass(frozen=True, eq=False)
class StoredScores:
    """What runs scored in a store, and how far they are."""

    store: Store

    def finished_folds(self, run: str) -> Sequence[int]:
        return self.store.finished_folds(run)

    def share(self, run: str, fold: int) -> float:
        return fold_status(self.store, run, fold, None).share

    def epochs_scored(self, run: str, fold: int) -> int:
        trial = self._short_fit(run, fold)
        return trial.epochs if trial else 0

    def loss_after(self, run: str, folds: Sequence[int], epochs: int | None) -> float | None:
        """The log loss of some held-out folds together after some epochs, or of finished folds.

        A finished fold that was not scored after these epochs counts with its own score.
        """
        finished, losses = self._losses(run), dict[int, float]()
        for fold in folds:
            loss = None if epochs is None else self._loss_at(run, fold, epochs)
            loss = finished.get(fold) if loss is None else loss
            if loss is None:
                return None
            losses[fold] = loss
        return self._mean(losses, ())

    def loss(self, run: str) -> float:
        return self._mean(self._losses(run), ())

    def seconds(self, run: str) -> float:
        return sum(manifest.seconds for manifest in self.store.manifests(run))

    def _losses(self, run: str) -> Mapping[int, float]:
        """Log loss by finished fold."""
        manifests = {fold: self.store.find_manifest(run, fold) for fold in self.store.finished_folds(run)}
        scores = {
            fold: one.scores.get("valid/log_loss") for fold, one in manifests.items() if one is not None
        }
        return {fold: score for fold, score in scores.items() if score is not None}

    def _mean(self, losses: Mapping[int, float], hidden: Collection[int]) -> float:
        folds = [fold for fold in losses if fold not in hidden]
        counts = [len(self.store.folds.valid(fold)) for fold in folds]
        return float(np.average([losses[fold] for fold in folds], weights=counts))

    def _loss_at(self, run: str, fold: int, epochs: int) -> float | None:
        trial = self._short_fit(run, fold, epochs)
        return trial.loss if trial is not None and trial.epochs == epochs else None

    def _short_fit(self, run: str, fold: int, epochs: int | None = None) -> Trial | None:
        """The last epoch, of some first ones, after which a fold's held-out rows were scored."""
        metrics = self.store.workspace.metrics(self.store.competition.name, run, fold)
        curves = read_curves(metrics, fold).epochs
        scored = [(e.number, e.valid) for e in curves if e.number and e.valid is not None]
        scored = [one for one in scored if epochs is None or one[0] <= epochs]
        return Trial(run, fold, *scored[-1]) if scored else None


@dataclass(frozen=True, eq=False)
class StoredResults(StoredScores):
    """Results in a store.

    Attributes:
        probes: The probes' scores without some folds, from screening.
    """

    probes: Callable[[Collection[int]], Evidence]

    def evidence(
        self, hidden: Collection[int], chosen: Sequence[Candidate], tried: Mapping[Candidate, int]
    ) -> Evidence:
        finished, trials = dict[str, float](), list[Trial]()
        for run in chosen:
            losses = self._losses(run.name)
            if len(losses) == self.store.folds.num_folds:
                finished[run.name] = self._mean(losses, hidden)
            trials += [Trial(run.name, f, run.epochs, loss) for f, loss in losses.items() if f not in hidden]
        for run, epochs in tried.items():
            others = set(range(self.store.folds.num_folds)) - {*hidden}
            short_fits = [self._short_fit(run.name, fold, epochs) for fold in sorted(others)]
            trials += [trial for trial in short_fits if trial is not None]
        tuned = [run.name for run in chosen if run.name in finished and not run.is_frozen][-_MOST_PAIRED:]
        return Evidence(self.probes(hidden).probes, finished, tuple(trials), self._pairs(tuned, hidden))

    def _pairs(self, runs: Sequence[str], hidden: Collection[int]) -> dict[tuple[str, str], float]:
        """Log loss of the plain mean of each two finished runs, without some folds' rows."""
        rows = self.store.folds.scored
        seen = ~np.isin(self.store.folds.ids[rows], list(hidden))
        probs = {run: self._true_probs(run, rows)[seen] for run in runs}
        return {
            (one, other): float(-np.log(np.maximum((probs[one] + probs[other]) / 2, CLIP)).mean())
            for one, other in combinations(runs, 2)
        }

    def _true_probs(self, run: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The probability of the true class of each scored row."""
        oof = self.store.oof(self.store.find_run(run, parts=("valid",)))
        return np.exp(oof[rows, self.store.folds.labels[rows]].astype(np.float64))
