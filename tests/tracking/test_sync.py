"""Offline recordings are sent, and the lineage is rebuilt, at a stand-in for the server."""

import json
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import wandb
from stand_in import StandIn

import wandb_sync as script
from conftest import calibrate, write_owner
from distracted.config import load_runtime_config
from distracted.ensemble.blend import blend_runs
from distracted.errors import TrackingError
from distracted.jobs.fold import train_folds
from distracted.locks import this_process
from distracted.predictions.job_state import job_state
from distracted.predictions.manifest import as_parent
from distracted.predictions.store import Store
from distracted.report.curves import read_curves
from distracted.schema import RunConfig
from distracted.submission.submit import write_submission
from distracted.tracking.client import run_id
from distracted.tracking.log import log_predictions, open_run, track_run, track_submission
from distracted.tracking.recordings import find_recordings
from distracted.tracking.sending import WAY_OUT
from distracted.tracking.sync import sync
from distracted.training.resolve import resolve

pytestmark = [
    pytest.mark.slow,
    # Of the client's own threads, when a run ends without the server.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

Go = Callable[[str], None]


@pytest.fixture
def config(configure: Callable[..., RunConfig]) -> RunConfig:
    return configure("phases.scratch.epochs=2", "runtime.tracking=wandb")


def compete(store: Store, config: RunConfig) -> None:
    """Train, calibrate, blend and submit, as the scripts do."""
    train_folds(store, resolve(config, num_folds=3), run="net", folds=range(3))
    calibrate(store, "net")
    track_run(store, "net_calibrated", config.runtime)
    blend_runs(store, runs=["net", "net_calibrated"])
    track_run(store, "ensemble", config.runtime)
    submitted = write_submission(store, name="ensemble")
    track_submission(store, submitted.path, config.runtime)


def check_lineage(store: Store, server: StandIn) -> None:
    """The lineage as a graph: from the submission down to the folds."""
    ids = {run["displayName"]: name for name, run in server.runs.items()}
    for name, users in {
        "net": {"net", "net_calibrated", "ensemble"},
        "net_calibrated": {"ensemble"},
        "ensemble": {"submission ensemble"},
    }.items():
        parent = as_parent(store.manifests(name))
        for fold, digest in parent.predictions.items():
            artifact = server.artifact(f"oof-tiny-{name}-fold{fold}:{digest[:16]}")
            maker = f"net-fold{fold}" if name == "net" else name
            assert artifact.committed and artifact.made_by == ids[maker]
            assert artifact.used_by == {ids[user] for user in users}
            stored = store.workspace.fold("tiny", name, int(fold)) / "valid.parquet"
            assert server.uploads[f"/upload/{artifact.id}/valid.parquet"] == stored.read_bytes()
    submission = server.artifact("submission-tiny-ensemble:latest")
    assert submission.made_by == ids["submission ensemble"]


def check_runs(store: Store, server: StandIn) -> None:
    names = {run["displayName"] for run in server.runs.values()}
    folds = {f"net-fold{fold}" for fold in range(3)}
    assert names == {*folds, "net", "net_calibrated", "ensemble", "submission ensemble"}
    for fold in range(3):
        run = server.run_called(f"net-fold{fold}")
        curves = read_curves(store.workspace.metrics("tiny", "net", fold), fold)
        losses = [line["train/loss"] for line in run["history"] if "train/loss" in line]
        assert losses == [step["train/loss"] for step in curves.steps]
        assert run["state"] == "finished" and run["group"] == "tiny/net"
        assert run["summary"]["valid/log_loss"] == store.manifest("net", fold).scores["valid/log_loss"]
        assert json.loads(run["config"])["fold"]["value"] == fold
    assert server.unknown == []


def check_secrets(store: Store, server: StandIn) -> None:
    """Neither the key, nor the machine's name, nor a path of it is in anything that was sent."""
    paths = [str(store.workspace.root), str(Path.home()), str(Path(wandb.__file__).parent), str(Path.cwd())]
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b".encode())
    for _, where, body in server.requests:
        sent = where.encode() + body
        for secret in [os.environ["WANDB_API_KEY"], *paths]:
            assert secret.encode() not in sent, (where, secret)
        if not where.endswith(".parquet"):
            assert not host.search(sent), where


def test_recordings_are_sent_and_lineage_is_rebuilt(
    store: Store, config: RunConfig, server: StandIn, go: Go
) -> None:
    go("offline")
    compete(store, config)
    wandb.teardown()
    assert server.requests == [] and len(find_recordings(store)) == 7
    go("online")
    done = sync(store, config.runtime)
    assert done.problems == [] and (done.recordings, done.updated) == (7, 7)
    check_runs(store, server)
    check_lineage(store, server)
    check_secrets(store, server)
    before = len(server.artifacts)
    again = sync(store, config.runtime)
    assert (again.recordings, again.updated, again.problems) == (0, 7, [])
    assert len(server.artifacts) == before
    check_runs(store, server)
    check_lineage(store, server)


def test_a_submission_uses_the_predictions_that_it_was_made_from(
    store: Store, server: StandIn, go: Go, write_run: Callable[..., None]
) -> None:
    """Also after its run has changed."""
    runtime, predictions = load_runtime_config(), []
    go("online")
    for seed in (0, 1):
        write_run("a", seed=seed)
        write_run("b", seed=7)
        blend_runs(store, force=True)
        manifests = store.manifests("ensemble")
        predictions.append(as_parent(manifests).predictions)
        with open_run(store, "ensemble", runtime, config={}) as run:
            for manifest in manifests:
                log_predictions(run, store, manifest)
        if seed == 0:
            written = write_submission(store, name="ensemble")
        track_submission(store, written.path, runtime)
    wandb.teardown()
    submission = server.run_called("submission ensemble")["name"]
    for digests, users in zip(predictions, [{submission}, set()], strict=True):
        for fold, digest in digests.items():
            assert server.artifact(f"oof-tiny-ensemble-fold{fold}:{digest[:16]}").used_by == users


def test_with_a_server_everything_is_sent_during_the_run(
    store: Store, config: RunConfig, server: StandIn, go: Go
) -> None:
    go("online")
    compete(store, config)
    wandb.teardown()
    check_runs(store, server)
    check_lineage(store, server)
    check_secrets(store, server)


def test_without_a_key_nothing_is_sent(
    store: Store, config: RunConfig, go: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    go("online")
    with pytest.raises(TrackingError, match="no key"):
        sync(store, config.runtime)


def test_a_network_that_is_cut_stops_no_training_and_loses_nothing(
    store: Store, config: RunConfig, server: StandIn, go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server fails in the middle of the first fold; once it is back, everything is sent."""
    monkeypatch.setattr("distracted.tracking.online._FINISH_SECONDS", 2.0)
    go("online")
    streamed = threading.Event()

    class Cutting(list):
        def append(self, request: tuple[str, str, bytes]) -> None:
            super().append(request)
            if request[1].endswith("/file_stream"):
                streamed.set()
                server.broken = True

    server.requests = Cutting(server.requests)
    train_folds(store, resolve(config, num_folds=3), run="net", folds=range(3))
    assert streamed.is_set() and store.finished_folds("net") == [0, 1, 2]
    for fold in range(3):
        assert '"summary"' in store.workspace.metrics("tiny", "net", fold).read_text()  # its last line
    wandb.teardown()
    server.broken, server.requests = False, []
    go("online")
    done = sync(store, config.runtime)
    assert done.problems == []
    for fold in range(3):
        run = server.run_called(f"net-fold{fold}")
        curves = read_curves(store.workspace.metrics("tiny", "net", fold), fold)
        # Lines that arrived before the failure may occur twice.
        losses = {line["train/step"]: line["train/loss"] for line in run["history"] if "train/loss" in line}
        assert losses == {step["step"]: step["train/loss"] for step in curves.steps}


def test_all_of_a_run_goes_to_the_project_it_was_begun_in(
    store: Store, config: RunConfig, server: StandIn, go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "secret")
    go("offline")
    train_folds(store, resolve(config, num_folds=3), run="net", folds=range(3))
    monkeypatch.delenv("WANDB_PROJECT")
    go("online")
    assert sync(store, config.runtime).problems == []
    assert {run["project"] for run in server.runs.values()} == {"secret"} and len(server.runs) == 4


def test_trouble_is_said_and_the_rest_is_sent(
    store: Store,
    config: RunConfig,
    server: StandIn,
    go: Go,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A damaged recording, and a run that was deleted on the site: by the command, as a user sees it."""
    monkeypatch.setattr("distracted.tracking.online._INIT_SECONDS", 4.0)
    monkeypatch.setattr("distracted.tracking.sending._ENVIRONMENT", ["WANDB__GRAPHQL_RETRY_MAX=1"])

    def wandb_sync(**options: bool) -> str:
        go("online")
        script.main(data=str(store.competition.config.folder), root=store.workspace.root, **options)
        return capture()

    def capture() -> str:
        captured = capsys.readouterr()
        return " ".join(f"{captured.out} {captured.err}".split())

    go("offline")
    train_folds(store, resolve(config, num_folds=3), run="net", folds=range(3))
    wandb.teardown()
    scratches = [store.scratch("net", fold) for fold in range(3)]
    [recording] = scratches[0].glob("wandb/offline-run-*/*.wandb")
    whole = recording.read_bytes()
    recording.write_bytes(whole[:7])
    server.deleted.add(run_id(scratches[1]))
    submission = write_submission(store, name="net").provenance
    current = submission.read_text()
    submission.write_text(current.replace(as_parent([store.manifest("net", 0)]).predictions["0"], "0" * 64))
    with pytest.raises(TrackingError) as error:
        wandb_sync()
    problems = str(error.value).splitlines()[1:]
    folder = str(recording.parent.relative_to(store.workspace.root))
    assert problems[0].startswith(f"{folder}: cannot be read: it holds no run")
    assert [problem.endswith(WAY_OUT) for problem in problems] == [False, True, False, True, False]
    assert problems[2] == "net.json: net has changed since; make submit NAME=net writes it again"
    assert "net: artifact" in problems[4]  # the run over all folds uses the file of fold 1
    assert "2 recordings sent; files and lineage of 2 runs" in capture()
    assert {run["displayName"] for run in server.runs.values()} == {"net-fold0", "net-fold2", "net"}
    with pytest.raises(TrackingError, match="net, fold 1: this run was deleted"):
        wandb_sync()
    assert "2 recordings were set aside by earlier calls; FORCE=1" in capture()
    recording.write_bytes(whole)
    submission.write_text(current)
    assert "set aside" not in wandb_sync(force=True)
    for fold in range(3):
        run = server.run_called(f"net-fold{fold}")
        losses = [line["train/loss"] for line in run["history"] if "train/loss" in line]
        curves = read_curves(store.workspace.metrics("tiny", "net", fold), fold)
        assert losses == [step["train/loss"] for step in curves.steps]
        [digest] = as_parent([store.manifest("net", fold)]).predictions.values()
        assert server.artifact(f"oof-tiny-net-fold{fold}:{digest[:16]}").committed
    assert find_recordings(store, again=True) == []


def test_a_server_that_fails_at_the_files_is_not_asked_for_ever(
    store: Store, config: RunConfig, server: StandIn, go: Go
) -> None:
    go("online")
    train_folds(store, resolve(config, num_folds=3), run="net", folds=range(3))
    wandb.teardown()
    server.artifacts.clear()
    server.fault = lambda method, path, body: "403" if b"CreateArtifact" in body else ""
    go("online")
    done = sync(store, config.runtime)
    assert done.updated == 0 and len(done.problems) == 4
    assert done.problems[3].endswith("not tried, since the server fails")
    server.fault = lambda method, path, body: ""
    go("online")
    done = sync(store, config.runtime)
    assert (done.problems, done.updated) == ([], 4)


def test_unfinished_recordings_and_folds_are_not_sent(
    store: Store, config: RunConfig, server: StandIn, go: Go
) -> None:
    """A recording that a process still writes is not sent, nor is a fold that is being retrained."""
    go("offline")
    train_folds(store, resolve(config, num_folds=3), run="net", folds=range(3))
    wandb.teardown()
    scratch = store.workspace.scratch("tiny", "net", 1)
    everything = find_recordings(store)
    with store.hold("net", [1]), job_state(scratch, config):
        assert len(find_recordings(store)) == len(everything) - 1
        go("online")
        done = sync(store, config.runtime)
        assert done.waiting == ["net: fold 1 is being retrained"] and done.updated == 0
        assert done.recordings == len(everything) - 1
    done = sync(store, config.runtime)
    assert (done.recordings, done.waiting, done.problems) == (1, [], []) and done.updated == 4
    recording = find_recording_folder(store)
    (recording / "unsent").write_text("")
    write_owner(recording / "open.json", this_process())
    assert find_recordings(store) == []
    (recording / "open.json").unlink()
    assert find_recordings(store) == [recording]


def find_recording_folder(store: Store) -> Path:
    """The folder of a recording made online."""
    folder = store.workspace.run_scratch("tiny", "net") / "wandb"
    return sorted(path for path in folder.iterdir() if path.name.startswith("run-"))[0]
