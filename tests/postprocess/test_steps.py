"""Steps describe themselves to the commands."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import derive as script
from conftest import calibrate
from distracted.ensemble.blend import blend_runs
from distracted.ensemble.derive import derive_run
from distracted.errors import ConfigError, StoreError
from distracted.inference.views import find_views
from distracted.metrics import log_loss
from distracted.postprocess import steps
from distracted.postprocess.choose import Choose
from distracted.postprocess.clusters import ClusterMatch, Clusters
from distracted.postprocess.neighbour_mean import NeighbourMean
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.spaces import make_space
from distracted.postprocess.step import Examples, PredictionStep, Rows, Step, Subset, normalised
from distracted.postprocess.tta import augment_run
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.store import Store
from distracted.report.status import run_statuses
from distracted.submission.photographs import predict_photographs
from untrained import RUNTIME, write_untrained

WriteRun = Callable[..., None]


@dataclass(frozen=True)
class Power:
    exponent: float


@dataclass(frozen=True)
class Sharpen(PredictionStep):
    """A step as a newcomer would add one: probabilities to the best of three powers."""

    name: ClassVar[str] = "sharpen"
    suffix: ClassVar[str] = "sharp"

    def fit(self, examples: Examples) -> Power:
        (log_probs,) = examples.log_probs
        powers = [Power(0.5), Power(1.0), Power(2.0)]
        return min(powers, key=lambda one: log_loss(normalised(one.exponent * log_probs), examples.labels))

    def predict(self, fitted: Power, rows: Rows) -> np.ndarray:
        return normalised(fitted.exponent * rows.log_probs[0])


@dataclass(frozen=True)
class Halve(PredictionStep):
    """A step in which nothing is fitted."""

    share: float = 0.5
    name: ClassVar[str] = "halve"
    suffix: ClassVar[str] = "half"

    @property
    def reads_labels(self) -> bool:
        return False

    def fit(self, examples: Examples) -> None:
        return None

    def predict(self, fitted: None, rows: Rows) -> np.ndarray:
        return normalised(self.share * rows.log_probs[0])


@pytest.fixture
def sharpen(monkeypatch: pytest.MonkeyPatch) -> type[Step]:
    """The table of steps with two more lines."""
    monkeypatch.setattr(steps, "STEPS", {**steps.STEPS, "sharpen": Sharpen, "halve": Halve})
    return Sharpen


def made_again(store: Store, run: str) -> dict[str, object]:
    """The config of the step that a run's manifests describe."""
    return steps.open_step(store, store.read_run(run)).config()


def stored(store: Store, run: str) -> dict[str, object]:
    return store.manifest(run, 0).config["step"]


def features(store: Store) -> Iterator[tuple[Subset, np.ndarray]]:
    rng = np.random.default_rng(0)
    for fold in range(3):
        for test, rows in ((False, store.folds.valid(fold)), (True, store.competition.test)):
            yield Subset(fold, test), rng.normal(size=(len(rows), 4)).astype(np.float32)


def test_every_step_is_in_the_table_by_its_name() -> None:
    assert set(steps.STEPS) == {"calibrate", "adapt", "smooth", "choose", "tta"}
    assert all(step.name == name for name, step in steps.STEPS.items())


@pytest.mark.slow
def test_a_step_opened_again_is_the_one_that_was_stored_and_names_its_command(
    store: Store, write_run: WriteRun
) -> None:
    write_untrained(store)
    augment_run(store, run="tiny", views=find_views(["scales"]), average="log_probs", runtime=RUNTIME)
    for seed in (0, 1):
        write_run(f"run{seed}", seed=seed)
    calibrate(store, "run0")
    calibrate(store, "run0", parts=["clip", "temperature"], name="some")
    derive_run(store, Choose(), ["run0", "run1"], name="best")
    space = make_space(store, [Neighbours, Clusters], features(store), description={"seed": 0})
    candidates = [*NeighbourMean.candidates(["x"], {"k": 2}), ClusterMatch("x", 25, 0.5)]
    derive_run(store, Smooth({"x": space}, candidates), ["run1"])
    fixed = Smooth({"x": space}, [NeighbourMean("x", "arithmetic", None, 2)], fixed=True)
    derive_run(store, fixed, ["run1"], name="fixed")
    statuses = [status for status in run_statuses(Catalogue(store)) if status.entry.kind == "derived"]
    commands = {status.entry.name: status.made_by for status in statuses}
    assert commands == {
        "tiny_tta": "make tta RUN=tiny NAME=tiny_tta, with its VIEWS",
        "run0_calibrated": "make calibrate RUNS=run0 NAME=run0_calibrated",
        "some": 'make calibrate RUNS=run0 PARTS="temperature clip" NAME=some',
        "best": 'make derive STEP=choose RUNS="run0 run1" NAME=best',
        "run1_smooth": 'make smooth RUNS=run1 SPACES=x METHODS="neighbours clusters" NAME=run1_smooth',
        "fixed": "make smooth RUNS=run1 SPACES=x METHODS=neighbours "
        'HOW="mean=arithmetic bandwidth=none k=2" NAME=fixed',
    }
    assert all(made_again(store, run) == stored(store, run) for run in commands)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["sharpen", "halve"])
def test_a_new_step_is_made_blended_shown_and_taken_for_photographs(
    step: str, sharpen: type[Step], store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_untrained(store)
    write_untrained(store, "other")
    where = {"data": str(store.competition.config.folder), "root": store.workspace.root}
    script.main(step=step, runs="tiny", name="new", **where)
    assert f"{step}, cross-fitted" in capsys.readouterr().out
    run = store.read_run("new")
    assert run.fitted == (step == "sharpen") and made_again(store, "new") == stored(store, "new")
    assert run.manifests[0].details["num_candidates"] == 1
    blend_runs(store, runs=["new", "other"], name="both")
    commands = {status.entry.name: status.made_by for status in run_statuses(Catalogue(store))}
    assert commands["new"] == f"make derive STEP={step} RUNS=tiny NAME=new"
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(store.competition.test_paths()):
        (images / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    for name in ("new", "both"):
        probs = predict_photographs(store, store.read_run(name), images, runtime=RUNTIME).probs
        np.testing.assert_allclose(probs, np.exp(store.read_run(name).test_log_probs), atol=1e-5)


def test_a_step_of_another_version_of_the_project_is_named(
    sharpen: type[Step], store: Store, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a")
    derive_run(store, Sharpen(), ["a"])
    monkeypatch.undo()
    made_by = {status.entry.name: status.made_by for status in run_statuses(Catalogue(store))}["a_sharp"]
    assert made_by == "the step sharpen of another version of the project"
    with pytest.raises(StoreError, match=r"a_sharp: made by another version .*no step sharpen"):
        blend_runs(store)


@pytest.mark.parametrize("step", ["calibrate", "smooth", "choose", "tta"])
def test_the_command_of_a_step_of_another_version_leaves_its_settings_out(
    step: str, store: Store, write_run: WriteRun
) -> None:
    write_run("a")
    manifest = store.manifest("a", 0).model_copy(
        update={"config": {"step": {"name": step, "version": 1, "other": 1}}, "kind": "derived"}
    )
    assert steps.command_for(manifest).startswith(f"make {steps.STEPS[step].target} ")
    assert steps.needs_all_images(manifest) == ("averages images that look alike" if step == "smooth" else "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": "blur"}, "STEP=blur: expected one of calibrate, adapt, smooth, choose"),
        ({"step": "tta"}, "STEP=tta: expected one of calibrate"),
        ({"step": "smooth"}, "STEP=smooth: it needs feature spaces; `make smooth` makes it"),
        ({"step": "choose", "how": "k=3"}, "HOW='k=3': choose takes no settings"),
        ({"step": "calibrate", "how": "bias"}, "expected some of prior, temperature, clip; got 'bias'"),
        ({"step": "choose", "runs": "a b"}, "NAME= is missing: the name of the run that choose makes"),
        ({"step": "choose", "name": "c"}, "RUNS: choose takes two runs or more; got 1"),
        ({"step": "choose", "runs": " "}, "RUNS= is missing"),
    ],
)
def test_a_step_that_cannot_be_made_is_refused(
    arguments: dict[str, str], message: str, store: Store, write_run: WriteRun
) -> None:
    write_run("a")
    write_run("b")
    where = {"data": str(store.competition.config.folder), "root": store.workspace.root}
    with pytest.raises(ConfigError, match=message):
        script.main(**{"runs": "a", **arguments}, **where)


def test_a_step_on_one_run_takes_no_more(store: Store, sharpen: type[Step], write_run: WriteRun) -> None:
    for run in ("a", "b"):
        write_run(run)
    with pytest.raises(ConfigError, match="RUNS: sharpen takes one run; got 2"):
        derive_run(store, Sharpen(), ["a", "b"], name="c")
