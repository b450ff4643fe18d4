"""Lets OpenMP's threads share the machine with other work; set before torch is imported.

By default a thread that waits for others at the end of a parallel loop spins for milliseconds. Beside other
work it spins while the one that it waits for cannot run. Asleep at once, on the other hand, threads that have
a machine to themselves wake too late. A short spin costs neither (docs/performance.md).
"""

import os

from distracted.cores import usable_cores

#: Turns of the waiting loop in GNU's OpenMP, which torch's builds for Linux use; its own default is 300,000.
_SPIN = 700
#: Variables by which a user decides on the waiting.
_CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def share_machine() -> None:
    """Set how threads wait, and their number where a quota of CPU time allows fewer than there are cores.

    What the user has set stays. Processes that this one starts inherit it.
    """
    if not any(name in os.environ for name in _CHOSEN):
        os.environ["GOMP_SPINCOUNT"] = str(_SPIN)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    if (usable := usable_cores()) < cores:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable))
