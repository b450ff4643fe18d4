"""One fold on several devices: the processes that a launcher started, and how they agree.

Each process has the whole network and a share of each batch. The first, the lead, writes files; the others
only compute. A process that the launcher did not start is a team of one and exchanges nothing.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from distracted.errors import TrainingError
from distracted.models.network import Network
from distracted.stopping import Stop, Stopped

#: For the slowest of a team, which may decode a large test set. A lost process is the launcher's concern: it
#: ends the others within seconds.
_LONGEST_WAIT = timedelta(days=7)
#: Keeps each process's BatchNorm statistics its own; torch 2.13 has renamed the argument.
_SYNC_BUFFERS = max(
    {"forward_sync_buffers", "broadcast_buffers"} & {*signature(DistributedDataParallel).parameters}
)


@dataclass(frozen=True)
class Team:
    """The processes that train a fold together.

    Attributes:
        rank: This process's number, from 0.
        size: Number of processes.
        control: The process group on the CPU in which they agree.
    """

    rank: int = 0
    size: int = 1
    control: Any = None

    @property
    def is_lead(self) -> bool:
        return self.rank == 0

    def share(self, rows: NDArray[Any]) -> NDArray[Any]:
        """This process's share of some rows; the shares are disjoint and cover all rows."""
        return np.array_split(rows, self.size)[self.rank]

    def agree(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has set it."""
        if self.size == 1:
            return list(flags)
        tensor = torch.tensor(flags, dtype=torch.uint8)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self.control)
        return [bool(flag) for flag in tensor]

    def check(self, stop: Stop) -> None:
        """Raise Stopped in all processes if any was asked to stop."""
        if self.size == 1:
            return stop.check()
        [asked] = self.agree(bool(stop.reason))
        if asked:
            raise stop_of_team(stop)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor on the CPU over the processes."""
        if self.size > 1:
            distributed.all_reduce(values, group=self.control)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Each process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value, group=self.control)
        return values

    def hear(self, value: Any) -> Any:
        """The lead's value, in every process."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier(group=self.control)

    def follow_lead(self, network: nn.Module) -> None:
        """Copy the lead's tensors to all processes."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                distributed.broadcast(tensor, 0)

    def average_statistics(self, network: nn.Module) -> None:
        """Average BatchNorm's running statistics over the processes; each has seen its own images."""
        if self.size > 1:
            for buffer in running_statistics(network).values():
                distributed.all_reduce(buffer)
                buffer /= self.size


ALONE = Team()


def stop_of_team(stop: Stop) -> Stopped:
    """What each process raises once any of them was asked to stop."""
    return Stopped(stop.reason or "another process of the team was asked to")


class WeightedLogits(nn.Module):
    """`Network.weighted_logits` as a forward pass: DDP's hooks on gradients see no other method."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
        return self.network.weighted_logits(images)


def data_parallel(network: Network, team: Team, device: torch.device) -> DistributedDataParallel:
    """The network's weighted logits, with gradients averaged over the team, for the layers that learn now.

    A sum over three or more processes depends on the place of a gradient in its bucket. DDP forms new buckets
    after its first step, so a resumed training would round differently, unless it has to look for unused
    parameters in each step; then it keeps the first ones.
    """
    ids = [torch.cuda.current_device()] if device.type == "cuda" else None
    options: dict[str, Any] = {_SYNC_BUFFERS: False, "find_unused_parameters": team.size > 2}
    return DistributedDataParallel(WeightedLogits(network), device_ids=ids, init_sync=False, **options)


def running_statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    """BatchNorm's running statistics by name; during training each process has those of its own batches."""
    buffers = network.named_buffers()
    return {name: b for name, b in buffers if name.rpartition(".")[2] in ("running_mean", "running_var")}


def in_team() -> bool:
    """Whether `run_team` or torch's launcher started this process."""
    return distributed.is_torchelastic_launched() and "RANK" in os.environ


@contextmanager
def naming_lost_peers() -> Iterator[None]:
    """Turn the failure of an exchange between processes into an error that says what happened.

    Raises:
        TrainingError: another process of the team has ended, or there is too little shared memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error).lower():
            raise  # gloo has no error class; its messages name it
        if lack := re.search(r".*shared memory.*", str(error)):
            raise TrainingError(
                "the processes of the team exchange gradients in shared memory, of which there is too little "
                f"({lack[0].strip()}); a container takes --shm-size=1g, or --ipc=host; or set "
                "NCCL_SHM_DISABLE=1"
            ) from error
        raise TrainingError(
            "another process of the team has ended (its message, if any, is printed above); the same command "
            "goes on from the last checkpoint"
        ) from error


def take_card(device: str) -> None:
    """Make the GPU of this process of a team the current one, before anything is allocated."""
    if in_team() and device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


@contextmanager
def join_team(device: torch.device) -> Iterator[Team]:
    """The team that the launcher has put this process in, by the environment variables of torch's launcher.

    In this block a process raises Stopped only where all do, or when it has nothing left to exchange.

    Args:
        device: The resolved one; processes on CUDA exchange gradients by NCCL, others by gloo.

    Raises:
        TrainingError: as `naming_lost_peers`.
    """
    if not in_team():
        yield ALONE
        return
    with naming_lost_peers():
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=_LONGEST_WAIT)
        control = distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        try:
            yield Team(distributed.get_rank(), distributed.get_world_size(), control)
        except Stopped:
            distributed.destroy_process_group()
            raise
    # Not after an error: it would wait for the others, which wait until the launcher ends them.
    distributed.destroy_process_group()
