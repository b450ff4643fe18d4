"""Recordings that are damaged, runs that were deleted, and a server that fails at each step."""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
import wandb
from cutting_proxy import cut_after
from stand_in import Fault, Once, StandIn
from wandb_files import offline

from distracted.config import load_runtime_config
from distracted.tracking import sending
from distracted.tracking.client import WandbRun, is_refused, run_id
from distracted.tracking.recordings import has_mark, was_sent
from distracted.tracking.sending import NOT_TRIED, WAY_OUT, Sent, renew, send

pytestmark = pytest.mark.slow

RUNTIME = load_runtime_config()
STEPS = 40
Go = Callable[[str], None]


def record(folder: Path, name: str) -> Path:
    """An offline recording of the client, as a fold makes it: metrics, a table with a picture, a file."""
    (folder / name).mkdir(parents=True)
    file = folder / name / "valid.parquet"
    file.write_bytes(name.encode() * 100)

    def artifact() -> wandb.Artifact:
        made = wandb.Artifact(f"oof-{name}", "oof")
        made.add_file(str(file), policy="immutable")
        return made

    arguments = {"runtime": RUNTIME, "group": "g", "name": name, "job_type": "train", "config": {"seed": 1}}
    with WandbRun(folder / name, **arguments) as run:  # type: ignore[arg-type]
        for step in range(STEPS):
            run.log({"train/step": step, "train/loss": 1 / (step + 1)})
        run.show(lambda: {"worst": wandb.Table(columns=["img"], data=[[name]])})
        run.log_artifact(artifact, ["best"])
        run.summarise(lambda: {"valid/log_loss": 0.5})
    [path] = (folder / name).glob("wandb/offline-run-*")
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings: a to d."""
    folder = tmp_path_factory.mktemp("recorded")
    with offline(folder / "staging"), chdir(folder):
        for name in "abcd":
            record(folder, name)
    return folder


@pytest.fixture
def runs(recorded: Path, tmp_path: Path, server: StandIn, go: Go) -> list[Path]:
    """Copies of the recordings, in the order of their start; W&B is online.

    They lie in the working folder, as their files are named by relative paths.
    """
    ignored = shutil.ignore_patterns("staging", "latest-run")
    folder = shutil.copytree(recorded, Path.cwd(), ignore=ignored, dirs_exist_ok=True)
    shutil.copytree(recorded / "staging", folder / "staging")
    go("online")
    return sorted(folder.glob("*/wandb/offline-run-*"), key=lambda path: path.parents[1])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client retries each request once only."""
    retries = [text.replace("=4", "=1").replace("=3", "=1") for text in sending._ENVIRONMENT]
    monkeypatch.setattr(sending, "_ENVIRONMENT", retries)


def file_of(recording: Path) -> Path:
    [path] = recording.glob("*.wandb")
    return path


def send_all(every: list[Path], *, force: bool = False) -> Sent:
    return send(every, project=None, force=force)


def check_metrics(server: StandIn, recording: Path, name: str) -> None:
    """All metrics of a recording are on the server, each step once."""
    run = server.runs[run_id(recording.parents[1])]
    steps = {line["_step"]: line for line in run["history"]}  # the service keeps one line of each step
    losses = [steps[number].get("train/loss") for number in sorted(steps)]
    assert losses[:STEPS] == [1 / (number + 1) for number in range(STEPS)]
    assert all(line == steps[line["_step"]] for line in run["history"])
    assert run["displayName"] == name and run["state"] == "finished"
    assert run["summary"]["valid/log_loss"] == 0.5


def check_arrived(server: StandIn, recording: Path, name: str) -> None:
    """All of a recording is on the server."""
    check_metrics(server, recording, name)
    run = run_id(recording.parents[1])
    [artifact] = [artifact for artifact in server.artifacts if artifact.name == f"oof-{name}"]
    assert artifact.committed and artifact.made_by == run
    assert server.uploads[f"/upload/{artifact.id}/valid.parquet"] == name.encode() * 100
    [table] = [artifact for artifact in server.artifacts if artifact.name == f"run-{run}-worst"]
    assert table.committed and json.loads(server.uploads[f"/upload/{table.id}/worst.table.json"])["data"]


def test_damaged_recordings_block_no_other_and_the_right_ones_are_set_aside(
    runs: list[Path], server: StandIn
) -> None:
    good, *others = runs
    whole = file_of(others[0]).read_bytes()
    contents = {
        "killed": whole[:7],
        "empty": b"",
        "header": whole[:5],
        "version": whole[:6] + b"\x07" + whole[7:],
        "picture": b"\x89PNG\r\n" + os.urandom(500),
        "flip": whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
    }
    damaged = []
    for number, (name, content) in enumerate(contents.items()):
        folder = others[0].parents[2] / name / "wandb" / f"offline-run-20200101_00000{number}-{name}"
        folder.mkdir(parents=True)
        (folder / f"run-{name}.wandb").write_bytes(content)
        damaged.append(folder)
    file_of(others[0]).write_bytes(whole[: len(whole) * 2 // 3])
    sent = send_all([*damaged, *runs])
    assert set(sent.whole) == {good, *others[1:]}
    for path, name in zip([good, *others[1:]], "acd", strict=True):
        check_arrived(server, path, name)
    assert set(sent.problems) == set(damaged) and set(sent.partly) == {others[0]}
    assert "no run" in sent.problems[damaged[0]] and "version 7" in sent.problems[damaged[3]]
    assert "ends within a record" in sent.partly[others[0]]
    partly = server.runs[run_id(others[0].parents[1])]["history"]
    assert 0 < len(partly) <= STEPS + 1  # what can be read
    for path in [*damaged, others[0]]:
        assert (path / "set_aside.txt").read_text().strip() and not has_mark(path)
    assert file_of(damaged[0]).read_bytes() == whole[:7]
    file_of(others[0]).write_bytes(whole)  # found in a backup
    assert send_all([others[0]]).whole == [others[0]] and not (others[0] / "set_aside.txt").exists()
    check_arrived(server, others[0], "b")


def test_what_cannot_be_opened_is_set_aside(runs: list[Path], server: StandIn) -> None:
    file = file_of(runs[1])
    file.unlink()
    file.mkdir()
    sent = send_all(runs)
    assert len(sent.whole) == 3 and "Is a directory" in sent.problems[runs[1]]


def test_a_file_that_is_gone_is_said_and_keeps_nothing_else(runs: list[Path], server: StandIn) -> None:
    """Such as the predictions of a fold that was retrained: they go with the manifests."""
    (runs[0].parents[1] / "valid.parquet").unlink()
    sent = send_all(runs)
    assert sent.whole == runs[1:] and "no such file" in sent.partly[runs[0]] and has_mark(runs[0])
    assert len(server.runs[run_id(runs[0].parents[1])]["history"]) == STEPS + 1


def test_a_deleted_run_is_not_sent_until_a_new_one_is_wanted(
    runs: list[Path], server: StandIn, impatient: None
) -> None:
    old = run_id(runs[1].parents[1])
    server.deleted.add(old)
    sent = send_all(runs)
    assert sent.whole == [runs[0], *runs[2:]] and sent.problems == {runs[1]: WAY_OUT}
    assert is_refused(runs[1].parents[1], old) and old not in server.runs
    sent = send_all([runs[1]], force=True)
    assert run_id(runs[1].parents[1]) != old and not sent.problems
    check_metrics(server, runs[1], "b")
    assert "lost" in sent.partly[runs[1]]  # the client names the old run in tables; predictions come later
    assert has_mark(runs[1]) and not is_refused(runs[1].parents[1])


def test_a_run_that_is_deleted_later_is_sent_again_whole(runs: list[Path], server: StandIn) -> None:
    assert len(send_all(runs).whole) == 4
    folder = runs[2].parents[1]
    server.deleted.add(run_id(folder))
    del server.runs[run_id(folder)]
    server.artifacts.clear()
    assert set(send_all(renew(folder)).partly) == {runs[2]}
    check_metrics(server, runs[2], "c")


def forget_all(runs: list[Path], server: StandIn) -> None:
    """Begin again, with an empty server and recordings that were never sent."""
    server.fault = lambda method, path, body: ""
    for part in (server.runs, server.artifacts, server.uploads):
        part.clear()  # type: ignore[attr-defined]
    for path in runs:
        for mark in path.glob("*.sync*"):
            mark.unlink()


def check_second_call(recording: Path, server: StandIn, first: Sent, name: str = "a") -> None:
    """The first call says what it did; the next one sends what is missing."""
    server.fault = lambda method, path, body: ""
    if recording in first.whole:
        assert recording not in first.problems
    else:
        assert recording in first.problems and not has_mark(recording)
        assert not (recording / "set_aside.txt").exists()
        assert send_all([recording]).whole == [recording]
    check_arrived(server, recording, name)


FAULTS = ("503", "429", "403", "cut", "lost", "half", "garbage")


class OncePerRun:
    """Faults that each hit one request of one run, counted from 0; a call sends several runs at once."""

    def __init__(self, server: StandIn, faults: dict[str, Once]) -> None:
        self._server, self.faults = server, faults

    def __call__(self, method: str, path: str, body: bytes) -> str:
        text = f"{path} {body.decode('latin1')}"
        artifacts = {artifact.id: artifact.made_by for artifact in self._server.artifacts}
        names = [artifacts[name] for name in re.findall(r"artifact-\d+", text) if name in artifacts]
        names += [name for name in self.faults if name in text]
        fault = self.faults[names[0]](method, path, body) if names else ""
        taken = fault == "garbage" and method == "PUT"  # with code 200, an upload has arrived
        return "" if taken else fault


def test_a_server_that_fails_once_at_any_step(runs: list[Path], server: StandIn) -> None:
    """Nothing is lost and nothing is there twice, whichever request fails, each in another way."""
    ids = [run_id(recording.parents[1]) for recording in runs]
    server.fault = counts = OncePerRun(server, {name: Once(-1, "") for name in ids})
    assert send_all(runs).whole == runs
    num_requests = max(count.seen for count in counts.faults.values())
    assert num_requests > 20
    for start in range(0, num_requests, len(runs)):
        forget_all(runs, server)
        numbers = range(start, start + len(runs))
        faults = [Once(number, FAULTS[number % len(FAULTS)]) for number in numbers]
        server.fault = OncePerRun(server, dict(zip(ids, faults, strict=True)))
        begun = time.monotonic()
        first = send_all(runs)
        assert time.monotonic() - begun < 60 * len(runs)
        happened = [once.seen > once.number for once in faults if once.number < num_requests - 3]
        assert all(happened)
        for recording, name in zip(runs, "abcd", strict=True):
            check_second_call(recording, server, first, name)


def refusing(part: str, status: str) -> Fault:
    """A fault of all requests with a text in their path or body."""
    return lambda method, path, body: status if part in path or part.encode() in body else ""


@pytest.mark.parametrize(
    "part", ["UpsertBucket", "file_stream", "CreateRunFiles", "/upload/", "CommitArtifact"]
)
@pytest.mark.parametrize("status", ["403", "500"])
def test_what_the_server_refuses_all_the_time_is_not_taken_for_sent(
    part: str, status: str, runs: list[Path], server: StandIn, impatient: None
) -> None:
    """The client marks a run as sent although its metrics or files were refused."""
    server.fault = refusing(part, status)
    first = send_all(runs[:1])
    assert first.problems and not first.whole
    check_second_call(runs[0], server, first)


def test_after_some_failures_of_the_server_the_rest_is_not_tried(
    runs: list[Path], server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "FAILURES", 2)
    server.fault = refusing("UpsertBucket", "403")
    sent = send_all(runs)
    assert list(sent.problems) == runs
    tried = [sent.problems[path] != NOT_TRIED for path in runs]
    assert tried == [True, True, False, False], sent.problems


def test_what_was_refused_in_a_call_that_was_stopped_is_sent_later(
    runs: list[Path], server: StandIn, impatient: None
) -> None:
    """Ctrl-C after the client has marked a recording as sent, and before its log could be read."""
    refused, other = runs[:2]
    stopped = threading.Event()

    def fault(method: str, path: str, body: bytes) -> str:
        if not path.endswith("file_stream"):
            return ""
        if run_id(refused.parents[1]) in path:
            return "403"
        while not (has_mark(refused) or stopped.wait(0.05)):
            pass
        if not stopped.is_set():
            stopped.set()
            os.kill(os.getpid(), signal.SIGINT)
        return "cut"

    server.fault = fault
    with pytest.raises(KeyboardInterrupt):
        send_all([refused, other])
    server.fault = lambda method, path, body: ""
    unsent = [path for path in (refused, other) if not was_sent(path)]
    assert unsent == [refused, other]
    assert send_all(unsent).whole == unsent and was_sent(refused)
    check_arrived(server, refused, "a")
    check_arrived(server, other, "b")


def test_a_server_that_hangs_ends_the_call_in_time(
    runs: list[Path], server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_SECONDS", 5.0)
    monkeypatch.setattr(sending, "_BYTES_A_SECOND", 1e9)
    hanging = threading.Event()

    def hang(method: str, path: str, body: bytes) -> str:
        if path.endswith("file_stream"):
            hanging.wait(60)
        return ""

    server.fault = hang
    start = time.monotonic()
    sent = send_all(runs)
    hanging.set()
    assert time.monotonic() - start < 30
    assert set(sent.problems) == set(runs) and not sent.whole
    server.fault = lambda method, path, body: ""
    assert send_all(runs).whole == runs
    for path, name in zip(runs, "abcd", strict=True):
        check_arrived(server, path, name)


@pytest.mark.parametrize("num_bytes", [0, 700, 2500, 6000, 12000])
def test_a_line_that_is_cut_after_some_bytes(
    num_bytes: int, runs: list[Path], server: StandIn, go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cut_after(server.url, num_bytes) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        server.url, real = url, server.url  # uploads go through it, too
        go("online")
        first = send_all(runs[:1])
        server.url = real
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    go("online")
    check_second_call(runs[0], server, first)
