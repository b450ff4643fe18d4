"""Processes of a team, each started as users' trainings are: they wait for each other, and stop together."""

import json
import sys
from pathlib import Path

import pytest
from torch.distributed import DistBackendError

from distracted.errors import ClusterError, TrainingError
from distracted.jobs.launch import run_team
from distracted.stopping import Stop, Stopped
from distracted.training.distributed import naming_lost_peers

pytestmark = pytest.mark.slow

START = """
import json, os, sys, time
from datetime import timedelta
from pathlib import Path
import torch
from torch import distributed, nn
from distracted.stopping import Stop, Stopped
from distracted.training.distributed import join_team

rank, stop, folder, cpu = int(os.environ["RANK"]), Stop(), Path(sys.argv[1]), torch.device("cpu")

def tell(**facts):
    (folder / f"{rank}.json").write_text(json.dumps(facts))
"""


def run(code: str, folder: Path) -> None:
    """Run some code in each of two processes, which may leave facts in the folder."""
    run_team(2, [sys.executable, "-c", START + code, str(folder)], stop=Stop())


def facts(folder: Path) -> list[dict[str, object]]:
    """What the processes have left, by rank."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_a_process_waits_longer_for_the_others_than_torch_does(tmp_path: Path) -> None:
    """The others may decode a large test set meanwhile. Torch's limit is made two seconds here."""
    code = """
distributed.distributed_c10d.default_pg_timeout = timedelta(seconds=2)
with join_team(cpu) as team:
    network = nn.Linear(2, 2)
    time.sleep(4 * rank)
    gathered = team.gather(rank)
    time.sleep(4 * rank)
    team.follow_lead(network)
    tell(gathered=gathered, weights=network.weight.sum().item())
"""
    run(code, tmp_path)
    one, other = facts(tmp_path)
    assert one == other and one["gathered"] == [0, 1]


def test_a_request_to_one_process_stops_all_at_the_same_point(tmp_path: Path) -> None:
    """And the process group is left in order, so that nothing waits when they exit."""
    code = """
rounds = 0
try:
    with join_team(cpu) as team, stop.waiting():
        while True:
            if rank == 1 and rounds == 3:
                stop.ask("the test")
            team.check(stop)
            rounds += 1
except Stopped as error:
    tell(rounds=rounds, reason=str(error), left=not distributed.is_initialized())
    sys.exit(75)
"""
    with pytest.raises(Stopped):
        run(code, tmp_path)
    told = facts(tmp_path)
    assert [one["rounds"] for one in told] == [3, 3] and all(one["left"] for one in told)
    assert [one["reason"] for one in told] == ["another process of the team was asked to", "the test"]


def test_after_an_error_the_process_group_stays_until_the_launcher_ends_it(tmp_path: Path) -> None:
    code = """
try:
    with join_team(cpu) as team:
        team.wait()
        if rank == 1:
            raise ValueError
        team.wait()
finally:
    tell(left=not distributed.is_initialized())
"""
    with pytest.raises(ClusterError):
        run(code, tmp_path)
    assert json.loads((tmp_path / "1.json").read_text()) == {"left": False}


@pytest.mark.parametrize(
    ("last_error", "message"),
    [
        (
            "Error while creating shared memory segment /dev/shm/nccl-WU88OE (size 9637888)",
            r"too little \(Error while .* \(size 9637888\)\); a container takes --shm-size",
        ),
        ("socketProgress: Connection closed by remote peer", "another process of the team has ended"),
    ],
)
def test_a_failed_exchange_is_named(last_error: str, message: str) -> None:
    """NCCL's messages, without NCCL: there is no GPU."""
    nccl = (
        "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.21.5\nncclSystemError"
    )
    with pytest.raises(TrainingError, match=message), naming_lost_peers():
        raise DistBackendError(
            f"NCCL error in: NCCLUtils.hpp:317, {nccl}: failed.\nLast error:\n{last_error}"
        )
