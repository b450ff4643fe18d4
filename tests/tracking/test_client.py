"""Work goes on whatever W&B does."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from wandb_files import offline, read_runs

from distracted.config import load_runtime_config
from distracted.tracking.client import WandbRun, forget_run
from distracted.tracking.online import ask_server, find_wandb_mode

RUNTIME = load_runtime_config()


def open_run(folder: Path, **settings: object) -> WandbRun:
    arguments = {"group": "tiny/a", "name": "a-fold0", "job_type": "train", "config": {}, **settings}
    return WandbRun(folder, runtime=RUNTIME, **arguments)


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[None]:
    with offline(tmp_path / "staging"):
        yield


@pytest.mark.slow
def test_offline_files_hold_config_metrics_and_summary(recording: None, tmp_path: Path) -> None:
    with open_run(tmp_path, config={"training": {"seed": 7}}, tags=["tiny", "x" * 90]) as run:
        assert run.is_on and run.is_offline
        run.log({"train/step": 3, "train/loss": 0.5, "phase": "finetune"})
        run.summarise(lambda: {"valid/log_loss": 0.25})
        run.use_artifact("oof-tiny-a-fold0:latest")  # cannot be recorded offline, but is no error
        assert run.is_on
    [recorded] = read_runs(tmp_path)
    run = recorded.run
    names = run.project, run.run_group, run.display_name, run.job_type
    assert names == ("distracted", "tiny/a", "a-fold0", "train")
    assert list(run.tags) == ["tiny", "x" * 64] and run.host == ""
    assert recorded.config["training"] == {"seed": 7}
    [line] = recorded.history
    assert (line["train/step"], line["train/loss"], line["phase"]) == (3, 0.5, "finetune")
    assert recorded.summary["valid/log_loss"] == 0.25
    axes = {metric.glob_name: metric.step_metric for metric in recorded.of("metric") if metric.glob_name}
    assert axes["train/*"] == axes["valid/*"] == "train/step"


@pytest.mark.slow
def test_a_run_continues_under_its_id_until_it_is_forgotten(recording: None, tmp_path: Path) -> None:
    for forget in (False, False, True):
        if forget:
            forget_run(tmp_path)
        with open_run(tmp_path):
            pass
    ids = Counter(recorded.run.run_id for recorded in read_runs(tmp_path))
    assert sorted(ids.values()) == [1, 2]


def test_an_error_of_wandb_is_logged_once_and_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**settings: object) -> None:
        raise wandb.errors.CommError("no route")

    monkeypatch.setattr(wandb, "init", fail)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    with open_run(tmp_path) as run:
        run.log({"train/loss": 1.0})
        run.summarise(lambda: {"valid/log_loss": 1.0})
        assert not run.is_on
    [record] = [record for record in caplog.records if record.name.startswith("distracted")]
    assert "no route" in record.getMessage()


@pytest.mark.parametrize(("name", "value"), [("WANDB_MODE", "of"), ("WANDB_BASE_URL", "nowhere")])
def test_an_environment_that_wandb_rejects_stops_nothing(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv(name, value)
    with open_run(tmp_path) as run:
        run.log({"train/loss": 1.0})
    assert "W&B failed" in caplog.text


@pytest.mark.parametrize("switch", ["tracking", "environment", "settings file"])
def test_where_wandb_is_off_nothing_is_made_or_written(
    switch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if switch != "environment":  # where conftest.py has switched it off
        monkeypatch.delenv("WANDB_MODE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()
    if switch == "settings file":  # as `wandb disabled` writes it
        (tmp_path / "wandb/settings").write_text("[default]\nmode = disabled\n")
    wandb.teardown()
    never = lambda: pytest.fail("made")  # noqa: E731
    runtime = RUNTIME.model_copy(update={"tracking": "none"}) if switch == "tracking" else RUNTIME
    arguments = {"group": "g", "name": "n", "job_type": "train", "config": {}}
    with WandbRun(tmp_path / "off", runtime=runtime, **arguments) as run:  # type: ignore[arg-type]
        run.show(never)
        run.summarise(never)
        assert not run.is_on and not run.error
    assert not (tmp_path / "off").exists() and "W&B" not in caplog.text
    wandb.teardown()


def test_wandb_is_not_imported_where_it_is_off(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from distracted.config import load_runtime_config\n"
        "from distracted.tracking.client import WandbRun\n"
        "arguments = dict(group='g', name='n', job_type='train', config={})\n"
        "WandbRun(Path('off'), runtime=load_runtime_config(), **arguments)\n"
        "assert 'wandb' not in sys.modules"
    )
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)


@pytest.mark.slow
def test_without_a_key_or_an_answer_the_mode_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    assert find_wandb_mode() == "offline"
    ask_server.cache_clear()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()
    assert find_wandb_mode() == "offline"
    assert find_wandb_mode() == "offline"
    assert ask_server.cache_info().misses == 1  # only with a key the server is asked, once
    wandb.teardown()


def services() -> list[int]:
    """Process ids of W&B's services that this process has started."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:  # the process has ended
            continue
        if name.startswith("wandb-core") and int(rest.split()[1]) == os.getpid():
            pids.append(int(path.parent.name))
    return pids


def kill_service_in_between(folder: Path) -> None:
    """Track a run, kill W&B's service in the middle, and track another run."""
    run = open_run(folder)
    [service] = services()
    os.kill(service, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while run.is_on and time.monotonic() < deadline:  # the client notices after a while
        run.log({"train/step": 1, "train/loss": 0.5})
        time.sleep(0.01)
    run.summarise(lambda: {"valid/log_loss": 1.0})
    run.finish()
    with open_run(folder) as another:  # with a new service
        print("first off" * (not run.is_on), "second on" * another.is_on, another.error, flush=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_wandb_service_is_logged_once_and_work_goes_on(recording: None, tmp_path: Path) -> None:
    """In a separate process, since the client's threads survive."""
    code = (
        f"import pathlib, test_client; test_client.kill_service_in_between(pathlib.Path({str(tmp_path)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.strip() == "first off second on", done.stderr
    assert done.stderr.count("going on without it") == 1
