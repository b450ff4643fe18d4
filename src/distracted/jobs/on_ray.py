"""Runs a grid on a Ray cluster: one task a job, on a node that has its resources.

The project's folder and the workspace must have the same path on all nodes. A job's state is in its files
there: a task that is retried after its node was lost goes on from the fold's last checkpoint.
"""

import logging
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from distracted.errors import ClusterError, first_line
from distracted.jobs.grid import Command, Ended, Job, Log, Watch, judge, start, variables_for
from distracted.stopping import RESUMABLE, Stop

_log = logging.getLogger(__name__)

_RETRIES = 20  # of a job whose node was lost
_CONNECT_SECONDS = 5.0
_LOOK = 1.0  # seconds between looks at the tasks


class OnRay(AbstractContextManager["OnRay"]):
    """A Ray cluster as a grid's engine; a context manager.

    Args:
        address: The cluster's address: auto, host:port, or ray://host:port.

    Raises:
        ClusterError: Ray is not installed, or no cluster answers.
    """

    at_once = 0
    grows = True
    startup = 10.0

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise ClusterError("Ray is not installed; make setup EXTRAS=cluster installs it") from error
        self._ray: Any = ray
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and not _listens(host, port):  # Ray itself tries for five minutes
            raise ClusterError(
                f"CLUSTER={address}: nothing answers there; `ray start --head` says where it is, as host:port"
            )
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # each failure raises another type
            raise ClusterError(f"CLUSTER={address}: no Ray cluster answers ({first_line(error)})") from error
        signal.signal(signal.SIGTERM, handler)  # Ray's handler would exit at once
        has = ray.cluster_resources()
        self.num_cpus, self.num_gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def run(
        self, jobs: Sequence[Job], *, command: Command, log: Log, stop: Stop, watch: Watch
    ) -> list[Ended]:
        """Run jobs as tasks."""
        task = self._ray.remote(max_retries=_RETRIES, max_calls=1)(_work)

        def submit(job: Job) -> Any:
            placed = task.options(num_cpus=job.num_cpus, num_gpus=job.num_gpus, name=str(job))
            device = "cuda" if job.num_gpus else "cpu"  # a node may show its GPUs to every task
            card = None if job.num_gpus else ""  # Ray chooses a task's GPU, and shows it that one
            return placed.remote(list(command(job, device)), str(log(job)), job.num_cpus, card)

        return _collect(self._ray, jobs, submit, log, stop, watch)

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse nothing, since nodes may join; log which jobs wait for them."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        available = "; ".join(f"{node.get('CPU', 0):g} cores, {node.get('GPU', 0):g} GPUs" for node in nodes)
        for job in jobs:
            asked = {"CPU": job.num_cpus, "GPU": job.num_gpus}
            if not any(all(node.get(kind, 0) >= number for kind, number in asked.items()) for node in nodes):
                needs = f"{job.num_cpus} cores and {job.num_gpus:g} GPUs"
                _log.warning("%s: waits for a node with %s; there are: %s", job, needs, available)


def _listens(host: str, port: str) -> bool:
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _collect(
    ray: Any, jobs: Sequence[Job], submit: Callable[[Job], Any], log: Log, stop: Stop, watch: Watch
) -> list[Ended]:
    """Submit jobs and those that `watch` adds, and wait for them."""
    waiting, ended = {submit(job): job for job in jobs}, list[Ended]()
    stop_sent = False
    while waiting:
        if stop.reason and not stop_sent:
            stop_sent = True
            for reference in waiting:
                ray.cancel(reference)  # interrupts the task, which stops its process and waits for it
        ready, _ = ray.wait(list(waiting), timeout=_LOOK)
        for reference in ready:
            job = waiting.pop(reference)
            try:
                ended.append(judge(job, ray.get(reference), log(job)))
            except (ray.exceptions.TaskCancelledError, KeyboardInterrupt):
                ended.append(judge(job, RESUMABLE, log(job)))
            except ray.exceptions.RayError as error:
                reason = f"lost with its node {_RETRIES} times: {first_line(error)}"
                ended.append(Ended(job, "failed", reason))
        further = watch(ended)
        if not stop_sent:
            waiting |= {submit(job): job for job in further}
    return ended


def _work(command: list[str], log: str, num_cpus: int, card: str | None) -> int:
    """Run a job's command on a node; returns its exit code."""
    process = start(command, Path(log), variables_for(num_cpus, card))
    try:
        return process.wait()
    except BaseException:  # cancelled: let the fold save its state
        process.terminate()
        process.wait()
        raise
