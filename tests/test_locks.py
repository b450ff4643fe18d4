"""A lock has one holder; a dead holder's lock is taken over, a live one's never."""

import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from conftest import dead_owner, write_owner
from distracted import locks
from distracted.errors import LockError
from distracted.locks import hold, holder, this_process


def test_a_second_holder_gets_an_error_that_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "deep/lock.json"
    with hold(path, "resnet50, fold 0") as lock:
        assert lock.after is None and holder(path).pid == os.getpid()
        with (
            pytest.raises(LockError, match=rf"resnet50, fold 0: locked by process {os.getpid()} on"),
            hold(path, "resnet50, fold 0"),
        ):
            pass
        lock.check()
    assert not path.exists() and holder(path) is None
    with hold(path, "again"):
        assert path.exists()
    assert list(path.parent.iterdir()) == []


def refuse_links(*paths: object) -> None:
    raise PermissionError(1, "no links here")


def test_a_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), hold(tmp_path / "lock", "work"):
        raise RuntimeError
    assert holder(tmp_path / "lock") is None


def test_a_dead_owners_lock_is_taken_over(tmp_path: Path) -> None:
    path, dead = tmp_path / "lock", dead_owner()
    write_owner(path, dead)
    assert holder(path) is None
    with hold(path, "work") as lock:
        assert lock.after == dead and holder(path).pid == os.getpid()


def test_a_reused_process_id_is_another_process(tmp_path: Path) -> None:
    mine = this_process()
    assert mine.born and not mine.is_gone
    assert replace(mine, born="1").is_gone
    assert not replace(mine, host="elsewhere", born="1").is_gone
    assert not replace(mine, place="another container", born="1").is_gone


def test_a_zombie_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert replace(this_process(), pid=child.pid).is_gone
    child.wait()


def test_another_machines_lock_is_taken_over_without_renewal(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_owner(path, replace(dead_owner(), host="elsewhere"))
    with pytest.raises(LockError, match="on elsewhere"), hold(path, "work"):
        pass
    then = time.time() - locks.STALE_SECONDS - 1
    os.utime(path, (then, then))
    assert holder(path) is None
    with hold(path, "work") as lock:
        assert lock.after.host == "elsewhere"


def test_a_holder_renews_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    with hold(path, "work"):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline


def test_a_process_that_lost_its_lock_notices_and_keeps_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path, "work") as lock:
        other = replace(this_process(), host="elsewhere")
        write_owner(path, other)
        assert not lock.is_lost
        lock.beat()
        assert lock.is_lost
        with pytest.raises(LockError, match="taken over by process"):
            lock.check()
    assert holder(path) == other


def test_without_a_start_time_the_age_of_the_lock_decides(tmp_path: Path) -> None:
    """As on macOS: this process may have the id of a dead owner."""
    path = tmp_path / "lock"
    write_owner(path, replace(this_process(), born=""))
    assert holder(path) is not None
    os.utime(path, (0, 0))
    assert holder(path) is None


@pytest.mark.parametrize("links", [True, False])
def test_a_lock_removed_by_mistake_is_put_back(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes a dead owner's lock between our reading and our removing it."""
    path, faster = tmp_path / "lock", replace(this_process(), host="elsewhere")
    read_owner = locks.read_owner
    write_owner(path, faster)
    outdated = iter([dead_owner()])
    monkeypatch.setattr(locks, "read_owner", lambda path: next(outdated, None) or read_owner(path))
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    with pytest.raises(LockError, match=r"locked by process .* on elsewhere"), hold(path, "work"):
        pass
    assert read_owner(path) == faster and [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_lock_holds_until_it_is_old(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    path.write_text(text)
    with (
        pytest.raises(LockError, match=r"lock is damaged and names nobody; remove it, or wait"),
        hold(path, "work"),
    ):
        pass
    os.utime(path, (0, 0))
    with hold(path, "work"):
        assert holder(path).pid == os.getpid()


def _take_again_and_again(path: Path, orders: Connection, answers: Connection) -> None:
    while orders.recv() == "take":
        try:
            with hold(path, "work"):
                answers.send("held")
                orders.recv()
            answers.send("released")
        except LockError:
            answers.send("refused")


@pytest.mark.slow
def test_one_of_many_processes_gets_a_dead_owners_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    for _ in range(4):
        (orders, their_orders), (answers, their_answers) = context.Pipe(), context.Pipe()
        process = context.Process(target=_take_again_and_again, args=(path, their_orders, their_answers))
        process.start()
        processes.append(process)
        ends.append((orders, answers))
    for _ in range(5):
        write_owner(path, dead_owner())
        for orders, _ in ends:
            orders.send("take")
        outcomes = [answers.recv() for _, answers in ends]
        assert sorted(outcomes) == ["held", "refused", "refused", "refused"]
        orders, answers = ends[outcomes.index("held")]
        orders.send("release")
        assert answers.recv() == "released"
        assert list(tmp_path.iterdir()) == []
    for orders, _ in ends:
        orders.send("end")
    for process in processes:
        process.join()
