"""The ladder measures each rung's paired gain, and is made from a trained model up to the blend."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ladder
from distracted.metrics import difference_and_error, log_loss, log_losses
from distracted.predictions.store import Store
from distracted.report.ladder import measure_ladder, read_ladders
from distracted.submission.expect import expect_run

WriteRun = Callable[..., None]
TINY = (
    "model.backbone=test_resnet model.weights=none model.image_size=32 phases.scratch.epochs=1 "
    "training.num_folds=3 runtime.tracking=none runtime.num_workers=0 runtime.device=cpu"
)


def write_truth(store: Store, path: Path) -> np.ndarray:
    labels = np.arange(len(store.competition.test)) % 3
    table = pd.DataFrame({"img": store.competition.test["img"]})
    table["classname"] = [store.competition.classes[label] for label in labels]
    table.insert(0, "subject", "t000")
    table.to_csv(path, index=False)
    return labels


def test_each_rung_is_compared_with_the_one_below(store: Store, write_run: WriteRun, tmp_path: Path) -> None:
    write_run("low", skill=1.0)
    write_run("high", skill=3.0, seed=1)
    true = write_truth(store, tmp_path / "truth.csv")
    first, second = measure_ladder(store, [("base", "low"), ("skill", "high")], tmp_path / "truth.csv")
    low, high = store.read_run("low"), store.read_run("high")
    labels = store.folds.labels
    assert (first.oof.mean, second.oof.mean) == pytest.approx(
        (log_loss(low.oof, labels), log_loss(high.oof, labels))
    )
    losses = [log_losses(run.oof, labels) for run in (low, high)]
    gain, error = difference_and_error(*losses, store.folds.subjects)
    assert first.gain is None and second.gain == pytest.approx(gain)
    assert (second.low, second.high) == pytest.approx((gain - 1.96 * error, gain + 1.96 * error))
    scores = [log_loss(run.test_log_probs, true) for run in (low, high)]
    assert [first.test, second.test] == pytest.approx(scores)
    assert second.true_gain == pytest.approx(scores[0] - scores[1])
    assert [first.expected, second.expected] == [expect_run(store, run).mean for run in (low, high)]
    assert measure_ladder(store, [("base", "low")])[0].test is None


@pytest.mark.slow
def test_a_ladder_is_made_from_a_model_to_the_blend(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_truth(store, tmp_path / "truth.csv")
    ladder.main(
        models="resnet50",
        views="centre rotations",
        methods="neighbours",
        truth=str(tmp_path / "truth.csv"),
        data=str(store.competition.config.folder),
        set=TINY,
        root=store.workspace.root,
    )
    made = ["calibrated", "smooth", "student", "student_calibrated", "student_smooth", "student_tta"]
    assert {f"resnet50_{name}" for name in made} | {"resnet50", "ladder"} <= set(store.runs())
    table = capsys.readouterr().out
    table = table[table.rindex("ladder of resnet50") :]
    steps = ("base", "calibration", "test-time views", "smoothing", "pseudo-labels", "blend of all")
    positions = [table.index(f"│ {step} ") for step in steps]
    assert positions == sorted(positions)
    assert [parent.run for parent in store.manifest("resnet50_student", 0).parents] == ["resnet50"]
    kept = read_ladders(store)["resnet50"]  # for the report
    assert [step for step, _ in kept] == list(steps) and kept[-1] == ("blend of all", "ladder")
