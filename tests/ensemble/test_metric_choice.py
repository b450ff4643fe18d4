"""Runs are ranked, and blenders chosen, by the competition's score; what is fitted is fitted by log loss."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_runs import Simulated, simulate, useless_runs
from test_crossfit import interference

import submit
from distracted.ensemble.blend import blend_runs
from distracted.ensemble.blenders import find_blenders
from distracted.ensemble.crossfit import CrossFit, cross_fit
from distracted.ensemble.derive import derive_run
from distracted.ensemble.members import open_sources
from distracted.ensemble.sources import ChosenSource, FittedSource
from distracted.headline import LOG_LOSS, METRICS
from distracted.metrics import as_good
from distracted.postprocess.choose import Choose
from distracted.postprocess.step import Labels, Subset
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.store import Store
from distracted.report.board import make_board
from distracted.report.inputs import made_from
from distracted.submission.answers import add_answer, read_answers
from distracted.submission.submit import write_submission

OTHERS = [name for name in METRICS if name != "log_loss"]
TWO = find_blenders(["arithmetic_mean", "linear_pool"])


def judged_by(store: Store, metric: str) -> Store:
    """The same store of a competition with another score."""
    config = store.competition.config.model_copy(update={"metric": metric})
    return Store(store.workspace, replace(store.competition, config=config), store.folds)


@pytest.fixture
def write(store: Store) -> Callable[..., None]:
    """A function that writes a run that is right about a share of the images, and as sure as asked for."""

    def write(run: str, *, right: float, prob: float, seed: int = 0) -> None:
        rng, num_classes = np.random.default_rng(seed), store.competition.num_classes

        def predict(labels: np.ndarray) -> np.ndarray:
            shown = np.where(rng.random(len(labels)) < right, labels, (labels + 1) % num_classes)
            rest = (1 - prob) / (num_classes - 1)
            return np.log(np.where(np.eye(num_classes)[shown] == 1, prob, rest))

        for fold in range(3):
            valid = predict(store.folds.labels[store.folds.valid(fold)])
            test = predict(rng.integers(num_classes, size=len(store.competition.test)))
            facts: dict[str, Any] = {
                "kind": "model",
                "config": {"run": run},
                "scores": {"valid/log_loss": 1.0},
            }
            store.write_fold(run, fold, valid=valid, test=test, **facts)

    return write


@pytest.fixture
def two_runs(store: Store, write: Callable[..., None]) -> Store:
    """One is right more often, but far too sure: it has the better accuracy and the worse log loss."""
    write("sure", right=0.85, prob=0.9999)
    write("modest", right=0.7, prob=0.7)
    return store


class TestRanking:
    def test_the_default_is_the_best_by_the_metric(self, two_runs: Store) -> None:
        for run in ("sure", "modest"):
            blend_runs(two_runs, runs=[run], name=f"blend_{run}")
        meant = Catalogue(two_runs).meant_blend
        assert meant is not None and meant.run == "blend_modest"
        assert "cross-fitted log loss" in meant.why
        for metric in OTHERS:
            meant = Catalogue(judged_by(two_runs, metric)).meant_blend
            assert meant is not None and meant.run == "blend_sure"
            assert f"cross-fitted {METRICS[metric].title}" in meant.why

    def test_the_leaderboard_is_in_the_metrics_order(self, two_runs: Store) -> None:
        assert [row.entry.name for row in make_board(Catalogue(two_runs))] == ["modest", "sure"]
        for metric in OTHERS:
            board = make_board(Catalogue(judged_by(two_runs, metric)))
            assert [row.entry.name for row in board] == ["sure", "modest"]
            assert board[0].headline.mean > board[1].headline.mean
            assert board[0].oof.mean > board[1].oof.mean  # the log loss stands beside it

    def test_the_report_is_made_again_for_another_metric(self, two_runs: Store) -> None:
        digests = {
            made_from(judged_by(two_runs, metric), policies={}, heat=False, run="") for metric in METRICS
        }
        assert len(digests) == len(METRICS)

    def test_a_step_chooses_by_the_metric_and_is_another_step(self, two_runs: Store) -> None:
        by_loss = derive_run(two_runs, Choose(), ["sure", "modest"], name="by_loss")
        by_accuracy = derive_run(
            judged_by(two_runs, "accuracy"), Choose(), ["sure", "modest"], name="by_accuracy"
        )
        chosen = {
            name: {fold.details["chosen"] for fold in two_runs.manifests(name)}
            for name in ("by_loss", "by_accuracy")
        }
        assert chosen == {"by_loss": {"modest"}, "by_accuracy": {"sure"}}
        assert by_accuracy.gain.metric is METRICS["accuracy"] and by_loss.gain.metric is LOG_LOSS
        assert two_runs.manifests("by_loss")[0].config["step"] == {"name": "choose", "version": 2}
        assert two_runs.manifests("by_accuracy")[0].config["step"]["metric"] == "accuracy"
        for store in (two_runs, judged_by(two_runs, "auc")):  # a stored step stays what it was
            [source] = open_sources(store, [store.read_run("by_accuracy")])
            np.testing.assert_allclose(
                source.predict(Subset(0), frozenset({0})),
                two_runs.read_run("sure").oof[two_runs.folds.valid(0)],
                atol=1e-5,
            )

    def test_a_gain_is_a_higher_accuracy(self, two_runs: Store) -> None:
        store = judged_by(two_runs, "accuracy")
        gain = derive_run(store, Choose(), ["sure", "modest"], name="chosen").gain
        assert gain.after == gain.before > 0.7 and gain.difference == 0


@pytest.fixture(scope="module")
def sim() -> Simulated:
    good = simulate(3, num_images=260, num_folds=3, seed=2)
    return replace(good, log_probs=np.concatenate([good.log_probs, useless_runs(2, good)]))


class TestBlends:
    @pytest.mark.parametrize("metric", OTHERS)
    def test_a_folds_labels_do_not_reach_its_choice(self, sim: Simulated, metric: str) -> None:
        def fit(labels: Labels) -> CrossFit:
            return cross_fit(replace(sim, labels=labels).sources(), metric=METRICS[metric])

        assert interference(fit, sim) == set()

    def test_the_choice_is_the_simplest_as_good_by_the_metric(self, sim: Simulated) -> None:
        metric = METRICS["auc"]
        fit = cross_fit(sim.sources(), metric=metric)
        candidates = [verdict for verdict in fit.verdicts if verdict.chosen_from]
        best = max(verdict.interval.mean for verdict in candidates)
        assert all(v.difference == pytest.approx(best - v.interval.mean) for v in candidates)
        expected = next(v.blender for v in candidates if as_good(v.difference, v.error))
        assert fit.overall is expected
        assert candidates[0].interval.mean == pytest.approx(
            FittedSource(candidates[0].blender, sim.sources()).judged(metric).value
        )

    def test_where_the_score_is_undefined_the_simplest_is_chosen(self, sim: Simulated) -> None:
        """Without a fold that holds all of a class, there is no AUC of two classes."""
        labels = np.zeros_like(sim.labels)
        labels[np.flatnonzero(sim.folds == 0)[:6]] = 1
        log_probs = np.log(np.random.default_rng(0).dirichlet([1, 1], size=sim.log_probs.shape[:2]))
        rare = replace(sim, labels=labels, log_probs=log_probs.astype(sim.log_probs.dtype))
        fit = cross_fit(rare.sources(), metric=METRICS["auc"])
        first = next(verdict.blender for verdict in fit.verdicts if verdict.chosen_from)
        assert fit.chosen[0] is first
        assert np.isfinite(fit.log_probs).all()

    def test_weights_are_fitted_by_log_loss_whatever_the_metric(self, sim: Simulated) -> None:
        [pool] = find_blenders(["linear_pool"])
        fits = [cross_fit(sim.sources(), blenders=[pool], metric=METRICS[name]) for name in METRICS]
        for fit in fits[1:]:
            for weights, expected in zip(fit.weights, fits[0].weights, strict=True):
                assert weights.tobytes() == expected.tobytes()

    def test_another_metric_blends_again_and_keeps_the_runs(self, two_runs: Store) -> None:
        assert "metric" not in self.blend_config(two_runs)
        store = judged_by(two_runs, "accuracy")
        ensemble = blend_runs(store)
        assert ensemble.fit is not None and ensemble.metric.name == "accuracy"
        assert self.blend_config(store)["metric"] == "accuracy"
        assert ensemble.interval.mean == pytest.approx(ensemble.pooled["accuracy"])
        assert ensemble.interval.mean > ensemble.prior
        assert set(ensemble.scores) == {"sure", "modest"} and ensemble.scores["sure"] > 0.7
        assert blend_runs(store).fit is None  # done already
        assert all(Catalogue(store).entry(run).is_current for run in ("sure", "modest", "ensemble"))

    def test_a_stored_blend_chooses_as_it_did(self, two_runs: Store) -> None:
        blend_runs(judged_by(two_runs, "macro_f1"), blenders=TWO)
        [source] = open_sources(two_runs, [two_runs.read_run("ensemble")])
        assert isinstance(source, ChosenSource) and source.metric is METRICS["macro_f1"]

    def blend_config(self, store: Store) -> dict[str, Any]:
        blend_runs(store)
        return store.manifests("ensemble")[0].config


class TestForecast:
    def test_of_another_score_there_is_none(
        self, two_runs: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        plain = write_submission(two_runs, name="sure")
        assert plain.judged is None
        assert json.loads(plain.provenance.read_text())["out_of_fold"] is None
        store = judged_by(two_runs, "accuracy")
        written = write_submission(store, name="sure")
        assert written.is_new and written.judged is not None
        facts = json.loads(written.provenance.read_text())
        rows = store.folds.scored
        value = METRICS["accuracy"].value(store.read_run("sure").oof[rows], store.folds.labels[rows])
        assert facts["out_of_fold"]["metric"] == "accuracy"
        assert facts["out_of_fold"]["value"] == written.judged.value == pytest.approx(value)
        assert facts["expected_log_loss"] == json.loads(json.dumps(plain.expected.as_json()))
        line = submit.describe_score(written.judged)
        assert line.startswith(f"accuracy out of fold {value:.4f}, 95% over training subjects ")
        assert "no forecast" in line

    def test_an_answer_is_not_compared_with_another_score(self, two_runs: Store) -> None:
        written = write_submission(judged_by(two_runs, "accuracy"), name="sure")
        add_answer(written.provenance, written.sha256, None, {"public": 0.9})
        (answer,) = read_answers(written.provenance)
        assert answer["public"] == 0.9 and answer["standard_errors_off"] == {}
        assert not {"expected", "low", "high"} & set(answer)
        assert submit.compare(None, 0.9) == "0.9000"
