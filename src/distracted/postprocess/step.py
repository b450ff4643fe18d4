"""The base classes of steps: a step makes a run from other runs, and describes itself to the commands."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, overload

import numpy as np
from numpy.typing import NDArray

from distracted.errors import ConfigError
from distracted.metrics import prior_log_probs
from distracted.predictions.run import StoredRun
from distracted.predictions.store import Store

if TYPE_CHECKING:
    from distracted.data.picture_sets import Images
    from distracted.headline import Metric
    from distracted.postprocess.networks import Trained

LogProbs = NDArray[np.floating]
Labels = NDArray[np.integer]
Runs = Sequence[LogProbs] | LogProbs  # predictions of each run, (num_images, num_classes)

#: Raised when a fit changes for most data: runs of an older version are refused. Where few runs come out
#: otherwise, those are found when they are used (`members.open_sources`).
STEP_VERSION = 2
#: Folds for a choice between fitted predictions: one that it predicts, one to fit on, one to compare on.
MIN_FOLDS = 3


class Subset(NamedTuple):
    """The rows that one fold's networks predict: those that the fold holds out, or the test set."""

    fold: int
    test: bool = False


class Inputs(Sequence[LogProbs]):
    """Predictions of several runs, (num_images, num_classes) each, made whenever they are asked for.

    All of them at once would fill the memory: of 200 runs, the test set's take gigabytes.
    """

    def __init__(self, makers: Sequence[Callable[[], LogProbs]]) -> None:
        self._makers = makers

    def __len__(self) -> int:
        return len(self._makers)

    @overload
    def __getitem__(self, index: int) -> LogProbs: ...
    @overload
    def __getitem__(self, index: slice) -> "Inputs": ...
    def __getitem__(self, index: int | slice) -> "LogProbs | Inputs":
        return Inputs(self._makers[index]) if isinstance(index, slice) else self._makers[index]()


class Rows(NamedTuple):
    """The rows of a subset, to be predicted.

    Attributes:
        log_probs: Predictions of each input run, (num_images, num_classes); float64 if there is one run, else
            perhaps float32, as they are stored.
        subjects: Subject ids, (num_images,); None for the test set.
    """

    subset: Subset
    log_probs: Runs
    subjects: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Examples:
    """Out-of-fold rows of some folds with their labels: what a step is fitted on.

    Attributes:
        log_probs: Predictions of each input run, as in `Rows`.
        labels: Class ids, (num_images,).
        folds: Fold of each row, (num_images,).
        subjects: Subject ids, some of which may not occur, (num_images,).
    """

    log_probs: Runs
    labels: Labels
    folds: NDArray[np.int64]
    subjects: NDArray[np.int64]

    def by_fold(self) -> Iterator[tuple[NDArray[np.int64], Rows]]:
        """Each fold's rows, in the order of `Folds.valid`, with their positions."""
        for fold in np.unique(self.folds):
            positions = np.flatnonzero(self.folds == fold)
            rows = Inputs([partial(self._take, run, positions) for run in range(len(self.log_probs))])
            yield positions, Rows(Subset(int(fold)), rows, self.subjects[positions])

    def _take(self, run: int, positions: NDArray[np.int64]) -> LogProbs:
        return self.log_probs[run][positions]


class Estimator(ABC):
    """Predicts from the predictions of one or several runs: a step, a blender, or `Identity`."""

    @property
    def min_folds(self) -> int:
        """Folds needed to fit all of it; with fewer it leaves something out."""
        return 1

    @abstractmethod
    def fit(self, examples: Examples) -> Any:
        """What was learned, for `predict`; the estimator itself does not change."""

    @abstractmethod
    def predict(self, fitted: Any, rows: Rows) -> LogProbs:
        """Log-probabilities of some rows, (num_images, num_classes)."""

    @property
    def can_sharpen(self) -> bool:
        """Whether it may make predictions surer because labels say so.

        Such a fit leaves out classes without a row in it, or it would take their probability away.
        """
        return False


class Identity(Estimator):
    """Changes nothing."""

    def fit(self, examples: Examples) -> None:
        return None

    def predict(self, fitted: None, rows: Rows) -> LogProbs:
        return normalised(rows.log_probs[0])


class Step(ABC):
    """Makes a run from other runs, and describes itself to the commands.

    To add a step: one module with a subclass of `PredictionStep` or `NetworkStep`, a frozen dataclass whose
    fields are its settings, and one line in `steps.STEPS`. `make derive STEP=<name>` runs it.

    Attributes:
        name: In manifests and on the command line.
        suffix: The new run is called <run>_<suffix> by default; "" if it always has to be named.
        target: The make target that runs it.
        version: Stored with the settings; runs of another version are refused. None: not versioned.
    """

    name: ClassVar[str]
    suffix: ClassVar[str] = ""
    target: ClassVar[str] = "derive"
    version: ClassVar[int | None] = STEP_VERSION

    @property
    def reads_labels(self) -> bool:
        """Whether anything is fitted on out-of-fold labels."""
        return False

    def settings(self) -> dict[str, Any]:
        """All that changes its predictions, as JSON values; by default its fields."""
        fields = asdict(self)  # type: ignore[call-overload]  # subclasses are dataclasses
        return dict(json.loads(json.dumps(fields)))

    def config(self) -> dict[str, Any]:
        """The step as the config of a derived run holds it, and so as it is hashed."""
        version = {} if self.version is None else {"version": self.version}
        return {"name": self.name, **version, **self.settings()}

    def inputs(self, fold: int) -> dict[str, Any]:
        """Digests of a fold's inputs other than the parents; the fold's details hold them."""
        return {}

    @classmethod
    def load(cls, store: Store, run: StoredRun) -> Self:
        """The step that made a run, from the run's manifests."""
        stored = run.manifests[0].config["step"]
        return cls(**{key: value for key, value in stored.items() if key not in ("name", "version")})

    @classmethod
    def variables(cls, settings: Mapping[str, Any]) -> dict[str, str]:
        """The make variables for stored settings ({} if of another version), without STEP, RUNS and NAME."""
        return {}

    @classmethod
    def command(cls, settings: Mapping[str, Any], run: str, parents: Sequence[str]) -> str:
        """The command that makes `run` from `parents`; `make status` shows it."""
        step = {"STEP": cls.name} if cls.target == "derive" else {}
        variables = {**step, "RUNS": " ".join(parents), **cls.variables(settings), "NAME": run}
        quoted = {key: f'"{value}"' if " " in value else value for key, value in variables.items()}
        return " ".join([f"make {cls.target}", *(f"{key}={value}" for key, value in quoted.items())])

    @classmethod
    def needs_all_images(cls, settings: Mapping[str, Any]) -> str:
        """What it does with all test images together, or "" if it predicts each image on its own.

        `make predict` refuses a run with such a step: a few photographs are not the test set.
        """
        return ""


class PredictionStep(Step, Estimator):
    """A step that turns stored predictions into others.

    Attributes:
        takes_several: Whether it takes two or more runs instead of one.
    """

    takes_several: ClassVar[bool] = False

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The step with the settings of HOW= (or of the variable that its own target has for them).

        Raises:
            ConfigError: no such settings.
        """
        if text:
            raise ConfigError(f"HOW={text!r}: {cls.name} takes no settings")
        return cls()

    @property
    def min_runs(self) -> int:
        """How many runs it takes; a step that takes several takes more, too."""
        return 2 if self.takes_several else 1

    @property
    def reads_labels(self) -> bool:
        return True

    @property
    def must_beat_identity(self) -> bool:
        """Whether it is used only where it beats unchanged predictions on rows it was not fitted on."""
        return False

    @property
    def varies_by_fold(self) -> bool:
        """Whether `for_fold` returns different steps."""
        return False

    def for_fold(self, fold: int) -> Self:
        """The step as it is fitted for what one fold predicts."""
        return self

    @property
    def num_candidates(self) -> int:
        """How many settings it chooses among."""
        return 1

    @property
    def seconds(self) -> float:
        """Time spent on its inputs before the fit."""
        return 0.0

    def for_metric(self, metric: "Metric") -> Self:
        """The step for a competition's metric, if it chooses among runs; fits are by log loss."""
        return self

    def origin(self, fitted: Any) -> int:
        """Position of the input run whose networks predict."""
        return 0

    def details(self, fitted: Any, runs: Sequence[str]) -> dict[str, Any]:
        """What a fold's manifest says about the fit; None stands for unchanged predictions."""
        values = None if fitted is None else asdict(fitted)
        return {"fitted": values, "num_candidates": self.num_candidates}

    def describe(self, fits: Sequence[Any], overall: Any, runs: Sequence[str]) -> str:
        """The folds' fits (None: unchanged) and the fit on all folds, in a few words."""
        return ""


class NetworkStep(Step):
    """A step that predicts from the images, with the networks of a trained run; nothing is fitted."""

    @abstractmethod
    def predict(
        self, trained: Sequence["Trained"], images: "Images", rows: NDArray[np.int64], label: str
    ) -> NDArray[np.float64]:
        """Predictions of some rows by each network, (num_networks, num_rows, num_classes)."""


def class_shares(labels: Labels, num_classes: int) -> NDArray[np.float64]:
    """Share of each class, one added to each count, (num_classes,); 0 for a class without a row.

    The rows of such a class may be trained on and never scored, so its share is unknown, not nothing.
    """
    occurs = np.bincount(labels, minlength=num_classes) > 0
    shares: NDArray[np.float64] = np.where(occurs, np.exp(prior_log_probs(labels, num_classes)), 0.0)
    return shares


def target_means(prior: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean probabilities to aim for: the prior, but a class with a share of 0 keeps its mean.

    Args:
        prior: From `class_shares`.
        means: Mean probabilities now, (..., num_classes).
    """
    if prior.all():
        return prior
    kept = np.where(prior == 0, means, 0.0)
    targets: NDArray[np.float64] = kept + prior / prior.sum() * (1 - kept.sum(axis=-1, keepdims=True))
    return targets


def normalised(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log-probabilities from unnormalised logarithms, shape (..., num_classes)."""
    scores = np.asarray(scores, dtype=np.float64)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    log_probs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_probs
