"""Lets OpenMP's threads share the machine with other work; set before torch is imported.

By default a thread that waits for others at the end of a parallel loop spins for milliseconds. Beside other
work it spins while the one that it waits for cannot run. Asleep at once, on the other hand, threads that have
a machine to themselves wake too late. So the spin is shorter than the default, and shorter still where others
use the cores already. Short turns on the processor let a thread that wakes run sooner (docs/performance.md).
"""

import ctypes
import os
import platform
import time
from pathlib import Path

from distracted.cores import usable_cores

#: Turns of the waiting loop in GNU's OpenMP, which torch's builds for Linux use; its own default is 300,000.
_SPIN = 5000
#: The same beside other work.
_SHORT_SPIN = 1000
#: Cores that others use, from which on there is other work; less is what any system does.
_OTHER_WORK = 0.5
_LOOK_SECONDS = 0.1
#: Variables by which a user decides on the waiting.
_CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
#: Nanoseconds of a turn on the processor; Linux takes 100,000 and more, and its default is some milliseconds.
_TURN = 300_000
#: Number of Linux's call sched_setattr, which Python's os module lacks.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}


def share_machine() -> None:
    """Set how threads wait, and their number where a quota of CPU time allows fewer than there are cores.

    What the user has set stays. Processes that this one starts inherit it.
    """
    if not any(name in os.environ for name in _CHOSEN):
        spin = _SHORT_SPIN if cores_in_use() >= _OTHER_WORK else _SPIN
        os.environ["GOMP_SPINCOUNT"] = str(spin)
        take_turns_of(_TURN)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    if (usable := usable_cores()) < cores:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable))


def cores_in_use(statistics: Path = Path("/proc/stat")) -> float:
    """Cores of this process that others use in a tenth of a second; 0 where the system is not Linux."""
    before = _ticks(statistics)
    if not before:
        return 0.0
    time.sleep(_LOOK_SECONDS)
    after = _ticks(statistics)
    cores = before.keys() & after.keys()  # a core may be switched on or off meanwhile
    spent = [(after[core][0] - before[core][0], after[core][1] - before[core][1]) for core in cores]
    return sum(busy / total for busy, total in spent if total > 0)


def _ticks(statistics: Path) -> dict[int, tuple[int, int]]:
    """Busy and total clock ticks of each core that this process may use."""
    if not hasattr(os, "sched_getaffinity") or not statistics.exists():
        return {}
    ours, ticks = os.sched_getaffinity(0), {}
    for line in statistics.read_text().splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in ours:
            times = [int(field) for field in fields[:8]]  # idle and waiting for a disk are fields 3 and 4
            ticks[int(name[3:])] = (sum(times) - times[3] - times[4], sum(times))
    return ticks


class _Attributes(ctypes.Structure):
    """Linux's struct sched_attr, version 0."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def take_turns_of(nanoseconds: int) -> bool:
    """Ask for turns of this length on the processor; 0 is the system's own. The share of its time stays.

    Linux heeds it from version 6.12 on. Returns whether the system took the request.
    """
    number = _SCHED_SETATTR.get(platform.machine()) if platform.system() == "Linux" else None
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _Attributes(ctypes.sizeof(_Attributes), os.SCHED_OTHER, 0, nice, 0, nanoseconds, 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, 0, ctypes.byref(wanted), 0) == 0)
