"""The cores and the memory that a process may use: the machine's, and the limits of its cgroups."""

import os
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

from distracted.cores import cpu_quota, decoding_threads, free_memory, usable_cores, workers_for


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


GB = 10**9
MACHINE = f"MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:    {32 * GB // 1024} kB\nHugePages_Total: 0\n"


def v2(limit: object, used: int, cached: int = 0) -> dict[str, str]:
    stat = f"anon 1\ninactive_file {cached}\nactive_file 7\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat}


def v1(limit: int, used: int, cached: int = 0) -> dict[str, str]:
    stat = f"cache 1\ninactive_file 5\ntotal_inactive_file {cached}\n"
    return {"memory.limit_in_bytes": f"{limit}", "memory.usage_in_bytes": f"{used}", "memory.stat": stat}


def below(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("own", "files", "machine", "free"),
    [
        ("0::/\n", {}, MACHINE, 32 * GB),
        ("0::/\n", v2("max", 5 * GB), MACHINE, 32 * GB),
        ("0::/\n", v2(4 * GB, 3 * GB), MACHINE, 1 * GB),  # docker run --memory=4g
        ("0::/\n", v2(4 * GB, 3 * GB, cached=2 * GB), MACHINE, 3 * GB),  # the system drops cached files
        ("0::/\n", v2(4 * GB, 5 * GB), MACHINE, 0),
        ("0::/\n", v2(100 * GB, 5 * GB), MACHINE, 32 * GB),
        ("0::/a/b\n", below("a", v2(6 * GB, 1 * GB)) | below("a/b", v2("max", 0)), MACHINE, 5 * GB),
        ("0::/docker/0a1b\n", v2(4 * GB, 3 * GB), MACHINE, 1 * GB),  # the host's path, the container's mount
        ("4:memory:/\n", below("memory", v1(2**63 - 4096, 5 * GB)), MACHINE, 32 * GB),
        ("4:memory:/x\n", below("memory", v1(8 * GB, 7 * GB, cached=GB)), MACHINE, 2 * GB),
        ("4:cpu:/\n", below("memory", v1(8 * GB, 7 * GB)), MACHINE, 32 * GB),
        ("", {}, "", inf),  # not Linux
        ("0::/\n", v2("what", 1), "MemTotal: 5 kB\n", inf),
    ],
)
def test_free_memory_is_the_least_of_the_machine_and_the_cgroups(
    tmp_path: Path, own: str, files: dict[str, str], machine: str, free: float
) -> None:
    for name, text in {"own": own, "machine": machine, **below("mount", files)}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = free_memory(tmp_path / "own", tmp_path / "mount", tmp_path / "machine")
    assert found == free or abs(found - free) < 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory is free")
def test_memory_in_use_is_not_free() -> None:
    code = (
        "from distracted.cores import free_memory; before = free_memory(); used = b'x' * 2 * 10**9\n"
        "print(before - free_memory(), before)"
    )
    difference, before = map(float, subprocess.check_output([sys.executable, "-c", code]).split())
    assert 1e9 < difference < 3e9 and before < 1e13  # other processes take and free some, too
