"""Early stopping, keep=best and schedule=plateau: how a phase reacts to the score that it watches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distracted.models.network import Network
from distracted.models.weights import StateDict
from distracted.schema import TrainPhase


@dataclass
class EarlyStopping:
    """The watched score of one phase, and what follows from it.

    Attributes:
        rate_factor: Factor that `plateau` has reduced the learning rate to.
        best: The lowest score so far.
    """

    phase: TrainPhase
    rate_factor: float = 1.0
    best: float = float("inf")
    epochs_since_best: int = 0
    _since_reduced: int = 0
    _best_network: StateDict = field(default_factory=dict)

    def update(self, score: float, network: Network, *, warming_up: bool = False) -> None:
        """Take the log loss of a network: once before the first epoch, and after each epoch.

        Args:
            warming_up: The rate still rises; an epoch without improvement does not count yet.
        """
        if score < self.best:
            self.best, self.epochs_since_best, self._since_reduced = score, 0, 0
            if self.phase.keep == "best":
                self._best_network = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            return
        if warming_up:
            return
        self.epochs_since_best += 1
        self._since_reduced += 1
        if self.phase.schedule == "plateau" and self._since_reduced >= self.phase.reduce_after:
            self.rate_factor *= self.phase.reduce_to
            self._since_reduced = 0

    @property
    def should_stop(self) -> bool:
        return self.phase.patience is not None and self.epochs_since_best >= self.phase.patience

    def restore_best(self, network: Network) -> None:
        """Load the weights of the best epoch into the network, if they were kept."""
        if self._best_network:
            network.load_state_dict(self._best_network)

    def state_dict(self) -> dict[str, Any]:
        return {
            "share": self.rate_factor,
            "best": self.best,
            "epochs_since": self.epochs_since_best,
            "_since_reduced": self._since_reduced,
            "_state": self._best_network,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rate_factor, self.best = state["share"], state["best"]
        self.epochs_since_best, self._since_reduced = state["epochs_since"], state["_since_reduced"]
        self._best_network = dict(state["_state"])
