"""How OpenMP's threads wait is set before torch is imported, unless the user has decided."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import threads

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment without OpenMP's variables, on eight cores without a quota."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP", "KMP"))}
    monkeypatch.setattr(threads.os, "environ", kept)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    monkeypatch.setattr(threads, "cores_in_use", lambda: 0.1)
    return kept


def test_threads_spin_shortly_and_beside_other_work_more_shortly(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads.share_machine()
    quiet = int(environment.pop("GOMP_SPINCOUNT"))
    assert 100 <= quiet <= 5000
    assert "OMP_NUM_THREADS" not in environment  # torch's own number is right
    monkeypatch.setattr(threads, "cores_in_use", lambda: 1.0)
    threads.share_machine()
    assert 100 <= int(environment["GOMP_SPINCOUNT"]) < quiet


class Counted:
    """A file like /proc/stat of which each reading is the next of some texts."""

    def __init__(self, *texts: str) -> None:
        self.texts = iter(texts)

    def exists(self) -> bool:
        return True

    def read_text(self) -> str:
        return next(self.texts)


def test_the_cores_that_others_use_are_counted_among_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a disk is no use, time that a host takes is."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    before = "cpu 9 9\ncpu0 10 0 0 5 5 0 0 0 9 9\ncpu1 0 0 0 0 0 0 0 0 0 0\ncpu2 1 1 1 1 1 1 1 1 0 0\n"
    after = "cpu 9 9\ncpu0 15 0 0 6 8 0 0 1 9 9\ncpu1 1 2 3 4 0 0 0 0 0 0\ncpu2 1 1 1 1 1 1 1 1 0 0\n"
    others = "cpu3 {} 0 0 0 0 0 0 0 0 0\nintr 1 2\ncpufreq 3\n"
    counted = Counted(before + others.format(0), after + others.format(9))
    assert threads.cores_in_use(counted) == pytest.approx(6 / 10 + 6 / 10)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts them")
def test_the_systems_own_file_is_read() -> None:
    assert 0 <= threads.cores_in_use() <= len(os.sched_getaffinity(0))
    assert threads.cores_in_use(Path("/none")) == 0


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_has_set_stays(environment: dict[str, str], name: str) -> None:
    environment[name] = "7"
    before = dict(environment)
    threads.share_machine()
    assert environment == before


def test_a_quota_limits_the_number_of_threads(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container with two cores' time on a machine of eight: eight threads would wait for each other."""
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    threads.share_machine()
    assert environment["OMP_NUM_THREADS"] == "2"
    environment["OMP_NUM_THREADS"] = "5"
    threads.share_machine()
    assert environment["OMP_NUM_THREADS"] == "5"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has turns of a chosen length")
def test_short_turns_leave_the_priority_as_it_is() -> None:
    """Also that of a process with a lower one, which could not take a higher one."""
    code = "import os, threads; os.nice(7); print(threads.take_turns_of(100_000), os.nice(0))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True
    )
    assert done.stdout in ("True 7\n", "False 7\n")


@pytest.mark.slow
def test_it_is_set_before_torch_is_imported() -> None:
    """GNU's OpenMP prints what it has read when it is loaded."""
    quiet = "import threads; threads.cores_in_use = lambda: 0.0"
    code = "import console, sys; assert 'torch' not in sys.modules; console.share_machine(); import torch"
    left_out = ("OMP", "GOMP", "KMP")
    env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    env |= {"PYTHONPATH": f"{SCRIPTS}{os.pathsep}{env.get('PYTHONPATH', '')}", "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run(
        [sys.executable, "-c", f"{quiet}; {code}"], env=env, capture_output=True, text=True, check=True
    )
    if "GOMP_SPINCOUNT" in done.stderr:  # not so on macOS
        assert f"GOMP_SPINCOUNT = '{threads._SPIN}'" in done.stderr
