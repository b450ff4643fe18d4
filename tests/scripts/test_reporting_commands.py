"""The reporting commands (report, status, audit, W&B): their output, and their errors for wrong input."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from test_bad_input import Project, check, originals, project, run, trained

import audit
import dashboard
import report
import status
import sweep
import wandb_sync

pytestmark = pytest.mark.slow

__all__ = ["originals", "project", "trained"]  # fixtures


def test_a_report_of_a_missing_run(trained: Project) -> None:
    check(
        trained,
        lambda: run(report.main, "--run", "gone", "--no-heat", *trained.where),
        "there is no run 'gone'",
        "there are: resnet50",
    )
    assert not (trained.root / "runs/tiny/report.html").exists()


def test_without_folds_each_command_says_how_to_make_them(project: Project) -> None:
    for main in (report.main, status.main, wandb_sync.main):
        check(project, lambda main=main: run(main, *project.where), "no folds yet", "make folds")  # type: ignore[misc]


def test_commands_that_need_wandbs_server_say_so_without_it(
    trained: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for main, arguments in (
        (wandb_sync.main, []),
        (dashboard.main, []),
        (sweep.main, ["--model", "resnet50", "--set", "training.num_folds=3"]),
    ):
        check(
            trained,
            lambda main=main, arguments=arguments: run(main, *arguments, *trained.where),  # type: ignore[misc]
            "W&B is unavailable",
            "wandb login",
        )


def test_a_sweep_needs_a_model(project: Project) -> None:
    check(project, lambda: run(sweep.main, "--model", "", *project.where), "MODEL= is missing")


def test_an_audit_names_every_unreadable_image(project: Project) -> None:
    paths = sorted((project.folder / "imgs/train").rglob("*.jpg"))[:8]
    for path in paths:
        path.write_bytes(b"")
    outcome = run(audit.main, *project.where)
    assert outcome.code == 1 and "... and 3 more" in outcome.err and "names all 8" in outcome.err
    unreadable = pd.read_csv(project.root / "runs/tiny/audit/unreadable.csv")
    assert set(unreadable["img"]) == {path.name for path in paths}
    assert (unreadable["part"] == "train").all() and unreadable["subject"].notna().all()


def test_an_audit_by_a_missing_run(trained: Project) -> None:
    check(trained, lambda: run(audit.main, "--run", "gone", *trained.where), "there is no run 'gone'")


def test_the_status_shows_each_folds_state_and_the_next_command(trained: Project) -> None:
    outcome = trained.status()
    assert outcome.code == 0, outcome.err
    hint = f"next (add DATA={trained.folder}): make ensemble: no blend holds resnet50"
    assert "resnet50" in outcome.out and hint in outcome.out
    assert trained.ensemble().code == 0
    outcome = trained.status()
    assert "ensemble: the only current blend" in outcome.out and "make submit NAME=ensemble" in outcome.out
    shutil.rmtree(trained.root / "oof/tiny/resnet50/fold1")
    job = trained.root / "runs/tiny/resnet50/fold1/job.json"
    job.write_text(json.dumps(json.loads(job.read_text()) | {"state": "failed", "error": "out of luck"}))
    outcome = trained.status()
    assert "failed 100%" in outcome.out and "resnet50, fold 1 failed at 100%: out of luck" in outcome.out
    assert "stale" in outcome.out


def test_a_report_is_written_and_its_path_printed(trained: Project) -> None:
    outcome = run(report.main, *trained.where)
    assert outcome.code == 0, outcome.err
    path = trained.root / "runs/tiny/report.html"
    assert str(path) in outcome.out and path.read_text().startswith("<!DOCTYPE html>")
