"""Starts the processes that train one fold together on this machine, and ends them together."""

import math
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from distracted.errors import ClusterError
from distracted.jobs.grid import by_signal, is_stop
from distracted.stopping import Stop, Stopped

_LOOK = 0.2  # seconds between looks at the processes
_GRACE = 5.0  # seconds that the others get to end after one has failed
_LAST_WORK = 60.0  # and after one has stopped, when the state is saved


def run_team(size: int, command: Sequence[str], *, stop: Stop) -> None:
    """Run a command as a team of processes on this machine.

    Each process learns of the team by the environment variables of torch's launcher. `torchrun` itself is not
    used: it does not tell how processes ended that it was told to stop.

    Args:
        stop: Passed on to the processes, which save the fold's state.

    Raises:
        ClusterError: one of them failed; its message has been printed. The others were ended.
        Stopped: they were told to stop; the fold's state is saved.
    """
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    shared = {
        "TORCHELASTIC_RUN_ID": "team",
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # they meet at the store of this process
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": store.port,
        "WORLD_SIZE": size,
        "OMP_NUM_THREADS": max(1, torch.get_num_threads() // size),
    }
    processes: list[subprocess.Popen[bytes]] = []
    with stop.waiting():
        try:
            for rank in range(size):
                variables = {**shared, "RANK": rank, "LOCAL_RANK": rank}
                assigned = [f"{name}={value}" for name, value in variables.items()]
                processes.append(subprocess.Popen(["env", *assigned, *command]))
            failure = _watch(processes, stop)
        finally:
            _end(processes)
    if failure:
        how = f"was {by_signal(failure)}" if failure < 0 else f"failed with exit code {failure}"
        raise ClusterError(f"a process of the team {how}; see above")
    if any(process.returncode for process in processes):
        raise Stopped(stop.reason or "the processes were told to stop")


def _watch(processes: Sequence[subprocess.Popen[bytes]], stop: Stop) -> int:
    """Wait until all have ended or one has failed; returns the failure's exit code, or 0.

    Once one has stopped, the others have to stop soon, too, however they end: one that still waits to meet
    it, or for an exchange with it, does so in vain.
    """
    stop_sent, deadline = False, math.inf
    while True:
        codes = [process.poll() for process in processes]
        stopped = [code for code in codes if code and is_stop(code, stop_sent=stop_sent)]
        failed = [code for code in codes if code and code not in stopped]
        if failed and deadline == math.inf:
            return failed[0]
        if None not in codes or time.monotonic() >= deadline:
            return 0
        if stopped:
            deadline = min(deadline, time.monotonic() + _LAST_WORK)
        if (stop.reason or stopped) and not stop_sent:
            stop_sent = True
            for process in processes:
                process.terminate()
        time.sleep(_LOOK)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes that are left: one that waits for another in an exchange hears no signal but SIGKILL."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.wait()
