"""make sweep: W&B proposes settings; each trial is a run over all folds, and the best is chosen honestly."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

import console
from distracted.config import load_config
from distracted.config.search_space import listed_settings, read_space
from distracted.ensemble.derive import derive_run
from distracted.errors import ConfigError, DistractedError
from distracted.files import write_text
from distracted.paths import CONFIGS
from distracted.postprocess.choose import Choose
from distracted.predictions.store import Store
from distracted.report.status import pooled_scores
from distracted.schema import RuntimeConfig
from distracted.tracking.sweep import Trial, run_sweep


def main(
    model: Annotated[str, typer.Option(help="A name in configs/models.")],
    trials: Annotated[int, typer.Option(help="How many to train here.", min=1)] = 10,
    sweep: Annotated[str, typer.Option(help="The id of a sweep to join; by default a new one.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    root: console.Root = console.HERE,
) -> None:
    """Train trials that W&B proposes from configs/sweep.yaml, and choose the best as a run of its own."""
    if not model:
        raise ConfigError("MODEL= is missing: a name in configs/models")
    spec = read_space(CONFIGS / "sweep.yaml")
    settings = console.overrides(set)
    place = console.place(data, root, console.runtime_in(set))
    for setting in listed_settings(spec):  # refused now, not after hours of trials
        load_config(model=model, data=place, overrides=[*settings, setting], root=root)
    config = load_config(model=model, data=place, overrides=settings, root=root)
    store = console.open_store(config.data, root, config.runtime, num_folds=config.training.num_folds)
    os.environ.setdefault("WANDB_DIR", str(Path("runs/.wandb").absolute()))  # the agent's files

    def name_of(trial: Trial) -> str:
        return f"{model}_trial_{trial.id}"

    def train(trial: Trial) -> Mapping[str, float]:
        console.say(f"{name_of(trial)}: {' '.join(trial.overrides)}")
        _train(model, name_of(trial), [*settings, *trial.overrides], data, root)
        write_text(store.workspace.sweep(store.competition.name, trial.sweep) / name_of(trial), "")
        pooled = pooled_scores(store, name_of(trial))
        console.say(f"{name_of(trial)}: pooled OOF {console.scores(pooled, store.competition.metric)}")
        return {f"oof/{key}": value for key, value in pooled.items()}

    name = f"{store.competition.name}: {model}"
    sweep_id, done = run_sweep(spec, config.runtime, name=name, trials=trials, train=train, sweep=sweep)
    again = f"make sweep MODEL={model} SWEEP={sweep or sweep_id}"
    console.say(f"sweep {sweep_id}: {len(done)} trials; `{again}` adds more")
    if not done:
        raise DistractedError("no trial finished; their messages are above")
    _choose(store, model, sweep_id, config.runtime)


def _train(model: str, name: str, overrides: list[str], data: str, root: Path) -> None:
    """Train all folds in another process, since this one is the trial's run on W&B."""
    command = [sys.executable, str(Path(__file__).with_name("train.py")), "--model", model, "--name", name]
    command += ["--set", shlex.join(overrides), "--data", data, "--root", str(root)]
    if subprocess.run(command).returncode:
        raise DistractedError(f"{name}: the trial failed; its messages are above")


def _choose(store: Store, model: str, sweep: str, runtime: RuntimeConfig) -> None:
    """Choose among all trials of the sweep that are complete here, whoever trained them."""
    every = [path.name for path in store.workspace.sweep(store.competition.name, sweep).iterdir()]
    complete = [run for run in sorted(every) if len(store.finished_folds(run)) == store.folds.num_folds]
    metric = store.competition.metric
    scores = {run: pooled_scores(store, run)[metric.name] for run in complete}
    ranked = sorted(complete, key=lambda run: (metric.loss_of(scores[run]), run))
    rows = [[run, f"{scores[run]:.4f}"] for run in ranked]
    console.table("trials", ["run", f"pooled OOF {metric.title}"], rows)
    if len(complete) < 2:
        console.say("one trial leaves no choice")
        return
    made = derive_run(store, Choose(), complete, name=f"{model}_sweep", force=True)
    console.track(store, runtime, made.name)
    console.say(
        f"{made.name}: {made.gain.after:.4f}, for each fold one of {len(complete)} trials, chosen on the "
        f"others ({made.how}); the best trial's own {made.gain.before:.4f} flatters, as any choice does"
    )


if __name__ == "__main__":
    console.run(main)
