"""Runs a grid on this machine: one process a job, on its GPUs or cores."""

import subprocess
import time
from collections.abc import Sequence

import torch

from distracted.errors import ClusterError
from distracted.jobs.grid import Command, Ended, Job, Log, Watch, judge, start
from distracted.stopping import Stop

_LOOK = 0.2  # seconds between looks at the processes


class Here:
    """This machine as a grid's engine.

    Args:
        num_cpus: Cores to use.
        at_once: Most jobs at a time; 0: as many as there is room for.
        num_gpus: GPUs to use; None: all.
    """

    grows = False

    def __init__(self, num_cpus: int, *, at_once: int = 0, num_gpus: int | None = None) -> None:
        self.num_cpus = num_cpus
        self.num_gpus = torch.cuda.device_count() if num_gpus is None else num_gpus
        self.at_once = at_once or num_cpus
        self._free_cpus, self._free_slots = num_cpus, self.at_once
        self._free = {f"cuda:{number}": 1.0 for number in range(self.num_gpus)}

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse a job that asks for more than this machine has."""
        for job in jobs:
            if (device := self._take(job)) is None:
                raise ClusterError(
                    f"{job}: asks for {job.num_cpus} cores and {job.num_gpus:g} GPUs (runtime.num_cpus, "
                    f"runtime.num_gpus); this machine has {self.num_cpus} cores and {self.num_gpus} GPUs"
                )
            self._give_back(job, device)

    def run(
        self, jobs: Sequence[Job], *, command: Command, log: Log, stop: Stop, watch: Watch
    ) -> list[Ended]:
        """Run jobs as processes."""
        self.check(jobs)
        waiting, ended = list(jobs), list[Ended]()
        running: dict[subprocess.Popen[bytes], tuple[Job, str]] = {}
        stop_sent = False
        try:
            while running or (waiting and not stop.reason):
                for job in [] if stop.reason else list(waiting):
                    if (device := self._take(job)) is not None:
                        waiting.remove(job)
                        process = start(command(job, device), log(job), job.num_cpus)
                        running[process] = job, device
                if stop.reason and not stop_sent:
                    stop_sent = True
                    for process in running:
                        process.terminate()
                for process, (job, device) in list(running.items()):
                    if (code := process.poll()) is not None:
                        del running[process]
                        self._give_back(job, device)
                        ended.append(judge(job, code, log(job), stop_sent=stop_sent))
                watch(ended)
                time.sleep(_LOOK)
        finally:
            for process in running:  # after an error here: nobody else would end them
                process.terminate()
        return [*ended, *(Ended(job, "stopped", "not started") for job in waiting)]

    def _take(self, job: Job) -> str | None:
        """Reserve a device for a job; None: it has to wait."""
        if job.num_cpus > self._free_cpus or not self._free_slots:
            return None
        device = "cpu" if self.num_gpus else "auto"  # auto may be a Mac's GPU
        if job.num_gpus:
            enough = [name for name, share in self._free.items() if share >= job.num_gpus - 1e-9]
            if not enough:
                return None
            device = min(enough, key=lambda name: self._free[name])  # keeps whole GPUs free
            self._free[device] -= job.num_gpus
        self._free_cpus -= job.num_cpus
        self._free_slots -= 1
        return device

    def _give_back(self, job: Job, device: str) -> None:
        self._free_cpus += job.num_cpus
        self._free_slots += 1
        if job.num_gpus:
            self._free[device] += job.num_gpus
