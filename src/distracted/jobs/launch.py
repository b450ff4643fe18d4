"""Starts the processes that train one fold together, by torch's launcher."""

import logging
import os
import signal
import tempfile
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from distracted.errors import ClusterError
from distracted.stopping import RESUMABLE, Stopped


def run_team(size: int, command: Sequence[str]) -> None:
    """Run a command as a team of processes on this machine, as `torchrun --nproc-per-node` does.

    Raises:
        ClusterError: one of them failed; its message has been printed.
        Stopped: they were told to stop; the fold's state is saved.
    """
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=size,
            run_id=str(os.getpid()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            monitor_interval=0.2,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        # its many lines are replaced by the error below
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        threads = max(1, torch.get_num_threads() // size)
        try:
            elastic_launch(config, "env")(f"OMP_NUM_THREADS={threads}", *command)
        except ChildFailedError as error:
            codes = {failure.exitcode for failure in error.failures.values()}
            if RESUMABLE in codes:
                raise Stopped("the processes were told to stop") from None
            first = next((code for code in sorted(codes) if code != -signal.SIGTERM), -signal.SIGTERM)
            ended = f"was ended by signal {-first}" if first < 0 else f"failed with exit code {first}"
            raise ClusterError(f"a process of the team {ended}; see above") from None
        except SignalException as error:
            raise Stopped(error.sigval.name) from None
