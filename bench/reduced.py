"""Does training on reduced pictures cost anything? The same folds and seeds, from whole and reduced ones.

    PYTHONPATH=scripts python bench/reduced.py --data <folder> --root <workspace>

Runs differ in `augment.short_side` alone. Every fold of every seed is trained both ways; the difference of
pooled OOF log loss has its standard error over subjects. What is done is not repeated.
"""

from typing import Annotated

import numpy as np
import typer

import console
from distracted.config import load_config
from distracted.jobs.fold import train_and_store
from distracted.metrics import difference_and_error, log_losses
from distracted.training.resolve import resolve
from harness import size_setting
from markdown_table import say_header, say_row

_WAYS = {"whole": "null", "reduced": "auto"}


def main(
    data: console.Data,
    root: console.Root,
    model: Annotated[str, typer.Option(help="A name in configs/models.")] = "efficientnet_lite0",
    seeds: Annotated[int, typer.Option(help="How many.")] = 2,
    set: console.Set = "",
) -> None:
    """Train what is missing and print the paired comparison."""
    quiet = ["runtime.tracking=none", "runtime.validate_every_epoch=false"]
    quiet += [size_setting(model), *console.overrides(set)]
    first = load_config(model=model, data=data, overrides=quiet, root=root)
    store = console.open_store(first.data, root, first.runtime, num_folds=first.training.num_folds)
    labels, subjects = store.folds.labels, store.folds.subjects
    losses: dict[str, list[np.ndarray]] = {way: [] for way in _WAYS}
    say_header(["seed", *(f"from {way} pictures" for way in _WAYS)])
    for seed in range(seeds):
        for way, short_side in _WAYS.items():
            chosen = [*quiet, f"training.seed={seed}", f"augment.short_side={short_side}"]
            config = load_config(model=model, data=data, overrides=chosen, root=root)
            resolved = resolve(config, num_folds=store.folds.num_folds)
            name = f"{way}_{seed}"
            for fold in range(store.folds.num_folds):
                train_and_store(store, resolved, run=name, fold=fold, progress=console.progress)
            losses[way].append(log_losses(store.read_run(name).oof, labels))
        say_row([str(seed), *(f"{losses[way][-1].mean():.4f}" for way in _WAYS)])
    whole, reduced = (np.mean(losses[way], axis=0) for way in _WAYS)
    difference, error = difference_and_error(reduced, whole, subjects)
    console.say(f"\nreduced less whole: {difference:+.4f} (standard error {error:.4f} over subjects)")


if __name__ == "__main__":
    console.run(main)
