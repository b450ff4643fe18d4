"""Forecast of the competition's log loss, with a 95% prediction interval.

Each out-of-fold row is scored by one network, each test row by the mean over the folds' networks. So the
forecast has two parts: the loss of a single network on the test rows (`trust`), and the gain from averaging
(`bag`). Both are drawn many times, from what the training subjects leave possible; the forecast is the median
of the draws and the interval their middle 95%. docs/expected_score.md describes the method and its sources.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distracted.headline import LOG_LOSS
from distracted.metrics import CLIP, log_losses, prior_log_loss, prior_log_probs
from distracted.postprocess.people import read_test_people
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.schema import MetricName
from distracted.submission.bag import Bag
from distracted.submission.trust import NUM_DRAWS, TestTables, Trust

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

#: With fewer subjects their spread says too little for an interval.
MIN_SUBJECTS = 3
#: The largest log loss, since the competition clips probabilities.
WORST = -math.log(CLIP)
#: Standard error of the gain from averaging, relative to its logarithm (docs/evidence_expected_score.md).
GAIN_ERROR = 0.15
_ENDS = 0.025, 0.975
_QUANTILE = 1.96  # standard errors between the forecast and an end


@dataclass(frozen=True)
class Expected:
    """A forecast of the submitted log loss.

    Attributes:
        mean: The expected score: it is as likely to be missed above as below.
        low, high: Its 95% prediction interval; None if subjects are too few.
        oof: Pooled OOF log loss.
        single: Expected loss of a single network on the test rows.
        bagging: Change by averaging over the folds, never above 0; `mean` is `single + bagging`.
        public_low, public_high: 95% interval of the public score; None without data.public_share.
        prior: OOF log loss of predicting the classes' shares.
        num_subjects, num_test_subjects: Number of subjects in the OOF rows, and in the test set.
        counted: Source of the latter: data.num_test_subjects, `make people`, or the number of images.
        unsure_half, sure_half: The expected score if only half of the test images were scored: those on which
            the mean is less confident, or those on which it is more confident.
    """

    mean: float
    low: float | None
    high: float | None
    oof: float
    single: float
    bagging: float
    public_low: float | None
    public_high: float | None
    prior: float
    num_subjects: int
    num_test_subjects: int
    counted: Literal["stated", "estimated", "assumed"]
    unsure_half: float
    sure_half: float

    def as_json(self) -> dict[str, Any]:
        """All attributes and a sentence on the method.

        A submission is current while its provenance equals this, so a new wording of the sentence would make
        every stored submission look outdated.
        """
        how = (
            "log loss on the test rows, given how far the networks' probabilities could be trusted on each "
            "training subject, less what the mean over folds takes away; 95% prediction interval over "
            "training and test subjects (docs/expected_score.md)"
        )
        return {**asdict(self), "how": how}

    @property
    def may_lose_to_prior(self) -> bool:
        """Whether the interval holds scores that are worse than predicting the classes' shares."""
        return self.high is not None and self.high > self.prior

    def errors_off(self, score: float, *, public: bool = False) -> float | None:
        """Distance of a score from the expected one, in standard errors of the logarithm on its side.

        Args:
            public: The score is of the public part, which has an interval of its own.
        """
        low, high = self._ends(public)
        end = high if score > self.mean else low
        if end is None or score <= 0 or self.mean <= 0 or not 0 < end != self.mean:
            return None
        share = math.log(score / self.mean) / math.log(end / self.mean)
        return math.copysign(share * _QUANTILE, score - self.mean)

    def holds(self, score: float, *, public: bool = False) -> bool | None:
        """Whether a score lies within the interval; None without an interval."""
        low, high = self._ends(public)
        return None if low is None or high is None else low <= score <= high

    def _ends(self, public: bool) -> tuple[float | None, float | None]:
        if public and self.public_low is not None:
            return self.public_low, self.public_high
        return self.low, self.high


def expect_run(store: Store, run: Run) -> Expected:
    """Forecast the score of a stored run, from the folds that it has."""
    rows = np.isin(store.folds.ids, run.folds)
    config = store.competition.config
    stated, estimated = config.num_test_subjects, read_test_people(store)
    return expect_score(
        run.oof[rows],
        store.folds.labels[rows],
        store.folds.subjects[rows],
        run.test,
        num_test_subjects=estimated if stated is None else stated,
        estimated=stated is None and estimated is not None,
        public_share=config.public_share,
        prior=prior_log_loss(store.folds.labels, store.folds.ids, store.competition.num_classes),
    )


@dataclass(frozen=True)
class OutOfFold:
    """The competition's score where it is not the log loss: out of fold, which is no forecast.

    Attributes:
        metric: Its name; title: the same for readers.
        value: Pooled OOF score; low, high: its 95% bootstrap interval over the training subjects.
    """

    metric: MetricName
    title: str
    value: float
    low: float
    high: float


def judge_run(store: Store, run: Run) -> OutOfFold | None:
    """A run's score, from the folds that it has; None if it is the log loss, of which there is a forecast."""
    metric = store.competition.metric
    if metric is LOG_LOSS:
        return None
    rows = np.isin(store.folds.ids, run.folds)
    judged = metric.judge(run.oof[rows], store.folds.labels[rows])
    interval = judged.interval(store.folds.subjects[rows])
    return OutOfFold(metric.name, metric.title, interval.mean, interval.low, interval.high)


def expect_score(
    oof: Floats,
    labels: Ints,
    subjects: Ints,
    test: Floats,
    *,
    num_test_subjects: int | None = None,
    estimated: bool = False,
    public_share: float | None = None,
    prior: float | None = None,
) -> Expected:
    """Forecast the log loss of the arithmetic mean over folds on a test set of other subjects.

    The forecast assumes that the test subjects are drawn like the training subjects. Test images that the
    competition does not score (decoys) enter like all others; `Expected.unsure_half` and `Expected.sure_half`
    bound their effect. The same input gives the same forecast: the draws have a fixed seed.

    Args:
        oof: Out-of-fold log-probabilities, shape (num_images, num_classes).
        labels: Class ids, shape (num_images,).
        subjects: Non-negative subject ids, not necessarily consecutive, shape (num_images,).
        test: Log-probabilities of each fold's network, shape (num_folds, num_test, num_classes).
        num_test_subjects: None assumes as many images per test subject as there are in the OOF rows.
        estimated: Whether that number is an estimate.
        public_share: Share of the test rows in the public score, drawn at random; None if it is unknown.
        prior: Log loss of predicting the classes' shares; None takes those of the OOF rows.
    """
    oof, test = (np.clip(log_probs, math.log(CLIP), 0) for log_probs in (oof, test))
    rng = np.random.default_rng(0)
    num_subjects = len(np.unique(subjects))
    guess = max(1, round(test.shape[1] * num_subjects / len(labels)))
    num_test = guess if num_test_subjects is None else num_test_subjects
    draws = Trust.fit(oof, labels, subjects, rng).losses(TestTables.of(test), num_test, rng)
    bag = Bag.of(test)
    gain_error = 1 + GAIN_ERROR * rng.normal(size=NUM_DRAWS)

    def averaged(single: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(single * bag.ratios(single) ** gain_error, CLIP, WORST)

    singles = np.clip(draws.with_noise(rng), CLIP, WORST)
    scores = averaged(singles)
    single, mean = float(np.median(singles)), float(np.median(scores))
    low = high = public_low = public_high = None
    if num_subjects >= MIN_SUBJECTS:
        low, high = _interval(scores)
        if public_share is not None:
            public_low, public_high = _interval(averaged(draws.with_noise(rng, share=public_share)))
    certainty = bag.pooled.max(axis=1)
    sure = certainty >= np.median(certainty)
    return Expected(
        mean=mean,
        low=low,
        high=high,
        oof=float(log_losses(oof, labels).mean()),
        single=single,
        bagging=mean - single,
        public_low=public_low,
        public_high=public_high,
        prior=-float(prior_log_probs(labels, oof.shape[1])[labels].mean()) if prior is None else prior,
        num_subjects=num_subjects,
        num_test_subjects=num_test,
        counted="assumed" if num_test_subjects is None else "estimated" if estimated else "stated",
        unsure_half=bag.expected(single, rows=~sure) if not sure.all() else mean,
        sure_half=bag.expected(single, rows=sure),
    )


def _interval(scores: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(scores, _ENDS)
    return float(low), float(high)
