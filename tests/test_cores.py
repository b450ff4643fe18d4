"""The cores that a process may use: its affinity, and the quotas of its cgroups."""

import os
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

from distracted.cores import cpu_quota, decoding_threads, usable_cores, workers_for


@pytest.fixture
def quota(tmp_path: Path) -> object:
    """A function that writes cgroup files and reads the quota of a process in them."""

    def of(own: str, files: dict[str, str]) -> float:
        (tmp_path / "cgroup").write_text(own)
        for name, text in files.items():
            path = tmp_path / "mount" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cpu_quota(tmp_path / "cgroup", tmp_path / "mount")

    return of


V1 = "12:cpuset:/\n4:cpu,cpuacct:{}\n1:name=systemd:/init.scope\n0::/init.scope\n"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, inf),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),  # docker run --cpus=1.5
        ("0::/\n", {}, inf),  # the root of a machine has no such file
        # a systemd service with CPUQuota=, in a slice that has more
        (
            "0::/system.slice/hub.service\n",
            {
                "system.slice/cpu.max": "800000 100000",
                "system.slice/hub.service/cpu.max": "200000 100000",
            },
            2.0,
        ),
        # the same the other way round: the slice is the limit
        (
            "0::/user.slice/user-1000.slice/session-2.scope\n",
            {"user.slice/user-1000.slice/cpu.max": "300000 100000", "user.slice/cpu.max": "max 100000"},
            3.0,
        ),
        ("0::/docker/0a1b2c\n", {"cpu.max": "400000 100000"}, 4.0),  # the host's path, the container's mount
        (V1.format("/"), {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, inf),
        (V1.format("/"), {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        (
            V1.format("/docker/0a1b2c"),
            {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"},
            2.0,
        ),
        (
            V1.format("/kubepods/pod7"),
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "cpu/kubepods/pod7/cpu.cfs_quota_us": "700000",
                "cpu/kubepods/pod7/cpu.cfs_period_us": "100000",
            },
            7.0,
        ),
        ("", {}, inf),
        ("0::/\n", {"cpu.max": "what\n"}, inf),
    ],
)
def test_the_quota_is_the_least_of_the_cgroup_and_those_above(
    quota: object, own: str, files: dict[str, str], cores: float
) -> None:
    assert quota(own, files) == cores  # type: ignore[operator]


def test_a_system_without_cgroups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "missing", tmp_path) == inf


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_bound_to_one_core_has_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from distracted.cores import usable_cores; print(usable_cores())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "1\n"
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_the_workers_of_a_network_on_a_gpu() -> None:
    assert [workers_for(cores) for cores in (0, 1, 2, 16, 96)] == [1, 1, 2, 16, 16]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_images_are_decoded_by_all_cores_whatever_torch_may_use() -> None:
    code = "import os; from distracted.cores import decoding_threads; print(decoding_threads())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a job of a grid, say
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert int(printed) == decoding_threads() == min(16, usable_cores())
