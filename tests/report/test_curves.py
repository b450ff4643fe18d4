"""Learning curves are read from complete, damaged and missing files."""

import json
from pathlib import Path

from conftest import Train
from distracted.report.curves import Epoch, read_curves


def test_a_trained_fold_gives_its_epochs_and_steps(train: Train, tmp_path: Path) -> None:
    train("phases.scratch.epochs=2")
    curves = read_curves(tmp_path / "scratch/metrics.jsonl", fold=0)
    assert [(epoch.phase, epoch.number) for epoch in curves.epochs] == [("scratch", 1), ("scratch", 2)]
    assert all(epoch.train is not None and epoch.valid is not None for epoch in curves.epochs)
    assert [step["train/epoch"] for step in curves.steps] == [1.0, 2.0]
    assert {epoch.phase for epoch in curves.epochs} == {"scratch"}


def test_lines_that_are_no_metrics_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    epoch = {"step": 1, "phase": "p", "epoch": 1, "train/epoch_loss": 0.5, "valid/log_loss": "high"}
    path.write_text(json.dumps(epoch) + '\nnoise\n[1]\n{"epoch": true, "train/loss": 1}\n{"step": 2, "tr')
    curves = read_curves(path, fold=3)
    assert curves.epochs == (Epoch("p", 1, 0.5, None, None),)
    assert curves.steps == () and curves.fold == 3
    path.write_bytes(b"\xff\xfe\x00")
    assert read_curves(path, fold=0).epochs == ()
    assert read_curves(tmp_path / "none", fold=0).epochs == ()
