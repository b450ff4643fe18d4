"""Trackers: W&B's offline files read back, and a W&B that fails."""

import json
import struct
from pathlib import Path

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from distracted.reach import answers
from distracted.training import tracking
from distracted.training.tracking import FileTracker, WandbTracker, find_wandb_mode, open_tracker

SETTINGS = {"project": "distracted", "group": "resnet50", "name": "resnet50-fold0", "job_type": "train"}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()


def read_back(folder: Path) -> list[Record]:
    """The records of W&B's own offline file: a LevelDB log of protocol buffers behind a header of 7 bytes."""
    wandb.teardown()  # finish() returns before W&B's service has written its last records; this waits for it
    [path] = folder.rglob("run-*.wandb")
    data, position, parts, records = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while position < len(data):
        left = 32768 - position % 32768
        if left < 7:  # a record's header never straddles blocks
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


@pytest.mark.slow
def test_offline_files_hold_config_metrics_and_summary(offline: None, tmp_path: Path) -> None:
    config = {"training": {"seed": 7}}
    with open_tracker("wandb", tmp_path, **SETTINGS, config=config) as tracker:
        assert isinstance(tracker, WandbTracker)
        tracker.log({"train/loss": 0.5, "phase": "finetune"}, step=3)
        tracker.summarise({"valid/log_loss": 0.25})
    records = read_back(tmp_path)
    [run] = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (run.project, run.run_group, run.display_name, run.job_type) == tuple(SETTINGS.values())
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["training"] == {"seed": 7}
    [history] = [r.history for r in records if r.WhichOneof("record_type") == "history"]
    values = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in history.item}
    assert values["train/loss"] == 0.5 and values["phase"] == "finetune" and values["_step"] == 3
    summaries = [r.summary for r in records if r.WhichOneof("record_type") == "summary"]
    found = {
        item.key or item.nested_key[0]: item.value_json for summary in summaries for item in summary.update
    }
    assert float(found["valid/log_loss"]) == 0.25
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 3, "train/loss": 0.5, "phase": "finetune"},
        {"summary": {"valid/log_loss": 0.25}},
    ]


def test_a_failing_wandb_is_said_once_and_metrics_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**settings: object) -> None:
        raise wandb.errors.CommError("no route")

    monkeypatch.setattr(tracking.wandb, "init", fail)
    with WandbTracker(tmp_path, **SETTINGS, config={}) as tracker:
        tracker.log({"train/loss": 1.0}, step=1)
        tracker.log({"train/loss": 0.5}, step=2)
    assert len(caplog.records) == 1 and "no route" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(("name", "value"), [("WANDB_MODE", "of"), ("WANDB_BASE_URL", "nowhere")])
def test_an_environment_that_wandb_refuses_stops_nothing(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.teardown()
    monkeypatch.setenv(name, value)
    with open_tracker("wandb", tmp_path, **SETTINGS, config={}) as tracker:
        tracker.log({"train/loss": 1.0}, step=1)
    assert "W&B failed" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_disabled_means_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb.teardown()
    with open_tracker("wandb", tmp_path, **SETTINGS, config={}) as tracker:
        assert isinstance(tracker, FileTracker)


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
