"""Rates on a device, which runs behind Python."""

import time
from collections.abc import Callable

import torch


def wait_for_device(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def rate(work: Callable[[], int], device: str, *, seconds: float, warm_up: int = 2) -> float:
    """Units of work a second, over at least so many seconds and two turns.

    Args:
        work: Does some work and returns the number of units; what it gives to the device may still run.
    """
    for _ in range(warm_up):
        work()
    wait_for_device(device)
    start, done, turns = time.perf_counter(), 0, 0
    while turns < 2 or time.perf_counter() - start < seconds:
        done += work()
        turns += 1
        if device != "cpu" and turns % 4 == 0:  # Python would run far ahead
            wait_for_device(device)
    wait_for_device(device)
    return done / (time.perf_counter() - start)
