"""The processor cores and the memory that this process may use."""

import os
from collections.abc import Iterator
from math import ceil, inf
from pathlib import Path, PurePosixPath

_MOST_WORKERS = 16  # more loader processes only take memory: one GPU trains no faster than these decode


def usable_cores() -> int:
    """Number of cores in the process's affinity, at most its cgroup's CPU quota rounded up; at least 1.

    `os.cpu_count()` is the whole machine's number, also in a container or job that has a part of it. joblib's
    count misses the quota of a systemd service, such as a JupyterHub user's.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, ceil(min(cores, cpu_quota())))


def workers_for(num_cores: int) -> int:
    """Number of loader processes for a network on a GPU that has this many cores to itself."""
    return min(_MOST_WORKERS, max(1, num_cores))


def decoding_threads() -> int:
    """Number of threads that decode images into the cache: one a core that this process may use, at most 16.

    Not torch's number of threads, which is a job's share in a grid: one process decodes, and those that need
    the same images wait for it.
    """
    return workers_for(usable_cores())


def cpu_quota(own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float:
    """The CPU quota of this process in cores: the least of its cgroup's and those above; inf: none.

    Reads cgroups of version 1 and 2. A container may see its host's path for its cgroup, which does not exist
    there; what is mounted as the root is then its own.

    Args:
        own: File that names the process's cgroups.
        mount: Folder of the cgroup file system.
    """
    return min(map(_quota, _cgroups("cpu", own, mount)), default=inf)


def free_memory(
    own: Path = Path("/proc/self/cgroup"),
    mount: Path = Path("/sys/fs/cgroup"),
    machine: Path = Path("/proc/meminfo"),
) -> float:
    """Bytes of memory that this process could still use: the least of its machine's and its cgroups'.

    inf where the system does not say. Files in the page cache count as free.

    Args:
        own, mount: As for `cpu_quota`.
        machine: File with the machine's memory.
    """
    sizes = dict(line.split(":") for line in _read(machine).splitlines())
    free = int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else inf
    return max(0.0, min([free, *map(_unused, _cgroups("memory", own, mount))]))


def _cgroups(controller: str, own: Path, mount: Path) -> Iterator[Path]:
    """The folders of this process's cgroups that may limit a controller, and of those above."""
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = mount / controller if controllers else mount
        parts = PurePosixPath(path).parts[1:]
        for depth in range(len(parts) + 1):
            yield root.joinpath(*parts[:depth])


def _quota(cgroup: Path) -> float:
    """One cgroup's own quota: microseconds of CPU time a period, over the period; `max` or -1: none."""
    both = _read(cgroup / "cpu.max").split()
    if not both:
        both = [_read(cgroup / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        quota, period = map(int, both)
    except ValueError:
        return inf
    return quota / period if quota > 0 and period > 0 else inf


def _unused(cgroup: Path) -> float:
    """One cgroup's memory limit minus its use; inf: no limit."""
    for limit, use, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            free = int(_read(cgroup / limit)) - int(_read(cgroup / use))
        except ValueError:
            continue
        stat = dict(line.split() for line in _read(cgroup / "memory.stat").splitlines())
        return free + int(stat.get(cached, 0))
    return inf


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
