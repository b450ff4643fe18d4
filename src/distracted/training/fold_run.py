"""One fold's training: what its steps share, and its state, from which it goes on elsewhere."""

import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.competition import Competition
from distracted.data.drops import keep_rows
from distracted.data.folds import Folds, hold_back
from distracted.inference.predict import predict_from_features
from distracted.models.network import Network
from distracted.models.weights import StateDict
from distracted.progress import Progress
from distracted.schema import RunConfig, TrainPhase
from distracted.training.distributed import ALONE, Team
from distracted.training.feed import Feed, Images
from distracted.training.metrics_log import Tracker
from distracted.training.phases import Clock, PhaseRun
from distracted.training.pseudo import PseudoLabels
from distracted.training.resolve import Settled
from distracted.training.resume import Checkpoints, differences, made_with, random_state, set_random_state
from distracted.training.state_file import State

_log = logging.getLogger(__name__)


@dataclass
class FoldRun:
    """What the steps of one fold's training share."""

    settled: Settled
    competition: Competition
    folds: Folds
    fold: int
    cache: Path
    progress: Progress
    tracker: Tracker
    label: str
    pseudo: PseudoLabels | None = None
    checkpoints: Checkpoints | None = None
    team: Team = ALONE
    clock: Clock = field(default_factory=Clock)
    began: float = field(default_factory=time.perf_counter)  # less what earlier sittings took
    num_resumed: int = 0
    num_parts: int = 1
    num_phases: int = 0  # behind it
    running: PhaseRun | None = None
    half_done: State | None = None  # of the phase that goes on first
    in_between: bool = False  # a head is trained and its phase not yet behind: no state to go on from
    untouched: bool = True  # the trunk: its cached features are still those of the network
    start: StateDict = field(default_factory=dict)  # the network before its base learned, where it goes back
    predicted: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)  # batches, by set
    network: Network = field(init=False)

    def __post_init__(self) -> None:
        # Processes of a team predict shares of their own length: they cannot agree on anything meanwhile.
        after_batch = self.keep if self.team.size == 1 else _nothing
        self.feed = Feed(self.settled, self.cache, self.progress, after_batch, self.team)
        self.train, self.test = Images.to_train(self.competition), Images.to_test(self.competition)
        self.valid_rows = self.folds.valid(self.fold)
        training = self.settled.config.training
        rows, self.held_back = hold_back(self.folds, self.fold, share=training.holdout, seed=training.seed)
        self.rows = keep_rows(self.competition, self.folds, self.fold, rows)
        self.num_dropped = len(rows) - len(self.rows)

    @property
    def config(self) -> RunConfig:
        return self.settled.config

    @property
    def last_of_base(self) -> str:
        """The last phase in which the base learns."""
        phases = reversed(self.config.phases.items())
        return next(name for name, phase in phases if isinstance(phase, TrainPhase) and phase.trains_base)

    def predict(
        self,
        network: Network,
        images: Images,
        rows: NDArray[np.int64],
        what: str,
        done: list[NDArray[np.float32]] | None = None,
    ) -> NDArray[np.float32]:
        """Log-probabilities of some rows: from the base's features as long as nothing has changed it."""
        if self.untouched and (images is self.train or not network.taken[1]):  # un-pooled, they fill a disk
            return predict_from_features(network, self.feed.features(network, images), rows)
        return self.feed.log_probs(network, images, rows, f"{self.label}, {what}", done=done)

    def keep(self, boundary: bool = False) -> None:
        """A moment at which the state is whole: it is saved where that is due, or a stop was asked for."""
        if self.checkpoints is not None and not self.in_between:
            self.checkpoints.after_step(self.state, boundary=boundary)

    def state(self) -> State:
        """All that the rest of the training depends on, and the result."""
        return {
            "network": self.network.state_dict(),
            "clock": asdict(self.clock),
            "seconds": time.perf_counter() - self.began,
            "num_resumed": self.num_resumed,
            "num_phases": self.num_phases,
            "running": self.running.state() if self.running is not None else self.half_done,
            "untouched": self.untouched,
            "start": self.start,
            "predicted": {
                what: {"rows": torch.from_numpy(np.concatenate(batches)), "sizes": [len(b) for b in batches]}
                for what, batches in self.predicted.items()
                if batches
            },
            "num_parts": self.num_parts,
            "random": self.team.gather(random_state(self.settled.device)),
            "tracked": self.tracker.tell(),
            "made_with": made_with(self.settled.device, self.team),
        }

    def end_phase(self) -> None:
        """A phase is behind, and its state is not asked for any more."""
        self.num_phases, self.running, self.in_between = self.num_phases + 1, None, False
        self.keep(boundary=True)

    def load(self, state: State) -> None:
        """Go on from a state."""
        if changed := differences(state["made_with"], made_with(self.settled.device, self.team)):
            _log.warning(
                "%s: begun with %s: what it predicts may differ in rounding", self.label, "; ".join(changed)
            )
        self.network.load_state_dict(state["network"])
        self.clock = Clock(**state["clock"])
        self.began = time.perf_counter() - state["seconds"]
        self.num_resumed, self.num_parts = state["num_resumed"] + 1, state["num_parts"]
        self.num_phases, self.half_done = state["num_phases"], state["running"]
        self.untouched, self.start = state["untouched"], state["start"]
        self.predicted = {
            what: [batch.numpy() for batch in found["rows"].split(found["sizes"])]
            for what, found in state["predicted"].items()
        }
        if len(state["random"]) == self.team.size:
            set_random_state(state["random"][self.team.rank], self.settled.device)
        self.tracker.rewind(state["tracked"])


def _nothing() -> None:
    """After a batch."""
