"""Forecast of the competition's log loss, with a 95% prediction interval.

Each out-of-fold row is scored by one network, each test row by the mean over the folds' networks. So the
forecast has two parts: the loss of a single network on the test set's subjects, and the gain from averaging.

Single network. With v the variance of a mean over S subjects (ratio estimator, subjects as units), OOF loss
and test loss differ with the variance v (2 + S / S_test). The 2 would be 1 if the subjects' OOF losses were
independent. But each subject helps to train the networks that score the others, and each pair counts twice in
the variance that this adds (Hoeffding's decomposition), so the factor lies between 1 and 2, closer to 2 the
fewer subjects there are. Losses are positive and skewed, so the interval is computed on the log scale, with
t quantiles. Skewness also makes v uncertain: the degrees of freedom follow from the subjects' kurtosis
(matching of moments as in Satterthwaite, Biometrics Bulletin 1946; at most S - 1, the normal distribution's).

Mean of K networks. Its loss on unlabelled images would be known if the labels' probabilities were. The
networks' own probabilities will not do: overconfident networks gain most from averaging but predict the
smallest gain. So these probabilities, the belief, are tempered, q = belief^b / sum, until the expected loss
of single networks under q equals the forecast for one network. The loss of the mean under the same q is the
expected score; it never exceeds that of single networks (Jensen's inequality). The belief is half-way, in
logarithms, between the networks' arithmetic and geometric mean: with overconfident networks the first
overrates the accuracy of the mean and the second underrates it.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distracted.headline import LOG_LOSS
from distracted.metrics import CLIP, log_losses
from distracted.postprocess.people import read_test_people
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.schema import MetricName

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

#: With fewer subjects their spread says too little for an interval.
MIN_SUBJECTS = 3
#: The largest log loss, since the competition clips probabilities.
WORST = -math.log(CLIP)
#: Variance of the OOF mean relative to that of independent subjects; between 1 and 2, see above.
DEPENDENCE = 2.0
_MAX_B = 32.0  # the tempered belief is then nearly certain of the most probable class
_TOLERANCE = 1e-4  # of b
_ROUNDING = 1e-9  # smaller relative differences between subjects are rounding errors


@dataclass(frozen=True)
class Expected:
    """A forecast of the submitted log loss.

    Attributes:
        mean: The expected score.
        low, high: Its 95% prediction interval; None if subjects are too few or do not differ.
        oof: Pooled OOF log loss.
        bagging: Change by averaging over the folds, never above 0; `mean` is `oof + bagging`.
        error: Standard error of the logarithm of one network's loss on the test set; None without interval.
        quantile: Quantile of Student's t for the interval; None without interval.
        num_subjects, num_test_subjects: Number of subjects in the OOF rows, and in the test set.
        counted: Source of the latter: data.num_test_subjects, `make people`, or the number of images.
        unsure_half, sure_half: The expected score if only half of the test images were scored: those on which
            the mean is less confident, or those on which it is more confident.
    """

    mean: float
    low: float | None
    high: float | None
    oof: float
    bagging: float
    error: float | None
    quantile: float | None
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
            "pooled out-of-fold log loss, less what the mean over folds takes away: by a belief about the "
            "test labels under which single networks lose as much; 95% prediction interval over training "
            "and test subjects (docs/expected_score.md)"
        )
        return {**asdict(self), "how": how}

    def errors_off(self, score: float) -> float | None:
        """Distance of a score from the expected one, in standard errors of the logarithm on its side."""
        end = self.high if score > self.mean else self.low
        if end is None or self.quantile is None or score <= 0 or not 0 < end != self.mean:
            return None
        share = math.log(score / self.mean) / math.log(end / self.mean)
        return math.copysign(share * self.quantile, score - self.mean)

    def holds(self, score: float) -> bool | None:
        """Whether a score lies within the interval; None without an interval."""
        return None if self.low is None or self.high is None else self.low <= score <= self.high


def expect_run(store: Store, run: Run) -> Expected:
    """Forecast the score of a stored run, from the folds that it has."""
    rows = np.isin(store.folds.ids, run.folds)
    stated, estimated = store.competition.config.num_test_subjects, read_test_people(store)
    return expect_score(
        run.oof[rows],
        store.folds.labels[rows],
        store.folds.subjects[rows],
        run.test,
        num_test_subjects=estimated if stated is None else stated,
        estimated=stated is None and estimated is not None,
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
) -> Expected:
    """Forecast the log loss of the arithmetic mean over folds on a test set of other subjects.

    The forecast assumes that the test subjects are drawn like the training subjects. Test images that the
    competition does not score (decoys) enter the bagging term like all others; `Expected.unsure_half` and
    `Expected.sure_half` bound their effect.

    Args:
        oof: Out-of-fold log-probabilities, shape (num_images, num_classes).
        labels: Class ids, shape (num_images,).
        subjects: Non-negative subject ids, not necessarily consecutive, shape (num_images,).
        test: Log-probabilities of each fold's network, shape (num_folds, num_test, num_classes).
        num_test_subjects: None assumes as many images per test subject as there are in the OOF rows.
        estimated: Whether that number is an estimate.
    """
    from scipy.special import stdtrit

    losses = log_losses(oof, labels)
    single = float(losses.mean())
    bag = Bag.of(test)
    mean = bag.expected(single)
    sure = bag.pooled.max(axis=1) >= np.median(bag.pooled.max(axis=1))
    num_subjects = len(np.unique(subjects))
    guess = max(1, round(test.shape[1] * num_subjects / len(labels)))
    num_test = guess if num_test_subjects is None else num_test_subjects
    low = high = error = quantile = None
    spread = _spread(losses, subjects)
    if spread is not None:
        variance, degrees = spread
        error = math.sqrt(variance * (DEPENDENCE + num_subjects / num_test)) / single
        quantile = float(stdtrit(degrees, 0.975))  # Student's t
        reach = quantile * error
        low = bag.expected(single * math.exp(-reach))
        high = bag.expected(min(single * math.exp(min(reach, 50.0)), WORST))  # 50 avoids an overflow
    return Expected(
        mean=mean,
        low=low,
        high=high,
        oof=single,
        bagging=mean - single,
        error=error,
        quantile=quantile,
        num_subjects=num_subjects,
        num_test_subjects=num_test,
        counted="assumed" if num_test_subjects is None else "estimated" if estimated else "stated",
        unsure_half=bag.rows(~sure).expected(single) if not sure.all() else mean,
        sure_half=bag.rows(sure).expected(single),
    )


@dataclass(frozen=True)
class Bag:
    """Predictions of unlabelled images by several networks (bagging).

    Attributes:
        pooled: Logarithm of the mean of their probabilities, shape (num_test, num_classes).
        single: Mean of their log-probabilities, of the same shape.
    """

    pooled: NDArray[np.float64]
    single: NDArray[np.float64]

    @classmethod
    def of(cls, test: Floats) -> "Bag":
        """Make a bag from the log-probabilities of each network, shape (num_folds, num_test, num_classes)."""
        clipped = np.maximum(np.asarray(test, dtype=np.float64), math.log(CLIP))
        return cls(np.logaddexp.reduce(clipped, axis=0) - math.log(len(test)), clipped.mean(axis=0))

    def rows(self, chosen: NDArray[np.bool_]) -> "Bag":
        """The same for some of the images."""
        return Bag(self.pooled[chosen], self.single[chosen])

    def expected(self, single: float) -> float:
        """Expected log loss of the mean, given the average log loss of a single network.

        If no b explains `single`, the ratio of the two losses is taken at the nearest b.
        """

        from scipy.optimize import brentq  # slow to import

        def excess(b: float) -> float:  # decreases
            return self._losses(b)[0] - single

        if excess(0.0) <= 0:
            b = 0.0
        else:
            b = _MAX_B if excess(_MAX_B) >= 0 else float(brentq(excess, 0.0, _MAX_B, xtol=_TOLERANCE))
        single_loss, pooled_loss = self._losses(b)
        return single * pooled_loss / single_loss

    def _losses(self, b: float) -> tuple[float, float]:
        """Log loss of single networks and of their mean for labels drawn from the tempered belief."""
        from scipy.special import log_softmax

        belief = np.exp(log_softmax(b / 2 * (self.pooled + self.single), axis=1))
        num = len(belief)
        return -float((belief * self.single).sum()) / num, -float((belief * self.pooled).sum()) / num


def _spread(losses: NDArray[np.float64], subjects: Ints) -> tuple[float, float] | None:
    """Variance of the mean loss over subjects and its degrees of freedom; None if it cannot be estimated."""
    counts = np.bincount(subjects)
    sums = np.bincount(subjects, weights=losses - losses.mean())[counts > 0]
    num, second = len(sums), float((sums**2).mean())
    if num < MIN_SUBJECTS or math.sqrt(second) <= _ROUNDING * losses.sum() / num:
        return None
    variance = num**2 / (num - 1) * second / len(losses) ** 2
    kurtosis = float((sums**4).mean()) / second**2
    degrees = 2 * num / max(kurtosis - (num - 3) / (num - 1), 1e-9)
    return variance, min(degrees, num - 1)
