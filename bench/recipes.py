"""Every recipe at equal time: the same network, folds and seconds a fit; the table of docs/transfer.md.

    PYTHONPATH=scripts python bench/recipes.py --data <folder> --root <workspace> [--recipes "full gradual"]

A recipe's epochs are scaled until a fit takes about the given seconds: a short fit of fold 0 tells how long
they take. Every fit computes its features anew, so that none lives on another's. Folds that are done are not
repeated; the epochs that were chosen are kept beside them.
"""

import json
import shutil
from typing import Annotated

import typer

import console
from distracted.cluster.job import train_and_store
from distracted.config import load_config
from distracted.files import write_json
from distracted.metrics import difference_and_error, log_losses, scores
from distracted.paths import CONFIGS, Workspace
from distracted.predictions.store import Store, open_store
from distracted.schema import FeaturesPhase, RunConfig
from distracted.training.fold import train_fold
from distracted.training.resolve import settle
from distracted.training.tracking import FileTracker

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
    debug: console.Debug = False,
) -> None:
    """Train each recipe for about the same time and print the table, the best first."""
    names = recipes.split() or sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml"))
    settings = [*_QUIET, f"training.num_folds={folds}", *console.overrides(set)]
    first = load_config(model=model, data=data, overrides=settings, root=root)
    store = open_store(Workspace(root), first.data, num_folds=folds, progress=console.progress)
    runs = {}
    for recipe in names:
        run = f"{recipe}{suffix}"
        of_recipe = [*settings, f"recipe={recipe}"]
        config = load_config(model=model, data=data, overrides=of_recipe, root=root)
        epochs = _epochs(store, config, run, seconds)
        chosen = [*of_recipe, *(f"phases.{name}.epochs={number}" for name, number in epochs.items())]
        config = load_config(model=model, data=data, overrides=chosen, root=root)
        for fold in range(folds):
            _fit(store, config, run, fold)
        runs[run] = epochs
    _show(store, runs)


def _fit(store: Store, config: RunConfig, run: str, fold: int) -> None:
    settled = settle(config, num_folds=store.folds.num_folds)
    if fold in store.finished_folds(run):
        store.check_config(run, settled.config.hash)  # the recipe may have changed since
        return
    _forget_features(store)
    done = train_and_store(store, settled, run=run, fold=fold, progress=console.progress)
    console.say(f"{run}, fold {fold}: {console.scores(done.scores)}, {done.seconds:.0f} s")


def _epochs(store: Store, config: RunConfig, run: str, seconds: float) -> dict[str, int]:
    """Epochs by phase for a fit of so many seconds, in the ratio that the recipe gives them."""
    kept = store.workspace.root / f"{store.competition.name}_{run}_epochs.json"
    if kept.is_file():
        known: dict[str, int] = json.loads(kept.read_text())
        return known
    phases = settle(config, num_folds=store.folds.num_folds).config.phases
    given = {name: phase.epochs for name, phase in phases.items() if not isinstance(phase, FeaturesPhase)}
    if not given:
        return {}
    ratio = {name: number / min(given.values()) for name, number in given.items()}
    fixed, each = _cost(store, config, ratio)
    times = max(1.0, (seconds - fixed) / each)
    epochs = {name: max(1, round(times * share)) for name, share in ratio.items()}
    write_json(kept, epochs)
    console.say(f"{run}: {fixed:.0f} s and {each:.1f} s for {ratio}; so {epochs}")
    return epochs


def _cost(store: Store, config: RunConfig, ratio: dict[str, float]) -> tuple[float, float]:
    """Seconds of a fit apart from its epochs, and of the epochs in `ratio`: from two short fits of fold 0."""
    took = []
    for times in (1, 2):
        phases = {
            name: phase.model_copy(update={"epochs": round(times * ratio[name])}) if name in ratio else phase
            for name, phase in config.phases.items()
        }
        _forget_features(store)
        settled = settle(config.model_copy(update={"phases": phases}), num_folds=store.folds.num_folds)
        with FileTracker(store.workspace.root / "trial") as tracker:
            result = train_fold(
                settled,
                0,
                competition=store.competition,
                folds=store.folds,
                cache=store.workspace.cache(store.competition.name),
                tracker=tracker,
                progress=console.progress,
            )
        took.append(result.seconds)
        if result.images_per_second:  # the epochs' own time is known
            num_images = len(store.folds.train(0)) * sum(ratio.values())
            each = num_images / result.images_per_second
            return took[0] - each, each
    return 2 * took[0] - took[1], took[1] - took[0]


def _forget_features(store: Store) -> None:
    shutil.rmtree(store.workspace.cache(store.competition.name) / "features", ignore_errors=True)


def _show(store: Store, runs: dict[str, dict[str, int]]) -> None:
    """Markdown: each run's pooled scores and time, and its distance from the best with a standard error."""
    labels, subjects = store.folds.labels, store.folds.subjects
    oof = {run: store.read_run(run) for run in runs}
    losses = {run: log_losses(read.oof, labels) for run, read in oof.items()}
    order = sorted(losses, key=lambda run: float(losses[run].mean()))
    console.say(
        "| recipe | log loss | folds | accuracy | above the best (standard error) | seconds a fit | epochs |"
    )
    console.say("| --- | --- | --- | --- | --- | --- | --- |")
    for run in order:
        found = scores(oof[run].oof, labels)
        by_fold = [manifest.scores["valid/log_loss"] for manifest in oof[run].manifests]
        seconds = [manifest.seconds for manifest in oof[run].manifests]
        difference, error = difference_and_error(losses[run], losses[order[0]], subjects)
        distance = f"{difference:.3f} ({error:.3f})" if run != order[0] else ""
        epochs = ", ".join(f"{name} {number}" for name, number in runs[run].items())
        console.say(
            f"| `{run}` | {found['log_loss']:.3f} | {min(by_fold):.3f} to {max(by_fold):.3f} | "
            f"{found['accuracy']:.3f} | {distance} | {min(seconds):.0f} to {max(seconds):.0f} | {epochs} |"
        )


if __name__ == "__main__":
    console.run(main)
