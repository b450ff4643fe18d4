"""W&B beside the work: it goes on whatever W&B does."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import wandb
from wandb_files import read_runs

from distracted.config import load_runtime_config
from distracted.reach import answers
from distracted.tracking import client
from distracted.tracking.client import WandbRun, find_wandb_mode, forget_run

RUNTIME = load_runtime_config()


def open_run(folder: Path, **settings: object) -> WandbRun:
    told = {"group": "tiny/a", "name": "a-fold0", "job_type": "train", "config": {}, **settings}
    return WandbRun(folder, runtime=RUNTIME, **told)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    wandb.teardown()


@pytest.mark.slow
def test_offline_files_hold_config_metrics_and_summary(offline: None, tmp_path: Path) -> None:
    with open_run(tmp_path, config={"training": {"seed": 7}}, tags=["tiny", "x" * 90]) as run:
        assert run.is_on and run.is_offline
        run.log({"train/step": 3, "train/loss": 0.5, "phase": "finetune"})
        run.summarise(lambda: {"valid/log_loss": 0.25})
        run.use_artifact("oof-tiny-a-fold0:latest")  # cannot be recorded, and is no error
        assert run.is_on
    [found] = read_runs(tmp_path)
    told = found.run
    assert (told.project, told.run_group, told.display_name, told.job_type) == (
        "distracted",
        "tiny/a",
        "a-fold0",
        "train",
    )
    assert list(told.tags) == ["tiny", "x" * 64] and told.host == ""
    assert found.config["training"] == {"seed": 7}
    [line] = found.history
    assert (line["train/step"], line["train/loss"], line["phase"]) == (3, 0.5, "finetune")
    assert found.summary["valid/log_loss"] == 0.25
    axes = {metric.glob_name: metric.step_metric for metric in found.of("metric") if metric.glob_name}
    assert axes["train/*"] == axes["valid/*"] == "train/step"


@pytest.mark.slow
def test_a_run_goes_on_under_its_id_and_begins_anew_when_asked(offline: None, tmp_path: Path) -> None:
    for forget in (False, False, True):
        if forget:
            forget_run(tmp_path)
        with open_run(tmp_path):
            pass
    ids = Counter(found.run.run_id for found in read_runs(tmp_path))
    assert sorted(ids.values()) == [1, 2]


def test_a_failing_wandb_is_said_once_and_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**settings: object) -> None:
        raise wandb.errors.CommError("no route")

    monkeypatch.setattr(client.wandb, "init", fail)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    with open_run(tmp_path) as run:
        run.log({"train/loss": 1.0})
        run.summarise(lambda: {"valid/log_loss": 1.0})
        assert not run.is_on
    [said] = [record for record in caplog.records if record.name.startswith("distracted")]
    assert "no route" in said.getMessage()


@pytest.mark.parametrize(("name", "value"), [("WANDB_MODE", "of"), ("WANDB_BASE_URL", "nowhere")])
def test_an_environment_that_wandb_refuses_stops_nothing(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.teardown()
    monkeypatch.setenv(name, value)
    with open_run(tmp_path) as run:
        run.log({"train/loss": 1.0})
    assert "W&B failed" in caplog.text


def test_where_it_is_off_nothing_is_written_and_nothing_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb.teardown()
    never = lambda: pytest.fail("made")  # noqa: E731
    none = RUNTIME.model_copy(update={"tracking": "none"})
    for runtime in (RUNTIME, none):
        with WandbRun(
            tmp_path / "off", runtime=runtime, group="g", name="n", job_type="train", config={}
        ) as run:
            run.show(never)
            run.summarise(never)
            assert not run.is_on
    assert not (tmp_path / "off").exists()


def test_no_key_and_no_answer_both_mean_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    assert find_wandb_mode() == "offline"
    answers.cache_clear()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()
    assert find_wandb_mode() == "offline"
    assert answers.cache_info().misses == 1  # it had a key, so it asked the server
    wandb.teardown()


def services() -> list[int]:
    """W&B's processes that this one has begun."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended
            continue
        if name.startswith("wandb-core") and int(rest.split()[1]) == os.getpid():
            found.append(int(path.parent.name))
    return found


def go_on_without_it(folder: Path) -> None:
    """Track a run, have W&B's process killed in the middle, and track another."""
    run = open_run(folder)
    [service] = services()
    os.kill(service, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while run.is_on and time.monotonic() < deadline:  # the client notices some time later
        run.log({"train/step": 1, "train/loss": 0.5})
        time.sleep(0.01)
    run.summarise(lambda: {"valid/log_loss": 1.0})
    run.finish()
    with open_run(folder) as another:  # in a process of its own
        print("first off" * (not run.is_on), "second on" * another.is_on, another.error, flush=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_a_killed_wandb_process_is_said_once_and_work_goes_on(offline: None, tmp_path: Path) -> None:
    """In a process of its own: the client's threads stay behind."""
    code = f"import pathlib, test_client; test_client.go_on_without_it(pathlib.Path({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.strip() == "first off second on", done.stderr
    assert done.stderr.count("going on without it") == 1
