"""W&B's environment and settings files: what is sent and where to; and who asks the server."""

import json
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
from stand_in import ENTITY, Once, StandIn, serve
from wandb_files import read_runs

from distracted.config import load_runtime_config
from distracted.errors import ConfigError, TrackingError
from distracted.tracking import online
from distracted.tracking.client import WandbRun, forget_run, run_id
from distracted.tracking.online import ask_server, find_wandb_mode, require_server, variables
from distracted.tracking.sending import send

pytestmark = pytest.mark.slow

RUNTIME = load_runtime_config()
Go = Callable[[str], None]
DOCS = Path(__file__).resolve().parents[2] / "docs/wandb.md"

OFFLINE, OFF, SENT = "recorded", "off", "sent"
MODES = {
    "online": SENT,
    "run": SENT,
    "shared": SENT,
    "offline": OFFLINE,
    "dryrun": OFFLINE,
    "disabled": OFF,
    # The client rejects these. What they ask for is nobody's guess, so nothing is sent.
    "Offline": OFF,
    "offline ": OFF,
    "DRYRUN": OFF,
    "off": OFF,
    "": OFF,
}


def track(folder: Path, *settings: str, **arguments: Any) -> WandbRun:
    """Track a run with one metric; returns it, finished."""
    runtime = load_runtime_config(settings)
    given = {"group": "tiny/a", "name": "a-fold0", "job_type": "train", "config": {}} | arguments
    with WandbRun(folder, runtime=runtime, **given) as run:
        run.log({"train/step": 1, "train/loss": 0.5})
    return run


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the settings of the machine's user, and let the client read its settings again."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    ask_server.cache_clear()
    wandb.teardown()


def check(outcome: str, server: StandIn, folder: Path) -> None:
    """Track two runs in a row, since the client remembers settings, and see what became of them."""
    for name in ("first", "second"):
        track(folder / name)
    wandb.teardown()
    assert bool(server.runs) == (outcome == SENT) and (outcome == SENT or server.requests == [])
    assert len(read_runs(folder)) == (2 if outcome == OFFLINE else 0)
    if outcome != SENT:
        with pytest.raises(TrackingError):
            require_server(RUNTIME, "it is needed")
        assert server.requests == []


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_of_the_environment_counts(
    mode: str, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    check(MODES[mode], server, tmp_path / "folds")


@pytest.mark.parametrize("place", ["user", "project"])
@pytest.mark.parametrize("mode", ["offline", "dryrun", "disabled"])
def test_the_mode_of_a_settings_file_counts(
    mode: str, place: str, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config/settings" if place == "user" else Path("wandb/settings")
    file.parent.mkdir()
    file.write_text(f"[default]\nmode = {mode}\n")
    check(MODES[mode], server, tmp_path / "folds")


@pytest.mark.parametrize("place", ["config/settings", "work/wandb/settings", "elsewhere/wandb/settings"])
def test_a_settings_file_that_the_client_leaves_out_is_not_taken_for_online(
    place: str, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wrong value, and the client goes on without the file's mode.

    It writes its settings to WANDB_DIR, which make sweep sets, and does not read them there.
    """
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / place).parent.mkdir(parents=True)
    wrong = "" if place.startswith("elsewhere") else "http_proxy = nowhere\n"
    (tmp_path / place).write_text(f"[default]\nmode = offline\n{wrong}")
    check(OFF, server, tmp_path / "folds")


@pytest.mark.parametrize(("value", "outcome"), [("true", OFF), (" 1 ", OFF), ("false", SENT), ("0", SENT)])
def test_other_libraries_switch_counts(
    value: str, outcome: str, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DISABLED", value)
    check(outcome, server, tmp_path / "folds")


def test_without_tracking_nothing_needs_the_server(server: StandIn) -> None:
    with pytest.raises(TrackingError, match=r"switched off \(runtime.tracking"):
        require_server(load_runtime_config(["runtime.tracking=none"]), "it is needed")
    assert server.requests == []


#: Variables that count, and those that are overruled; docs/wandb.md says why.
HONOURED = {
    "WANDB_PROJECT": "private",
    "WANDB_ENTITY": "team",
    "WANDB_TAGS": "mine,other",
    "WANDB_NOTES": "a note",
    "WANDB_USERNAME": "me",
}
OVERRULED = {
    "WANDB_RUN_GROUP": "group",
    "WANDB_NAME": "name",
    "WANDB_JOB_TYPE": "job",
    "WANDB_RUN_ID": "id",
    "WANDB_RESUME": "must",
    "WANDB_SWEEP_ID": "sweep",
    "WANDB_DIR": "/nonexistent",
    "WANDB_HOST": "my-laptop",
    "WANDB_PROGRAM": "secret.py",
    "WANDB_CONSOLE": "redirect",
    "WANDB_SILENT": "false",
    "WANDB_SAVE_CODE": "true",
    "WANDB_DISABLE_GIT": "false",
    "WANDB_INIT_TIMEOUT": "1000",
}


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_the_documented_variables_count_or_are_overruled(
    mode: str,
    server: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in (HONOURED | OVERRULED | {"WANDB_MODE": mode}).items():
        monkeypatch.setenv(name, value)
    trial = tmp_path / "trial.yaml"  # the settings of a trial, which its folds do not take
    trial.write_text("wandb_version: 1\nlr:\n  value: 0.5\n")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(trial))
    assert not track(tmp_path / "fold", tags=["tiny"]).error
    wandb.teardown()
    if mode == "offline":
        assert server.requests == []
        monkeypatch.setenv("WANDB_MODE", "online")
        recordings = list((tmp_path / "fold").glob("wandb/offline-run-*"))
        assert send(recordings, project=None, force=False).whole == recordings
    [run] = server.runs.values()
    expected = {
        "name": run_id(tmp_path / "fold"),
        "project": "private",
        "entity": "team",
        "group": "tiny/a",
        "displayName": "a-fold0",
        "jobType": "train",
        "tags": ["tiny", "mine", "other"],
        "notes": "a note",
    }
    assert {key: run[key] for key in expected} == expected and not run.get("sweep")
    assert "lr" not in json.loads(run["config"])
    sent = b"".join(where.encode() + body for _, where, body in server.requests)
    assert not re.search(rb"my-laptop|secret\.py", sent)
    assert capfd.readouterr() == ("", "")


def test_the_documentation_names_every_variable() -> None:
    text = DOCS.read_text()
    for name in [*HONOURED, *OVERRULED, "WANDB_MODE", "WANDB_DISABLED", "WANDB_BASE_URL", "WANDB_API_KEY"]:
        assert f"`{name}`" in text, name


def test_the_config_beats_the_environment_and_that_beats_a_file(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def project_of(name: str, *settings: str) -> str:
        wandb.teardown()
        track(tmp_path / name, *settings)
        [recorded] = read_runs(tmp_path / name)
        return str(recorded.run.project)

    monkeypatch.setenv("WANDB_MODE", "offline")
    assert project_of("default") == "distracted"
    (tmp_path / "config").mkdir()
    (tmp_path / "config/settings").write_text("[default]\nproject = of_file\n")
    assert project_of("file") == "of_file"
    monkeypatch.setenv("WANDB_PROJECT", "of_environment")
    assert project_of("environment") == "of_environment"
    assert project_of("config", "runtime.project=of_config") == "of_config"


def test_a_run_stays_where_it_was_begun(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recording, its files and its lineage go to one project, whatever a later shell says."""
    monkeypatch.setenv("WANDB_PROJECT", "secret")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    track(tmp_path / "fold")
    for name in ("WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name)
    wandb.teardown()
    track(tmp_path / "fold")
    [run] = server.runs.values()
    assert (run["project"], run["entity"]) == ("secret", "team")
    for settings, expected in ((["runtime.project=moved"], "moved"), ([], "moved")):
        wandb.teardown()
        track(tmp_path / "fold", *settings)
        assert run["project"] == expected
    forget_run(tmp_path / "fold")
    wandb.teardown()
    track(tmp_path / "fold")
    assert [run["project"] for run in server.runs.values()] == ["moved", "distracted"]


def test_a_run_of_the_own_account_does_not_move_to_a_team(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(tmp_path / "fold")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    for name in ("fold", "new"):
        wandb.teardown()
        track(tmp_path / name)
    assert [run["entity"] for run in server.runs.values()] == [ENTITY, "team"]


def test_ids_of_earlier_versions_go_on_in_their_project(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "new")
    (tmp_path / "fold").mkdir()
    (tmp_path / "fold/wandb_id.txt").write_text("abcdef012345")
    track(tmp_path / "fold")
    assert server.runs["abcdef012345"]["project"] == "distracted"


@pytest.mark.parametrize("project", ["a/b", "x" * 129, "what?"])
def test_a_project_that_the_service_refuses_is_refused_at_the_start(project: str) -> None:
    with pytest.raises(ConfigError, match="project"):
        load_runtime_config([f"runtime.project={project!r}"])


def test_a_process_elsewhere_gets_mode_and_place_but_no_key(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert variables(RUNTIME) == []  # online: as the other machine says
    for name, value in (HONOURED | {"WANDB_MODE": "dryrun"}).items():
        monkeypatch.setenv(name, value)
    wandb.teardown()
    expected = {"WANDB_MODE=offline", "WANDB_PROJECT=private", "WANDB_ENTITY=team", "WANDB_NOTES=a note"}
    assert set(variables(RUNTIME)) == expected | {"WANDB_TAGS=mine,other"}
    monkeypatch.setenv("WANDB_MODE", "Offline")
    wandb.teardown()
    assert variables(RUNTIME) == ["WANDB_MODE=disabled"]
    assert variables(load_runtime_config(["runtime.tracking=none"])) == ["WANDB_MODE=disabled"]


# Who asks the server.

KEY = "0123456789" * 4


@pytest.mark.parametrize(("key", "mode"), [("", "offline"), (KEY, "online"), (f"local-{KEY}", "online")])
def test_without_a_key_nothing_is_asked(
    key: str, mode: str, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of a company's own server have a prefix."""
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert find_wandb_mode() == mode and bool(server.requests) == (mode == "online")


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_login_at_a_server_with_a_port_counts(
    slash: str, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `wandb login --host` writes it."""
    monkeypatch.setenv("WANDB_BASE_URL", server.url + slash)
    monkeypatch.delenv("WANDB_API_KEY")
    machine = server.url.removeprefix("http://")
    (tmp_path / "netrc").write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
    assert find_wandb_mode() == "online"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"machine 127.0.0.1 login user password " + KEY.encode(), ""),  # another port's
        (b"my key", "bad toplevel token"),
        (b"machine\xff\xfe", "cannot be read"),
        (b"default login user password short", "API key must have 40+ characters"),
    ],
)
def test_a_file_of_logins_without_ours(
    content: bytes,
    message: str,
    server: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_bytes(content)
    assert find_wandb_mode() == "offline" and server.requests == []
    said = " ".join(record.getMessage() for record in caplog.records if record.name.startswith("distracted"))
    assert message in said and bool(said) == bool(message)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("401", "stand-in: 401"),
        ("403", "stand-in: 403"),
        ("garbage", "invalid character"),
        ("503", "giving up after 2 attempt"),
        ("cut", "giving up after 2 attempt"),
    ],
)
def test_a_server_that_cannot_be_used_is_said_and_the_run_is_kept(
    fault: str, reason: str, server: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.fault = lambda method, path, body: fault
    assert not track(tmp_path / "fold").error
    assert reason in caplog.text and "keeping the run offline" in caplog.text
    assert len(read_runs(tmp_path / "fold")) == 1
    with pytest.raises(TrackingError, match=reason):
        require_server(RUNTIME, "it is needed")


def test_one_failed_answer_and_a_slow_one_are_no_reason(server: StandIn) -> None:
    for fault in (Once(0, "503"), Once(0, "cut"), Once(0, "slow:6")):
        ask_server.cache_clear()
        server.fault = fault
        assert find_wandb_mode() == "online"


def test_a_server_that_never_answers_takes_bounded_time(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "_ASK_SECONDS", 2)
    server.fault = lambda method, path, body: "slow:20"
    start = time.monotonic()
    assert find_wandb_mode() == "offline" and time.monotonic() - start < 10


def test_a_run_that_the_server_does_not_take_is_recorded(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(online, "_INIT_SECONDS", 4.0)
    server.fault = lambda method, path, body: "403" if b"UpsertBucket" in body else ""
    run = track(tmp_path / "fold")
    assert not run.error and "does not take the run" in caplog.text
    [recorded] = read_runs(tmp_path / "fold")
    assert recorded.history[0]["train/loss"] == 0.5
    server.fault = lambda method, path, body: ""
    server.deleted.add(recorded.run.run_id)
    caplog.clear()
    track(tmp_path / "fold")
    assert "FORCE=1 makes it a new run" in caplog.text and len(read_runs(tmp_path / "fold")) == 2


def test_metrics_that_the_server_refuses_are_not_taken_for_sent(server: StandIn, tmp_path: Path) -> None:
    """The client's finish raises nothing; the folder stays marked, so that wandb-sync sends it."""
    server.fault = lambda method, path, body: "403" if path.endswith("file_stream") else ""
    run = track(tmp_path / "fold")
    assert "filestream" in run.error
    assert len(list((tmp_path / "fold/wandb").glob("run-*/unsent"))) == 1


@pytest.mark.parametrize("variable", ["WANDB_HTTP_PROXY", "http_proxy"])
def test_the_client_asks_through_its_proxy(
    variable: str, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.invalid")  # known to the proxy alone
    assert find_wandb_mode() == "offline"
    ask_server.cache_clear()
    monkeypatch.setenv(variable, server.url)
    wandb.teardown()
    assert find_wandb_mode() == "online"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_client_asks_under_a_companys_certificate(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=company", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serve(context) as secure:
        monkeypatch.setenv("WANDB_BASE_URL", secure.url)
        assert find_wandb_mode() == "offline" and "certificate" in caplog.text
        ask_server.cache_clear()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        wandb.teardown()
        assert find_wandb_mode() == "online"
        assert not track(tmp_path / "fold").error and len(secure.runs) == 1
        wandb.teardown()
