"""make train, make cv and make grid: train folds of runs and keep their predictions in oof/."""

from typing import Annotated

import typer

import console
from distracted.cluster.job import check_split, train_folds
from distracted.config import load_config
from distracted.errors import ConfigError, DistractedError
from distracted.paths import Workspace
from distracted.postprocess.pseudo import with_teachers
from distracted.predictions.manifest import Manifest
from distracted.predictions.store import Store, open_store
from distracted.report.status import pooled_scores
from distracted.training.resolve import settle


def main(
    models: Annotated[str, typer.Option(help="Names in configs/models, separated by spaces.")],
    fold: Annotated[int | None, typer.Option(help="One fold; all of them where it is left out.")] = None,
    name: Annotated[str, typer.Option(help="The run's name, where it is not the model's.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    leaky: console.Leaky = False,
    time_limit: console.TimeLimit = "",
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Train one fold or all folds of one model or several, and write their predictions to oof/."""
    console.limit_time(time_limit)
    names = models.split()
    if not names:
        raise ConfigError("MODEL= is missing: a name in configs/models (make grid: MODELS=, names)")
    if name and len(names) > 1:
        raise ConfigError("NAME= names one run; it goes with one model")
    overrides = console.overrides(set)
    configs = {
        name or model: load_config(model=model, data=data, overrides=overrides, leaky=leaky, root=root)
        for model in names
    }
    first = next(iter(configs.values()))
    store = open_store(
        Workspace(root), first.data, num_folds=first.training.num_folds, progress=console.progress
    )
    num_folds = store.folds.num_folds
    folds = range(num_folds) if fold is None else [store.folds.check_fold(fold)]
    check_split(store)
    failures = []
    for run, config in configs.items():
        try:
            settled = with_teachers(store, settle(config, num_folds=num_folds), student=run)
            failures += train_folds(
                store,
                settled,
                run=run,
                folds=folds,
                force=force,
                keep_going=len(configs) > 1,
                after_fold=say_fold,
                stop=console.stop,
                progress=console.progress,
            )
        except DistractedError as error:
            if len(configs) == 1:
                raise
            failures.append(f"{run}: {error}")
        else:
            say_pooled(store, run)
    if failures:
        raise DistractedError("\n".join(failures))


def say_fold(manifest: Manifest) -> None:
    """A fold's score, as soon as it is there."""
    console.say(
        f"{manifest.run}, fold {manifest.fold}: {console.scores(manifest.scores)}, {manifest.seconds:.0f} s, "
        f"{manifest.images_per_second:.0f} img/s, weights {manifest.weights['origin']}"
    )


def say_pooled(store: Store, run: str) -> None:
    """The run's headline, once all folds are there."""
    if len(store.finished_folds(run)) == store.folds.num_folds:
        console.say(f"{run}: pooled OOF {console.scores(pooled_scores(store, run))}")


if __name__ == "__main__":
    console.run(main)
