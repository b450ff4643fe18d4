"""What the competition is expected to answer: a log loss with a 95% prediction interval.

Out-of-fold rows are scored by one network each, test rows by the mean of all folds' networks. So two things
are forecast: what one network loses on the test set's people, and how much of that the mean takes away.

One network. The pooled OOF loss is a mean over few people, and the test set is another sample of people.
With v the variance of a mean over S people (a ratio estimator's, subjects as the units), the two differ by
v (2 + S / S_test). Were people's OOF losses independent, the 2 would be a 1; but each of two people trains
the network that the other is scored by, and alike people help each other. Of the variance that such pairs
make, each pair inside one sample counts twice (Hoeffding's decomposition), so the factor lies between 1 and
2: the fewer the people to learn from, the nearer to 2, which is taken. What all networks have in common
falls out, since they are the ones that are submitted. Losses of people are positive and skewed, so the
interval is laid on the logarithm, with t quantiles. Skewness makes v itself uncertain, too: its degrees of
freedom follow from the subjects' kurtosis (matching of moments as in Satterthwaite, Biometrics Bulletin
1946; at most S - 1, the normal distribution's).

The mean of K. Its loss on unlabelled images would be known if the labels' probabilities were. The networks'
own will not do: those that are over-confident gain most from the mean and believe the least in it. So their
belief is tempered, q = belief^b / sum, until under q the single networks lose on the test images what was
forecast for one network; what the mean loses under the same q is the expected score. The belief is half
way, in logarithms, between the networks' arithmetic and geometric mean: of over-confident networks the one
is too sure that the mean is right, the other too little. The expected score is never above the single
networks' (Jensen), equal to it with K = 1, and both ends of the interval go the same way.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_softmax
from scipy.stats import t as student

from distracted.metrics import CLIP, log_losses
from distracted.postprocess.people import read_test_people
from distracted.predictions.run import Run
from distracted.predictions.store import Store

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

#: How the number of test subjects is known: from data.num_test_subjects, from clusters, from image counts.
Counted = Literal["stated", "estimated", "assumed"]
#: Fewer give no interval: what they differ by says next to nothing.
MIN_SUBJECTS = 3
#: Of log loss, as the competition clips it.
WORST = -math.log(CLIP)
#: Between 1 and 2, see above: how much the OOF mean varies, as a multiple of what independent people would.
DEPENDENCE = 2.0
_COLDEST = 32.0  # the largest b: there the belief is all but certain of the likeliest class
_TOLERANCE = 1e-4  # of b
_ROUNDING = 1e-9  # subjects that differ by less, relative to their mean, do not differ


@dataclass(frozen=True)
class Expected:
    """A forecast of the submitted log loss.

    Attributes:
        mean: The expected score; low, high: its 95% prediction interval, None where there are too few
            subjects or they do not differ.
        oof: Pooled OOF log loss; bagging: what the mean over folds adds to it, never above 0.
        error: Standard error of the logarithm of one network's loss on the test set, None as above.
        quantile: Of Student's t, by which the error was multiplied; None as above.
        num_subjects: Of the OOF rows.
        num_test_subjects: Of the test images; counted: how that is known.
        unsure_half, sure_half: The expected score if a half of the test images were not scored and what is
            left is the half that the mean is less (more) sure of.
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
    counted: Counted
    unsure_half: float
    sure_half: float

    def as_json(self) -> dict[str, Any]:
        """All parts, and a sentence on how they came about."""
        how = (
            "pooled out-of-fold log loss, less what the mean over folds takes away: by a belief about the "
            "test labels under which single networks lose as much; 95% prediction interval over training "
            "and test subjects (docs/expected_score.md)"
        )
        return {**asdict(self), "how": how}

    def errors_off(self, score: float) -> float | None:
        """How far a score is from the expected one, in standard errors of its logarithm on that side."""
        end = self.high if score > self.mean else self.low
        if end is None or self.quantile is None or score <= 0 or not 0 < end != self.mean:
            return None
        share = math.log(score / self.mean) / math.log(end / self.mean)
        return math.copysign(share * self.quantile, score - self.mean)

    def holds(self, score: float) -> bool | None:
        """Whether a score lies within the interval; None where there is none."""
        return None if self.low is None or self.high is None else self.low <= score <= self.high


def expect_run(store: Store, run: Run) -> Expected:
    """Forecast the score of a stored run, whichever folds it has."""
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

    It holds for test subjects drawn as the training ones were. Images that the competition does not score
    (decoys) take part in the bagging term as others do; `Expected.unsure_half` and `Expected.sure_half` say
    what difference they could make.

    Args:
        oof: Log-probabilities of the rows that some fold held out, each by that fold's network, shape
            (num_images, num_classes).
        labels: Class ids, shape (num_images,).
        subjects: Subject ids, not all of them need occur, shape (num_images,).
        test: Log-probabilities of each fold's network, shape (num_folds, num_test, num_classes).
        num_test_subjects: How many people the test set shows; None: as many as it would with as many images
            each as a subject of the OOF rows has on average.
        estimated: That number is an estimate.
    """
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
        quantile = float(student.ppf(0.975, degrees))
        reach = quantile * error
        low = bag.expected(single * math.exp(-reach))
        high = bag.expected(min(single * math.exp(min(reach, 50.0)), WORST))  # 50: e^reach stays a number
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
    """What the networks say about unlabelled images.

    Attributes:
        pooled: Log of the arithmetic mean of their probabilities, shape (num_test, num_classes).
        single: Mean of their log-probabilities, of the same shape.
    """

    pooled: NDArray[np.float64]
    single: NDArray[np.float64]

    @classmethod
    def of(cls, test: Floats) -> "Bag":
        """From the log-probabilities of each network, shape (num_folds, num_test, num_classes)."""
        clipped = np.maximum(np.asarray(test, dtype=np.float64), math.log(CLIP))
        return cls(np.logaddexp.reduce(clipped, axis=0) - math.log(len(test)), clipped.mean(axis=0))

    def rows(self, chosen: NDArray[np.bool_]) -> "Bag":
        return Bag(self.pooled[chosen], self.single[chosen])

    def expected(self, single: float) -> float:
        """Log loss of the mean where a network alone has the log loss `single`, on average over networks.

        Beyond what any tempered belief explains, the mean's loss follows in proportion.
        """

        def excess(b: float) -> float:
            return self._losses(b)[0] - single

        b = _root(excess, 0.0, _COLDEST)
        of_single, of_pooled = self._losses(b)
        return single * of_pooled / of_single

    def _losses(self, b: float) -> tuple[float, float]:
        """Of a network alone, and of the mean, if labels were drawn from the belief tempered by `b`."""
        belief = np.exp(log_softmax(b / 2 * (self.pooled + self.single), axis=1))
        num = len(belief)
        return -float((belief * self.single).sum()) / num, -float((belief * self.pooled).sum()) / num


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function is 0; the end that is nearer where it is 0 nowhere between."""
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    return float(brentq(function, low, high, xtol=_TOLERANCE))


def _spread(losses: NDArray[np.float64], subjects: Ints) -> tuple[float, float] | None:
    """Variance of the mean loss over subjects and its degrees of freedom; None where it cannot be told."""
    counts = np.bincount(subjects)
    sums = np.bincount(subjects, weights=losses - losses.mean())[counts > 0]
    num, second = len(sums), float((sums**2).mean())
    if num < MIN_SUBJECTS or math.sqrt(second) <= _ROUNDING * losses.sum() / num:
        return None
    variance = num**2 / (num - 1) * second / len(losses) ** 2
    kurtosis = float((sums**4).mean()) / second**2
    degrees = 2 * num / max(kurtosis - (num - 3) / (num - 1), 1e-9)
    return variance, min(degrees, num - 1)
