"""The used time survives any end of the process."""

from pathlib import Path

import pytest

from distracted.compete.clock import Clock


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_killed_command_goes_on_with_the_time_that_it_noted(tmp_path: Path) -> None:
    time = Time()
    clock = Clock(tmp_path / "clock.json", 60.0, now=time)
    time.now += 20
    clock.note()
    time.now += 3  # not noted: killed
    assert clock.used == 23 and clock.left == 37
    time.now = 5000
    assert Clock(tmp_path / "clock.json", 60.0, now=time).left == 40
    assert Clock(tmp_path / "clock.json", 90.0, now=time).left == 70  # more HOURS


def test_the_file_is_written_now_and_then(tmp_path: Path) -> None:
    time = Time()
    clock = Clock(tmp_path / "clock.json", 60.0, now=time)
    time.now += 4
    clock.note()
    assert not (tmp_path / "clock.json").exists()
    clock.note(at_once=True)
    assert Clock(tmp_path / "clock.json", 60.0, now=time).used == 4


def test_time_counts_from_the_beginning_of_the_command(tmp_path: Path) -> None:
    time = Time()
    assert Clock(tmp_path / "clock.json", 60.0, began=90.0, now=time).used == 10


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"used_seconds": "x"}', '{"used_seconds": -5}'])
def test_a_damaged_file_counts_as_no_time(tmp_path: Path, content: str) -> None:
    (tmp_path / "clock.json").write_text(content)
    assert Clock(tmp_path / "clock.json", 60.0, now=Time()).used == 0
