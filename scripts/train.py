"""make train and make cv: train folds of runs and keep their predictions in oof/."""

import os
import sys
from typing import Annotated

import typer

import console
import signals
from distracted.data.audit import check_split
from distracted.errors import ConfigError
from distracted.imports import importing
from distracted.postprocess.step import MIN_FOLDS
from distracted.predictions.manifest import Manifest
from distracted.predictions.store import Store
from distracted.report.status import pooled_scores


def main(
    model: Annotated[str, typer.Option(help="A name in configs/models.")],
    fold: Annotated[int | None, typer.Option(help="One fold; by default all.")] = None,
    name: Annotated[str, typer.Option(help="The run's name, where it is not the model's.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    leaky: console.Leaky = False,
    gpus: Annotated[int, typer.Option(help="Devices that share each fold.", min=1)] = 1,
    time_limit: console.TimeLimit = "",
    patience: Annotated[float, typer.Option(help="Seconds to wait for a held fold.", hidden=True)] = 0.0,
    stop_after: Annotated[int | None, typer.Option(help="Stop after so many epochs.", hidden=True)] = None,
    parent: Annotated[int, typer.Option(help="Process to stop with.", hidden=True)] = 0,
    root: console.Root = console.HERE,
) -> None:
    """Train one fold or all folds of a model, and write their predictions to oof/."""
    with importing():
        from distracted.training.distributed import in_team, join_team, take_card

    signals.stop_with(parent)
    if not model.strip():
        raise ConfigError("MODEL= is missing: a name in configs/models")
    if in_team() and os.environ["RANK"] != "0":
        console.be_quiet()
    config = console.run_config(model, data, set, root, leaky=leaky)
    if gpus > 1 and not in_team():
        from distracted.jobs.cards import team_cards
        from distracted.jobs.launch import run_team

        signals.time_limit(time_limit)  # refused here, once
        command = [sys.executable, *sys.argv, "--parent", str(os.getpid())]
        if cards := team_cards(gpus, config.runtime.device, os.environ.get("CUDA_VISIBLE_DEVICES")):
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
        elif config.runtime.device != "mps":
            console.say(f"GPUS={gpus}: {gpus} processes share the CPU")
            command += ["--set", f"{set} runtime.device=cpu"]
        if gpus > 2:  # not torch's remark that no parameter is unused
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        signals.live.set()  # the lead says that the team stops
        run_team(gpus, command, stop=signals.stop)
        return
    with importing():  # what a team's start does not need
        from distracted.jobs.begun import resolve_run
        from distracted.jobs.fold import train_folds

    signals.limit_time(time_limit)
    take_card(config.runtime.device)
    store = console.open_store(config.data, root, config.runtime, num_folds=config.training.num_folds)
    num_folds = store.folds.num_folds
    folds = range(num_folds) if fold is None else [store.folds.check_fold(fold)]
    check_split(store.competition, store.folds)
    run = name or model
    resolved = resolve_run(store, config, run, retrained=folds if force else ())
    with join_team(resolved.device) as team:
        train_folds(
            store,
            resolved,
            run=run,
            folds=folds,
            force=force,
            after_fold=say_fold,
            stop=signals.stop,
            patience=patience,
            stop_after=stop_after,
            team=team,
            progress=console.progress,
        )
    say_pooled(store, run)


def say_fold(manifest: Manifest) -> None:
    """Print a fold's scores, speed and, if it was trained, the origin of its weights."""
    origin = f", weights {manifest.weights['origin']}" if manifest.kind == "model" else ""
    console.say(
        f"{manifest.run}, fold {manifest.fold}: {console.scores(manifest.scores)}, {manifest.seconds:.0f} s, "
        f"{manifest.images_per_second:.0f} img/s{origin}"
    )


def say_pooled(store: Store, run: str) -> None:
    """The run's headline, once all folds are there, of one config."""
    if len(store.finished_folds(run)) < store.folds.num_folds:
        return
    manifests, metric = store.manifests(run), store.competition.metric
    if len({manifest.config_hash for manifest in manifests}) > 1:
        return
    pooled = pooled_scores(store, run)
    console.say(f"{run}: pooled OOF {console.scores(pooled, metric)}")
    prior = metric.prior(store.folds.labels, store.folds.ids, store.competition.num_classes)
    if metric.loss_of(pooled[metric.name]) > metric.loss_of(prior) + abs(prior) / 100:
        shares = f"the classes' shares ({metric.title} {prior:.4f})"
        console.say(f"{run}: worse than predicting {shares}{_even(manifests[0], len(manifests))}")


def _even(manifest: Manifest, num_folds: int) -> str:
    """What may help where a run learned that all classes are equally frequent; else ""."""
    training = manifest.config.get("training", {})
    if training.get("sampling") != "classes" and training.get("class_weights") != "balanced":
        return ""
    learned = "; it learned that all classes are equally frequent"
    enough = num_folds >= MIN_FOLDS
    return learned + (f", which `make calibrate RUNS={manifest.run}` can correct" if enough else "")


if __name__ == "__main__":
    console.run(main)
