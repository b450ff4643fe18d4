"""What a phase does about the score that it watches: stop early, keep the best epoch, lower the rate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from distracted.models.network import Network
from distracted.schema import TrainPhase


@dataclass
class Watch:
    """The state of one phase's watching.

    Attributes:
        share: Of its learning rate that the phase has come down to.
        best: The lowest score so far; epochs_since: that have passed without a lower one.
    """

    phase: TrainPhase
    share: float = 1.0
    best: float = float("inf")
    epochs_since: int = 0
    _since_reduced: int = 0
    _state: dict[str, torch.Tensor] = field(default_factory=dict)

    def look(self, score: float, network: Network, *, warming_up: bool = False) -> None:
        """Take note of a log loss and of the network that made it: before the first epoch, and after each.

        Args:
            warming_up: The rate still rises; an epoch without improvement does not count yet.
        """
        if score < self.best:
            self.best, self.epochs_since, self._since_reduced = score, 0, 0
            if self.phase.keep == "best":
                self._state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            return
        if warming_up:
            return
        self.epochs_since += 1
        self._since_reduced += 1
        if self.phase.schedule == "plateau" and self._since_reduced >= self.phase.reduce_after:
            self.share *= self.phase.reduce_to
            self._since_reduced = 0

    @property
    def stop(self) -> bool:
        return self.phase.patience is not None and self.epochs_since >= self.phase.patience

    def state(self) -> dict[str, Any]:
        """What `load` takes."""
        kept = ("share", "best", "epochs_since", "_since_reduced", "_state")
        return {name: getattr(self, name) for name in kept}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name, value in state.items():
            setattr(self, name, value)

    def restore(self, network: Network) -> None:
        """Give the network the weights of its best epoch, where they are kept."""
        if self._state:
            network.load_state_dict(self._state)
