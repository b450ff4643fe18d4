"""The commands say where a run is worse than something simpler."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import ensemble
import train
from distracted.ensemble.blend import blend_runs
from distracted.ensemble.blenders import BLENDERS
from distracted.metrics import difference_and_error, log_losses
from distracted.predictions.store import Store

WriteRun = Callable[..., None]


def test_a_run_that_loses_to_the_class_prior_is_named(
    store: Store, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("good", skill=3.0)
    train.say_pooled(store, "good")
    assert "worse than" not in capsys.readouterr().out
    write_run("bad", skill=-3.0)
    train.say_pooled(store, "bad")
    output = " ".join(capsys.readouterr().out.split())
    assert "bad: worse than predicting the classes' shares (log loss 1." in output
    assert "equally frequent" not in output


def test_even_classes_are_named_as_the_cause(
    store: Store, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value, is_even in (
        ("sampling", "classes", True),
        ("class_weights", "balanced", True),
        ("class_weights", [1.0, 2.0, 1.0], False),
    ):
        write_run("even", skill=-3.0, config={"training": {key: value}})
        train.say_pooled(store, "even")
        output = " ".join(capsys.readouterr().out.split())
        assert ("`make calibrate RUNS=even` can correct" in output) == is_even


def test_a_blend_that_loses_to_a_member_names_it(
    store: Store, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, (run, skill) in enumerate([("noise", 0.0), ("good", 5.0), ("more", 0.0)]):
        write_run(run, skill=skill, seed=seed)
    blend = blend_runs(store, blenders=BLENDERS[:1])
    rows, labels = store.folds.scored, store.folds.labels[store.folds.scored]
    losses = [log_losses(store.read_run(run).oof[rows], labels) for run in (blend.name, "good")]
    assert blend.best_member == "good"
    assert blend.above_best == pytest.approx(difference_and_error(*losses, store.folds.subjects[rows]))
    ensemble.show(blend)
    output = " ".join(capsys.readouterr().out.split())
    assert "ensemble: worse than its member good alone, by 0." in output
    assert "`make submit NAME=good`" in output
    ensemble.show(replace(blend, above_best=(0.01, 0.02)))
    assert "worse than its member" not in capsys.readouterr().out
    assert np.isfinite(blend.above_best).all()
