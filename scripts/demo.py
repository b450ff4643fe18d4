"""make demo: the whole job on the embedded sample, by the commands that a competitor types."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

import audit
import console
import ensemble
import folds
import report
import sample
import submit
import train
from distracted.metrics import prior_log_loss
from distracted.paths import Workspace
from distracted.predictions.store import Store
from distracted.report.status import pooled_scores
from distracted.report.truth import Outcome, prior_on_truth, score_on_truth

DATA = "sample"
FLATTERED = "sample_random_split"  # the same pictures, folds by image: what the field's notebooks do


@dataclass(frozen=True)
class Demo:
    """What one demo trains: settings by model, and a suffix that keeps its runs apart."""

    settings: dict[str, str]
    suffix: str


_SHARED = "runtime.validate_every_epoch=false"
_ANY = "model.weights=auto_or_none"  # random ones without a network, so that the demo runs there, too
_BRIEF = (
    f"{_SHARED} {_ANY} training.batch_size=25 phases.features.max_iter=50 phases.finetune.epochs=1 "
    "phases.scratch.epochs=1"
)
_KNOWING = f"{_SHARED} augment.policy=light"  # their weights come in packages, with or without a network
FULL = Demo(
    {
        "efficientnet_lite0": f"{_KNOWING} model.image_size=96 phases.finetune.epochs=3",
        "efficientnet_lite1": f"{_KNOWING} model.image_size=64 phases.finetune.epochs=2",
        "efficientnet_lite2": f"{_KNOWING} model.image_size=64 phases.finetune.epochs=2",
        "vgg16": f"{_BRIEF} model.image_size=32",
        "inception_v3": f"{_BRIEF} model.image_size=75",
        "resnet50": f"{_BRIEF} model.image_size=32",
    },
    suffix="",
)
SHORT = Demo(
    {
        "efficientnet_lite0": f"{_SHARED} model.image_size=64 phases.finetune.epochs=1",
        "resnet50": (
            f"{_SHARED} {_ANY} model.image_size=32 phases.finetune.epochs=1 phases.scratch.epochs=1"
        ),
    },
    suffix="_short",
)


def main(
    short: Annotated[bool, typer.Option("--short", help="Two models and less training, as in CI.")] = False,
    root: console.Root = console.HERE,
) -> None:
    """Render the sample, make folds, train, blend, submit, compare with the truth, and write the report."""
    start = time.perf_counter()
    demo = SHORT if short else FULL
    step = _steps(7 if short else 8)
    step("make sample: render the embedded competition")
    if Workspace(root).input(DATA).exists():
        console.say("rendered already")
    else:
        sample.main(root=root)
    step("make folds: check the data, split by subject")
    folds.main(data=DATA, root=root)
    step(f"make cv: {len(demo.settings)} models, three folds each")
    runs = []
    for model, settings in demo.settings.items():
        runs.append(model + demo.suffix)
        train.main(model=model, name=runs[-1], data=DATA, set=settings, root=root)
    if not short:
        step("the same network on a random image split, for comparison: people on both sides")
        model, settings = next(iter(demo.settings.items()))
        train.main(model=model, data=FLATTERED, set=settings, root=root)
    step("make ensemble: blend by log loss, cross-fitted")
    blend = f"ensemble{demo.suffix}"
    ensemble.main(runs=" ".join(runs), name=blend, data=DATA, root=root)
    step("make submit: check and write the submission")
    submit.main(name=blend, data=DATA, root=root)
    step("the truth: the scores that were read, and those on the test set's labels")
    store = console.open_store(DATA, root, console.runtime(""))
    truth = store.competition.config.folder / "test_labels.csv"
    outcomes = score_on_truth(store, [*runs, blend], truth)
    _show(store, outcomes, prior_on_truth(store, truth))
    if not short:
        _show_flattery(console.open_store(FLATTERED, root, console.runtime("")), outcomes[0])
    last = outcomes[-1]
    console.say(f"{blend}: expected {submit.describe(last.expected)}")
    console.say(f"{blend}: true {submit.compare(last.expected, last.test)}")
    step("make audit, make report: what is odd in the data, and all of it on one page")
    audit.main(data=DATA, root=root)
    report.main(data=DATA, root=root)
    console.say(f"done in {time.perf_counter() - start:.0f} s")


def _steps(total: int) -> Callable[[str], None]:
    number = itertools.count(1)
    return lambda text: console.say(f"\n[{next(number)}/{total}] {text}")


def _show(store: Store, outcomes: Sequence[Outcome], prior: float) -> None:
    rows = []
    for outcome in outcomes:
        expected = outcome.expected
        forecast = f"{expected.mean:.4f}"
        if expected.low is not None:
            forecast += f" ({expected.low:.2f} to {expected.high:.2f})"
        origin = store.manifest(outcome.run, 0).weights.get("origin", "blend, cross-fitted").partition(":")[0]
        scores = [f"{expected.oof:.4f}", forecast, f"{outcome.single:.4f}", f"{outcome.test:.4f}"]
        rows.append([outcome.run, origin, *scores])
    labels, ids, num_classes = store.folds.labels, store.folds.ids, store.competition.num_classes
    floor = prior_log_loss(labels, ids, num_classes)
    rows.append(["class prior", "", f"{floor:.4f}", f"{floor:.4f}", f"{prior:.4f}", f"{prior:.4f}"])
    columns = ["run", "weights", "OOF", "expected (95%)", "true: one network", "true: submitted"]
    console.table("log loss, read before the truth was known and after", columns, rows)


def _show_flattery(store: Store, honest: Outcome) -> None:
    oof, flattered = honest.expected.oof, pooled_scores(store, honest.run)["log_loss"]
    console.say(
        f"{honest.run}: on folds by subject {oof:.4f}, on a random image split {flattered:.4f}, "
        f"truly {honest.single:.4f}: the random split flatters {oof / flattered:.1f}-fold"
    )


if __name__ == "__main__":
    console.run(main)
