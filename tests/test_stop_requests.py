"""Requests to stop: at once, or where the work is saved."""

import pytest

from distracted.stopping import Stop, Stopped


def test_a_request_raises_at_once_but_not_within_waiting_blocks() -> None:
    stop = Stop()
    with stop.waiting():
        with stop.waiting():
            stop.ask("inside")
        stop.ask("between")  # the outer block still waits
        with pytest.raises(Stopped, match="inside"):
            stop.check()
    with pytest.raises(Stopped, match="inside"):
        stop.ask("outside")
