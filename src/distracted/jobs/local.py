"""Runs a grid on this machine: one process a job, on its GPUs or cores."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from distracted.errors import ClusterError
from distracted.jobs.grid import Command, Ended, Job, Log, Watch, judge, start, variables_for
from distracted.jobs.warm import Process, WarmStart
from distracted.stopping import Stop

#: Whether scripts are started as forks: elsewhere, as on a Mac, libraries refuse to work in one.
FORKS = sys.platform == "linux"
_LOOK = 0.2  # seconds between looks at the processes


class Here:
    """This machine as a grid's engine.

    Args:
        num_cpus: Cores to use.
        at_once: Most jobs at a time; 0: as many as there is room for.
        cards: GPUs to use, as CUDA_VISIBLE_DEVICES names them; each job sees its own only.
    """

    grows = False
    startup = 3.0 if FORKS else 10.0

    def __init__(self, num_cpus: int, *, at_once: int = 0, cards: Sequence[str] = ()) -> None:
        self.num_cpus = num_cpus
        self.num_gpus = len(cards)
        self.at_once = at_once or num_cpus
        self._free_cpus, self._free_slots = num_cpus, self.at_once
        self._free = dict.fromkeys(cards, 1.0)
        self._packs = False  # whether jobs share a GPU while another is free
        self._warm: dict[int, WarmStart] = {}  # by number of threads, which libraries read when imported

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse a job that asks for more than this machine has."""
        for job in jobs:
            if job.num_cpus > self.num_cpus or job.num_gpus > min(1, self.num_gpus):
                raise ClusterError(
                    f"{job}: asks for {job.num_cpus} cores and {job.num_gpus:g} GPUs (runtime.num_cpus, "
                    f"runtime.num_gpus); this machine has {self.num_cpus} cores and {self.num_gpus} GPUs"
                )

    def run(
        self, jobs: Sequence[Job], *, command: Command, log: Log, stop: Stop, watch: Watch
    ) -> list[Ended]:
        """Run jobs as processes."""
        self.check(jobs)
        self._packs = any(job.num_gpus > 0.5 for job in jobs)  # these need a free one
        waiting, ended = list(jobs), list[Ended]()
        running: dict[Process, tuple[Job, str]] = {}
        stop_sent = False
        try:
            while running or (waiting and not stop.reason):
                for job in [] if stop.reason else list(waiting):
                    if (card := self._take(job)) is not None:
                        waiting.remove(job)
                        process = self._start(job, card, command, log)
                        running[process] = job, card
                if stop.reason and not stop_sent:
                    stop_sent = True
                    for process in running:
                        process.terminate()
                for process, (job, card) in list(running.items()):
                    if (code := process.poll()) is not None:
                        del running[process]
                        self._give_back(job, card)
                        ended.append(judge(job, code, log(job), stop_sent=stop_sent))
                if further := watch(ended):
                    self.check(further)
                    waiting += further
                time.sleep(_LOOK)
        finally:
            for process in running:  # after an error here: nobody else would end them
                process.terminate()
            while self._warm:
                self._warm.popitem()[1].close()
        return [*ended, *(Ended(job, "stopped", "not started") for job in waiting)]

    def _start(self, job: Job, card: str, command: Command, log: Log) -> Process:
        device = ("cuda" if card else "cpu") if self.num_gpus else "auto"  # auto may be a Mac's GPU
        variables = variables_for(job.num_cpus, card if self.num_gpus else None)
        whole = command(job, device)
        if not (FORKS and whole[0] == sys.executable and Path(whole[1]).suffix == ".py"):
            return start(whole, log(job), variables)
        warm = self._warm.get(job.num_cpus)
        if warm is None or not warm.is_alive:
            warm = self._warm[job.num_cpus] = WarmStart(variables)
        return warm.start(whole[1:], log(job), variables)

    def _take(self, job: Job) -> str | None:
        """Reserve a GPU for a job, "" if it needs none; None: it has to wait."""
        if job.num_cpus > self._free_cpus or not self._free_slots:
            return None
        card = ""
        if job.num_gpus:
            enough = [name for name, share in self._free.items() if share >= job.num_gpus - 1e-9]
            if not enough:
                return None
            card = (min if self._packs else max)(enough, key=lambda name: self._free[name])
            self._free[card] -= job.num_gpus
        self._free_cpus -= job.num_cpus
        self._free_slots -= 1
        return card

    def _give_back(self, job: Job, card: str) -> None:
        self._free_cpus += job.num_cpus
        self._free_slots += 1
        if card:
            self._free[card] += job.num_gpus
