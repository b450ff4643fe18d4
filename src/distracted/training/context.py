"""The inputs of one fold's training: config, data and services."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.competition import Competition
from distracted.data.drops import without_drops
from distracted.data.earlier_holdout import earlier_holdout
from distracted.data.folds import Folds, split_holdout
from distracted.data.picture_sets import Images
from distracted.inference.device import Precision
from distracted.progress import Progress, silent
from distracted.schema import RunConfig
from distracted.training.checkpoints import Checkpoints, State
from distracted.training.distributed import ALONE, Team
from distracted.training.metrics_log import Tracker
from distracted.training.resolve import Resolved


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Images without labels, test images or held-out ones, to learn from in addition to the training side.

    Attributes:
        probs: A teacher's probabilities, (num_images, num_classes).
    """

    images: Images
    probs: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FoldContext:
    """Config, data and services of one fold's training; nothing in it changes.

    Attributes:
        cache: The data set's cache folder.
        pseudo: Images for phases of kind train alone.
        begun_holdout: Rows of the inner holdout that the training was begun with; None: it begins now.
        checkpoints: Where the state is saved and loaded; None: nowhere.
        stop_after: Epochs after which the training stops, to go on later; None: it does not.
        team: The processes that train the fold together, each with its own context.
        label: Shown with the progress, such as "resnet50, fold 0".
    """

    resolved: Resolved
    fold: int
    competition: Competition
    folds: Folds
    cache: Path
    tracker: Tracker
    pseudo: PseudoLabels | None = None
    begun_holdout: NDArray[np.int64] | None = None
    checkpoints: Checkpoints | None = None
    stop_after: int | None = None
    team: Team = ALONE
    label: str = ""
    progress: Progress = silent

    def going_on_from(self, state: State) -> "FoldContext":
        """The context with the inner holdout of a checkpoint, which versions up to 0.2.0 did not save."""
        if "holdout" in state:
            held_back = state["holdout"].numpy()
        else:
            training = self.config.training
            held_back = earlier_holdout(self.folds, self.fold, share=training.holdout, seed=training.seed)
        return replace(self, begun_holdout=held_back)

    @property
    def config(self) -> RunConfig:
        return self.resolved.config

    @property
    def device(self) -> torch.device:
        return self.resolved.device

    @property
    def precision(self) -> Precision:
        return self.resolved.precision

    @property
    def num_classes(self) -> int:
        return self.competition.num_classes

    @cached_property
    def train_images(self) -> Images:
        """All training images, of every fold."""
        return Images.to_train(self.competition)

    @cached_property
    def test_images(self) -> Images:
        return Images.to_test(self.competition)

    @cached_property
    def valid_rows(self) -> NDArray[np.int64]:
        """Held-out rows of the fold: scored, never trained on."""
        return self.folds.valid(self.fold)

    @cached_property
    def _training_side(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        training, held_back = self.config.training, self.begun_holdout
        if held_back is not None:
            return np.setdiff1d(self.folds.train(self.fold), held_back), held_back
        return split_holdout(self.folds, self.fold, share=training.holdout, seed=training.seed)

    @property
    def holdout_rows(self) -> NDArray[np.int64]:
        """Rows of the inner holdout: training-side subjects that phases watch and do not train on."""
        return self._training_side[1]

    @cached_property
    def train_rows(self) -> NDArray[np.int64]:
        """Rows to train on: the training side without the inner holdout and without dropped images."""
        return without_drops(self.competition, self.folds, self.fold, self._training_side[0])

    @property
    def num_dropped(self) -> int:
        """Images that the drop list leaves out of the training side."""
        return len(self._training_side[0]) - len(self.train_rows)
