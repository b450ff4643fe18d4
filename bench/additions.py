"""What each addition to the default recipe is worth, alone and together, on the same folds and seeds.

    PYTHONPATH=scripts python bench/additions.py --data <folder> --root <workspace> [--only "wide longer"]

The base is the default recipe on images of 128 pixels. The additions and their settings are in
bench/additions.yaml. A run differs from the base by its settings alone. Its gain is the difference in log
loss of the same rows, averaged over the seeds, with a 95% interval over subjects. Finished folds are skipped,
so that a measurement that was stopped goes on.
"""

import shlex
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml
from numpy.typing import NDArray
from scipy import stats

import console
from distracted.config import load_config
from distracted.errors import ConfigError
from distracted.jobs.fold import train_and_store
from distracted.metrics import difference_and_error, log_losses
from distracted.predictions.store import Store
from distracted.training.resolve import resolve
from markdown_table import say_header, say_row

_ADDITIONS = Path(__file__).with_suffix(".yaml")
_SHARED = ["runtime.tracking=none", "runtime.validate_every_epoch=false", "model.image_size=128"]
_BASE = "base"


def main(
    data: console.Data,
    root: console.Root,
    model: Annotated[str, typer.Option(help="A name in configs/models.")] = "efficientnet_lite0",
    only: Annotated[str, typer.Option(help="Names in additions.yaml, with spaces; by default all.")] = "",
    seeds: Annotated[str, typer.Option(help="Separated by spaces.")] = "0 1",
    folds: Annotated[int, typer.Option(help="How many.")] = 5,
) -> None:
    """Train the base and each addition with each seed, and print the table."""
    settings = {_BASE: "", **yaml.safe_load(_ADDITIONS.read_text())}
    if unknown := set(only.split()) - set(settings):
        raise ConfigError(f"--only: {', '.join(sorted(unknown))} is not in {_ADDITIONS.name}")
    names = [_BASE, *(only.split() or [name for name in settings if name != _BASE])]
    first = load_config(model=model, data=data, overrides=_SHARED, root=root)
    store = console.open_store(first.data, root, first.runtime, num_folds=folds)
    for seed in map(int, seeds.split()):
        for name in names:
            overrides = [*_SHARED, *shlex.split(settings[name]), f"training.seed={seed}"]
            config = load_config(model=model, data=data, overrides=overrides, root=root)
            resolved = resolve(config, num_folds=store.folds.num_folds)
            for fold in range(store.folds.num_folds):
                run = _run(name, model, seed)
                done = train_and_store(store, resolved, run=run, fold=fold, progress=console.progress)
                console.say(f"{run}, fold {fold}: {console.scores(done.scores)}, {done.seconds:.0f} s")
    _show(store, names, model, [int(seed) for seed in seeds.split()])


def _run(name: str, model: str, seed: int) -> str:
    return f"{model}_{name}_{seed}"


def _show(store: Store, names: list[str], model: str, seeds: list[int]) -> None:
    """Markdown: pooled OOF log loss by seed, gain over the base, and seconds of all folds."""
    say_header(["addition", *(f"seed {seed}" for seed in seeds), "gain (95%)", "seconds a seed"])
    base = _mean_losses(store, _BASE, model, seeds)
    subjects = store.folds.subjects[store.folds.scored]
    quantile = float(stats.t.ppf(0.975, len(np.unique(subjects)) - 1))
    for name in names:
        losses = _mean_losses(store, name, model, seeds)
        gain, error = difference_and_error(base.mean(0), losses.mean(0), subjects)
        manifests = [store.read_run(_run(name, model, seed)).manifests for seed in seeds]
        seconds = np.mean([sum(manifest.seconds for manifest in folds) for folds in manifests])
        interval = f"{gain:.3f} ({gain - quantile * error:.3f} to {gain + quantile * error:.3f})"
        cells = [f"`{name}`", *(f"{mean:.3f}" for mean in losses.mean(1)), interval if name != _BASE else ""]
        say_row([*cells, f"{seconds:.0f}"])


def _mean_losses(store: Store, name: str, model: str, seeds: list[int]) -> NDArray[np.float64]:
    """Losses of the scored rows by seed, (num_seeds, num_rows)."""
    scored, labels = store.folds.scored, store.folds.labels
    oof = [store.read_run(_run(name, model, seed)).oof for seed in seeds]
    return np.stack([log_losses(log_probs[scored], labels[scored]) for log_probs in oof])


if __name__ == "__main__":
    console.run(main)
