"""How a team ends: when one of its processes fails or stops, and how the others get to know."""

import sys
import threading
import time
from pathlib import Path

import pytest

from distracted.errors import ClusterError
from distracted.jobs import launch
from distracted.stopping import Stop, Stopped

pytestmark = pytest.mark.slow

#: Code of a process that ignores SIGTERM, like one that is blocked in an exchange with another.
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


def team(lead: str, second: str) -> list[str]:
    code = f"import os, signal, sys, time\nif os.environ['RANK'] == '0':\n    {lead}\nelse:\n    {second}\n"
    return [sys.executable, "-c", code]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less time for the others to end."""
    monkeypatch.setattr(launch, "_GRACE", 0.5)
    monkeypatch.setattr(launch, "_LAST_WORK", 1.0)


def test_a_process_that_stops_alone_stops_its_team() -> None:
    """As by a signal to it alone, before the processes have met."""
    begin = time.monotonic()
    with pytest.raises(Stopped, match="told to stop"):
        launch.run_team(2, team(DEAF, "sys.exit(75)"), stop=Stop())
    assert time.monotonic() - begin < 10


def test_the_others_are_told_and_may_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_LAST_WORK", 30.0)
    saved, ready = tmp_path / "saved", tmp_path / "ready"
    handler = f"lambda *_: (time.sleep(1), open({str(saved)!r}, 'w').close(), sys.exit(75))"
    lead = f"signal.signal(signal.SIGTERM, {handler}); open({str(ready)!r}, 'w').close(); time.sleep(60)"
    second = f"[time.sleep(0.01) for _ in iter(lambda: os.path.exists({str(ready)!r}), True)]; sys.exit(75)"
    with pytest.raises(Stopped):
        launch.run_team(2, team(lead, second), stop=Stop())
    assert saved.exists()


def test_one_that_misses_a_stopped_process_is_not_the_teams_failure() -> None:
    """Its exchange fails because the other has gone."""
    with pytest.raises(Stopped):
        launch.run_team(2, team("time.sleep(1); sys.exit(1)", "sys.exit(75)"), stop=Stop())


def test_a_failure_ends_the_others_and_is_the_teams() -> None:
    begin = time.monotonic()
    with pytest.raises(ClusterError, match="failed with exit code 3; see above"):
        launch.run_team(2, team(DEAF, "sys.exit(3)"), stop=Stop())
    with pytest.raises(ClusterError, match="was ended by signal 9"):
        launch.run_team(2, team(DEAF, "os.kill(os.getpid(), 9)"), stop=Stop())
    assert time.monotonic() - begin < 15


def test_a_process_that_a_signal_ends_early_does_not_keep_the_others_waiting() -> None:
    """A request to stop finds one process without a handler, and another that waits for it."""
    stop = Stop()
    threading.Timer(1.0, stop.ask, ["the test"]).start()
    with pytest.raises(Stopped, match="the test"):
        launch.run_team(2, team(DEAF, "time.sleep(60)"), stop=stop)
