"""What is expected of a job's time, and what ended jobs teach."""

import pytest

from distracted.compete.candidates import FROZEN, Candidate, Input
from distracted.compete.times import Speed, Times

ONE = Input("a", 224)
FROZEN_HEAD, TUNED = Candidate(ONE, FROZEN), Candidate(ONE, "full", 4)


def make_times() -> Times:
    speeds = {ONE: Speed({"full": 0.1}, predict=0.02, fit=1.0)}
    return Times(speeds, num_train=100, num_valid=25, num_test=50, startup=10.0, waits=0.5)


def test_an_estimate_holds_all_parts_of_a_job() -> None:
    times = make_times()
    assert times.seconds(TUNED) == pytest.approx(10 + 1 + 4 * 100 * 0.1 + 75 * 0.02)
    assert times.seconds(FROZEN_HEAD) == pytest.approx(10 + 1 + 0.5 * 50 * 0.02)
    assert times.least(num_folds=5, num_slots=2) == pytest.approx(175 * 0.02 + 3 * 11)


def test_a_slow_start_does_not_make_long_jobs_slow() -> None:
    """Jobs on frozen features are little but their start."""
    times, before = make_times(), make_times().seconds(TUNED)
    times.record(FROZEN_HEAD, 2 * times.seconds(FROZEN_HEAD))
    assert times.seconds(TUNED) - before == pytest.approx(11.5)


def test_a_slow_training_makes_others_slow() -> None:
    times, longer = make_times(), Candidate(ONE, "full", 8)
    before = times.seconds(longer)
    times.record(TUNED, 2 * times.seconds(TUNED))
    assert times.seconds(longer) == pytest.approx(2 * before)
