"""A real Ray cluster of two nodes on this machine, and the loss of one while it trains."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from trainings import SECONDS

from distracted.locks import holder


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes of one core."""
    utils = pytest.importorskip("ray.cluster_utils", reason="the extra `cluster` is not installed")
    cluster = utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "num_gpus": 0}
    )
    cluster.add_node(num_cpus=1, num_gpus=0)
    yield cluster
    cluster.shutdown()


def lose_a_node(cluster: Any, root: Path) -> Path | None:
    """Kill the second node with its job in the middle of a fold of 40 epochs; the fold's folder, or None."""
    [node] = list(cluster.worker_nodes)
    job = _suspend_a_job_of(node, root)
    if job is None:
        return None
    fold, pid = job
    worker, deadline = parent(pid), time.monotonic() + SECONDS
    cluster.remove_node(node, allow_graceful=False)
    while parent(pid) == worker:  # the worker would report its job's end
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    return fold


def _suspend_a_job_of(node: Any, root: Path) -> tuple[Path, int] | None:
    """Stop a job of a Ray node in the middle of its fold; the fold's folder and the process, or None."""
    raylets = [info.process.pid for info in node.all_processes["raylet"]]
    for lock in (root / "runs").rglob("lock.json"):
        fold, owner = lock.parent, holder(lock)
        if owner is None or parent(parent(owner.pid)) not in raylets or not _in_the_middle(fold):
            continue
        os.kill(owner.pid, signal.SIGSTOP)
        if _in_the_middle(fold) and holder(lock) == owner:
            return fold, owner.pid
        os.kill(owner.pid, signal.SIGCONT)  # it ended meanwhile
    return None


def _in_the_middle(fold: Path) -> bool:
    """Whether a fold's training has a checkpoint to go on from, and epochs to go."""
    metrics = fold / "metrics.jsonl"
    epochs = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    return (fold / "last.ckpt").exists() and 0 < epochs < 30


def parent(pid: int) -> int:
    """The process that started a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return 0
