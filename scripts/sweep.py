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
from distracted.ensemble.derive import choose_run
from distracted.errors import ConfigError, DistractedError
from distracted.paths import CONFIGS, Workspace
from distracted.predictions.store import Store, open_store
from distracted.report.status import pooled_scores
from distracted.tracking.sweep import Trial, read_sweep, run_sweep, some_values


def main(
    model: Annotated[str, typer.Option(help="A name in configs/models.")],
    trials: Annotated[int, typer.Option(help="How many to train here.", min=1)] = 10,
    sweep: Annotated[str, typer.Option(help="The id of a sweep to join; by default a new one.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Train trials that W&B proposes from configs/sweep.yaml, and choose the best as a run of its own."""
    if not model:
        raise ConfigError("MODEL= is missing: a name in configs/models")
    told = read_sweep(CONFIGS / "sweep.yaml")
    settings = console.overrides(set)
    config = load_config(model=model, data=data, overrides=[*settings, *some_values(told)], root=root)
    store = open_store(
        Workspace(root), config.data, num_folds=config.training.num_folds, progress=console.progress
    )
    os.environ.setdefault("WANDB_DIR", str(Path("runs/.wandb").absolute()))  # the agent's files

    def name_of(trial: Trial) -> str:
        return f"{model}_trial_{trial.id}"

    def train(trial: Trial) -> Mapping[str, float]:
        console.say(f"{name_of(trial)}: {' '.join(trial.overrides)}")
        _train(model, name_of(trial), [*settings, *trial.overrides], data, root)
        found = pooled_scores(store, name_of(trial))
        console.say(f"{name_of(trial)}: pooled OOF {console.scores(found)}")
        return {f"oof/{key}": value for key, value in found.items()}

    name = f"{store.competition.name}: {model}"
    sweep, done = run_sweep(told, config.runtime, name=name, trials=trials, train=train, sweep=sweep)
    console.say(f"sweep {sweep}: {len(done)} trials; `make sweep MODEL={model} SWEEP={sweep}` adds more")
    _choose(store, model, [name_of(trial) for trial in done])


def _train(model: str, name: str, overrides: list[str], data: str, root: Path) -> None:
    """Train all folds in a process that knows nothing of the sweep: its folds are runs of their own."""
    sweeping = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
    environment = {key: value for key, value in os.environ.items() if key not in sweeping}
    command = [sys.executable, str(Path(__file__).with_name("train.py")), "--models", model, "--name", name]
    command += ["--set", shlex.join(overrides), "--data", data, "--root", str(root)]
    if subprocess.run(command, env=environment).returncode:
        raise DistractedError(f"{name}: the trial failed; what it said stands above")


def _choose(store: Store, model: str, here: list[str]) -> None:
    """The best of all trials of the model that are complete, this sweep's and earlier ones'."""
    every = [run for run in store.runs() if run.startswith(f"{model}_trial_")]
    complete = [run for run in every if len(store.finished_folds(run)) == store.folds.num_folds]
    rows = []
    for run in complete:
        loss = pooled_scores(store, run)["log_loss"]
        rows.append((loss, [run, f"{loss:.4f}", "here" if run in here else "before"]))
    console.table(
        "trials, the best first", ["run", "pooled OOF log loss", ""], [row for _, row in sorted(rows)]
    )
    if len(complete) < 2:
        console.say("one trial leaves no choice")
        return
    made = choose_run(store, complete, name=f"{model}_sweep", force=True)
    console.track(store, made.name)
    console.say(
        f"{made.name}: {made.gain.after:.4f}, chosen for each fold on the others of {len(complete)} trials "
        f"({', '.join(map(str, made.fitted))}); over all folds together {made.overall} is best, "
        f"{made.gain.before:.4f}, which flatters as any choice does"
    )


if __name__ == "__main__":
    console.run(main)
