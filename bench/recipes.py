"""Every recipe at equal time, the same network and folds; the tables of docs/evidence_transfer.md.

    PYTHONPATH=scripts python bench/recipes.py --data <folder> --root <workspace> [--recipes "full gradual"]

What a fit is made of is timed first, all recipes taking turns, so that a machine whose speed drifts treats
them alike: looking at an image, training on one in each phase, fitting a head. From that follow the epochs
that make a fit as long as asked, and the table's seconds: those of a machine as fast as it was then, with
the base's features computed again. Timings are kept, and finished folds are skipped.
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

import console
from distracted.config import load_config
from distracted.data.picture_sets import Images
from distracted.files import write_json
from distracted.jobs.fold import train_and_store
from distracted.metrics import difference_and_error, log_losses, scores
from distracted.models.network import build_network
from distracted.paths import CONFIGS
from distracted.predictions.store import Store
from distracted.schema import FeaturesPhase, HeadPhase, Phase, RunConfig, TrainPhase
from distracted.training.context import FoldContext
from distracted.training.feed import Feed
from distracted.training.heads import fit_head, train_head
from distracted.training.loop import FoldTraining
from distracted.training.metrics_log import Tracker
from distracted.training.phase_training import PhaseTraining
from distracted.training.resolve import resolve
from harness import size_setting
from markdown_table import say_header, say_row

_IMAGES, _TURNS = 192, 4
_QUIET = ["runtime.tracking=none", "runtime.validate_every_epoch=false"]


def main(
    data: console.Data,
    root: console.Root,
    model: Annotated[str, typer.Option(help="A name in configs/models.")] = "efficientnet_lite0",
    recipes: Annotated[str, typer.Option(help="Names, separated by spaces; by default all.")] = "",
    seconds: Annotated[float, typer.Option(help="A fit should take.")] = 90.0,
    folds: Annotated[int, typer.Option(help="How many.")] = 3,
    suffix: Annotated[str, typer.Option(help="Of the runs' names.")] = "",
    set: console.Set = "",
) -> None:
    """Train each recipe for about the same time and print the table, the best first."""
    names = recipes.split() or sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml"))
    settings = [*_QUIET, size_setting(model), f"training.num_folds={folds}", *console.overrides(set)]
    first = load_config(model=model, data=data, overrides=settings, root=root)
    store = console.open_store(first.data, root, first.runtime, num_folds=folds)
    configs = {
        recipe: load_config(model=model, data=data, overrides=[*settings, f"recipe={recipe}"], root=root)
        for recipe in names
    }
    costs = _costs(store, configs)
    runs = {}
    for recipe, config in configs.items():
        epochs = _epochs(config, costs[recipe], seconds)
        run = f"{recipe}{suffix}"
        runs[run] = Timed(epochs, costs[recipe].total(epochs))
        chosen = [f"recipe={recipe}", *(f"phases.{name}.epochs={number}" for name, number in epochs.items())]
        config = load_config(model=model, data=data, overrides=[*settings, *chosen], root=root)
        resolved = resolve(config, num_folds=folds)
        for fold in range(folds):  # what is done is skipped, and refused where the recipe was another then
            done = train_and_store(store, resolved, run=run, fold=fold, progress=console.progress)
            console.say(f"{done.run}, fold {fold}: {console.scores(done.scores)}, {done.seconds:.0f} s")
    _show(store, runs)


@dataclass(frozen=True)
class Cost:
    """Seconds of a fit: apart from its epochs, and of an epoch of each phase that has any."""

    fixed: float
    epochs: dict[str, float]

    def total(self, epochs: dict[str, int]) -> float:
        return self.fixed + sum(number * self.epochs[name] for name, number in epochs.items())


@dataclass(frozen=True)
class Timed:
    """A recipe's epochs by phase, and the seconds that a fit takes by the timings."""

    epochs: dict[str, int]
    seconds: float


def _epochs(config: RunConfig, cost: Cost, seconds: float) -> dict[str, int]:
    """Epochs by phase for a fit of so many seconds, in the ratio that the recipe gives them."""
    given = {name: _given_epochs(config.phases[name]) for name in cost.epochs}
    if not given:
        return {}
    once = sum(number * cost.epochs[name] for name, number in given.items())
    times = (seconds - cost.fixed) / once
    return {name: max(1, round(times * number)) for name, number in given.items()}


def _given_epochs(phase: Phase) -> int:
    assert not isinstance(phase, FeaturesPhase)
    return phase.epochs


def _costs(store: Store, configs: dict[str, RunConfig]) -> dict[str, Cost]:
    """The parts of each recipe's fit of fold 0, timed in turns; kept next to the workspace's folders."""
    kept = store.workspace.root / f"{store.competition.name}_costs.json"
    if kept.is_file():
        known = {recipe: Cost(**cost) for recipe, cost in json.loads(kept.read_text()).items()}
        if set(configs) <= set(known):
            return known
    trials = {recipe: Trial(store, config) for recipe, config in configs.items()}
    with console.progress("timing", total=_TURNS * len(trials), unit="turn") as step:
        for _ in range(_TURNS):
            for trial in trials.values():
                trial.take_turn()
                step()
    costs = {recipe: trial.cost() for recipe, trial in trials.items()}
    write_json(kept, {recipe: asdict(cost) for recipe, cost in costs.items()})
    return costs


@dataclass(frozen=True, eq=False)
class SampledFold(FoldContext):
    """A fold that trains on some of its rows."""

    @cached_property
    def train_rows(self) -> NDArray[np.int64]:
        rows = self.folds.train(self.fold)
        return rows[:: max(1, len(rows) // _IMAGES)][:_IMAGES]


class Trial:
    """Times the parts of one recipe's fit, a little of each at a turn."""

    def __init__(self, store: Store, config: RunConfig) -> None:
        self.resolved = resolve(config, num_folds=store.folds.num_folds)
        self.phases = self.resolved.config.phases
        self.network = build_network(
            self.resolved.config.model, self.resolved.weights, num_classes=store.competition.num_classes
        )
        self.feed = Feed(self.resolved, store.workspace.cache(store.competition.name), console.progress)
        self.images = Images.to_train(store.competition)
        self.labels = store.folds.labels
        self.rows = store.folds.train(0)
        self.num_valid, self.num_test = len(store.folds.valid(0)), len(store.competition.test)
        self.on_features = not all(isinstance(phase, TrainPhase) for phase in self.phases.values())
        self.features = self.feed.features(self.network, self.images) if self.on_features else None
        self.context = SampledFold(
            self.resolved,
            0,
            competition=store.competition,
            folds=store.folds,
            cache=store.workspace.cache(store.competition.name),
            tracker=Tracker(),
        )
        self.took: dict[str, list[float]] = {"look": [], **{name: [] for name in self.phases}}

    def take_turn(self) -> None:
        """Time looking at some images, and each phase on them; of a head's phase, an epoch or a whole fit."""
        some = self.context.train_rows
        start = time.perf_counter()
        self.feed.log_probs(self.network, self.images, some, "looking")
        self.took["look"].append((time.perf_counter() - start) / len(some))
        for name, phase in self.phases.items():
            start = time.perf_counter()
            if isinstance(phase, TrainPhase):
                self._train(phase)
                self.took[name].append((time.perf_counter() - start) / len(some) * len(self.rows))
            else:
                self._fit_head(phase)
                self.took[name].append(time.perf_counter() - start)

    def cost(self) -> Cost:
        """From the mean over the turns, the first, which warms up, left out."""
        mean = {name: statistics.mean(values[1:]) for name, values in self.took.items()}
        trained = any(isinstance(phase, TrainPhase) for phase in self.phases.values())
        looked_at = self.num_test + self.num_valid * trained + len(self.labels) * self.on_features
        fits = [mean[name] for name, phase in self.phases.items() if isinstance(phase, FeaturesPhase)]
        epochs = {
            name: mean[name] for name, phase in self.phases.items() if not isinstance(phase, FeaturesPhase)
        }
        return Cost(looked_at * mean["look"] + sum(fits), epochs)

    def _train(self, phase: TrainPhase) -> None:
        """One epoch of a phase on the sampled rows."""
        training = FoldTraining(self.context)
        training.network = self.network
        PhaseTraining(training, "", phase.model_copy(update={"epochs": 1})).run()

    def _fit_head(self, phase: FeaturesPhase | HeadPhase) -> None:
        assert self.features is not None
        if isinstance(phase, FeaturesPhase):
            fit_head(self.network, self.features[self.rows], self.labels[self.rows], phase)
        else:
            once = phase.model_copy(update={"epochs": 1})
            train_head(self.network, self.features, self.labels, self.rows, once, seed=0)


def _show(store: Store, runs: dict[str, Timed]) -> None:
    """Markdown: each run's pooled scores and time, and its distance from the best with a standard error."""
    labels, subjects = store.folds.labels, store.folds.subjects
    oof = {run: store.read_run(run) for run in runs}
    losses = {run: log_losses(read.oof, labels) for run, read in oof.items()}
    order = sorted(losses, key=lambda run: float(losses[run].mean()))
    columns = ["recipe", "log loss", "folds", "accuracy", "above the best (standard error)"]
    columns += ["seconds a fit", "epochs"]
    say_header(columns)
    for run in order:
        pooled = scores(oof[run].oof, labels)
        by_fold = [manifest.scores["valid/log_loss"] for manifest in oof[run].manifests]
        difference, error = difference_and_error(losses[run], losses[order[0]], subjects)
        cells = [
            f"`{run}`",
            f"{pooled['log_loss']:.3f}",
            f"{min(by_fold):.3f} to {max(by_fold):.3f}",
            f"{pooled['accuracy']:.3f}",
            f"{difference:.3f} ({error:.3f})" if run != order[0] else "",
            f"{runs[run].seconds:.0f}",
            ", ".join(f"{name} {number}" for name, number in runs[run].epochs.items()),
        ]
        say_row(cells)


if __name__ == "__main__":
    console.run(main)
