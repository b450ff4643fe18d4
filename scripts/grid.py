"""make grid: all folds of several models and seeds, as jobs on this machine or on a Ray cluster."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

import console
import signals
from distracted.config import load_config
from distracted.data.audit import check_split
from distracted.errors import ConfigError, DistractedError, WeightsError
from distracted.imports import importing
from distracted.jobs.grid import Ended, Job, placement, plan_jobs
from distracted.predictions.job_state import ANY_CONFIG, redo_of
from distracted.predictions.store import Store
from distracted.report.status import FoldStatus, fold_status
from distracted.stopping import Stopped
from live import LiveTable
from status import cell
from train import say_pooled

_PATIENCE = 150.0  # seconds that a job waits for its fold's holder: a lost node's lock is taken over before


def main(
    models: Annotated[str, typer.Option(help="Names in configs/models, separated by spaces.")],
    folds: Annotated[str, typer.Option(help="Numbers of folds; by default all.")] = "",
    seeds: Annotated[str, typer.Option(help="One run for each, named <model>_seed<seed>.")] = "",
    cluster: Annotated[str, typer.Option(help="Address of a Ray cluster: auto, or host:port.")] = "",
    jobs: Annotated[int, typer.Option(help="At most so many at once here; 0: as there is room.", min=0)] = 0,
    name: Annotated[str, typer.Option(help="The run's name, where it is not the model's.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    leaky: console.Leaky = False,
    time_limit: console.TimeLimit = "",
    root: console.Root = console.HERE,
) -> None:
    """Train all (run, fold) jobs that are not done, several at a time; one that fails stops no other."""
    with importing():
        from distracted.cores import usable_cores
        from distracted.jobs.begun import resolve_run
        from distracted.jobs.cards import grid_cards, job_device
        from distracted.jobs.fold import begin_again, is_done, refuse_other_config
        from distracted.jobs.local import Here
        from distracted.jobs.on_ray import OnRay

    signals.limit_time(time_limit)
    settings = {run: (model, f"{set} {more}".strip()) for run, model, more in _runs(models, seeds, name)}
    placed = console.place(data, root, console.runtime_in(set))
    configs = {
        run: load_config(model=model, data=placed, overrides=console.overrides(text), leaky=leaky, root=root)
        for run, (model, text) in settings.items()
    }
    first = next(iter(configs.values()))
    store = console.open_store(first.data, root, first.runtime, num_folds=first.training.num_folds)
    numbers = _folds(store, folds)
    check_split(store.competition, store.folds)
    hashes = dict.fromkeys(configs, ANY_CONFIG)
    cards = {} if cluster else grid_cards(os.environ.get("CUDA_VISIBLE_DEVICES"), configs.values())
    for run, config in configs.items():
        try:
            redone, device = numbers if force else (), job_device(config, cards)
            resolved = resolve_run(store, config, run, retrained=redone, device=device)
        except WeightsError as error:
            if not cluster:
                raise
            console.say(f"{run}: {error}\nThe cluster's machines may have them")
            continue
        if not cluster:  # another machine may resolve it otherwise
            hashes[run] = resolved.config.hash
            refuse_other_config(store, resolved, run, retrained=redone)
    every = [(run, n) for run in configs for n in numbers]
    whole = {run for run in configs if force or hashes[run] == ANY_CONFIG}  # its jobs find out what is done
    todo = [(run, n) for run, n in every if run in whole or not is_done(store, run, n, hashes[run])]
    if not todo:
        console.say("all folds are done (FORCE=1 redoes them)")

    def command(job: Job, device: str) -> Sequence[str]:
        model, text = settings[job.run]
        placed = f"{text} {placement(job, device, configs[job.run].runtime)}".strip()
        return train_command(job, model, placed, data, root, cluster=cluster, leaky=leaky)

    def log(job: Job) -> Path:
        return store.workspace.log(store.competition.name, job.run, job.fold).absolute()

    with ExitStack() as stack:
        here = Here(usable_cores(), at_once=jobs, cards=list(cards))
        engine = stack.enter_context(OnRay(cluster)) if cluster else here
        runtimes = {run: config.runtime for run, config in configs.items()}
        planned = plan_jobs(todo, runtimes, engine, num_all=len(configs) * len(numbers))
        engine.check(planned)
        if force:  # last, now that nothing is in the way
            for run in configs:
                begin_again(store, run, numbers, config_hash=hashes[run], stop=signals.stop)
        watch = stack.enter_context(Board(store, planned))
        stack.enter_context(signals.stop.waiting())
        ended = engine.run(planned, command=command, log=log, stop=signals.stop, watch=watch)
    if failed := [f"{one.job}: {one.reason}" for one in ended if one.state == "failed"]:
        raise DistractedError("\n".join([f"{len(failed)} of {len(planned)} jobs failed", *failed]))
    if stopped := [one for one in ended if one.state == "stopped"]:
        raise Stopped(signals.stop.reason or f"{len(stopped)} jobs were stopped")
    for run in configs:
        say_pooled(store, run)


def train_command(
    job: Job,
    model: str,
    settings: str,
    data: str,
    root: Path,
    *,
    cluster: str,
    leaky: bool = False,
    stop_after: int | None = None,
) -> list[str]:
    """The command that trains a job's fold, or so many epochs of it, here or on a node of a cluster."""
    arguments = ["--model", model, "--fold", str(job.fold), "--name", job.run, *["--leaky"] * leaky]
    arguments += [] if stop_after is None else ["--stop-after", str(stop_after)]
    return _job_command("train.py", arguments, settings, data, root, cluster=cluster)


def views_command(
    job: Job, run: str, views: str, settings: str, data: str, root: Path, *, cluster: str
) -> list[str]:
    """The command that predicts views of each image with all networks of a run, as the job's run."""
    arguments = ["--run", run, "--views", views, "--name", job.run]
    return _job_command("tta.py", arguments, settings, data, root, cluster=cluster)


def _job_command(
    script: str, arguments: Sequence[str], settings: str, data: str, root: Path, *, cluster: str
) -> list[str]:
    """The command of a job, here or on a node of a cluster."""
    from distracted.tracking.online import variables

    place = str(Path(data).expanduser().absolute()) if "/" in data else data  # a job may run elsewhere
    shared = ["--data", place, "--set", settings, "--root", str(root.absolute())]
    shared += ["--patience", str(_PATIENCE)]
    shared += [] if cluster else ["--parent", str(os.getpid())]
    # nodes do not inherit W&B's mode
    carried = ["env", *variables(console.runtime_in(settings))] if cluster else []
    path = Path(__file__).with_name(script).absolute()
    return [*carried, sys.executable, str(path), *arguments, *shared]


def _runs(models: str, seeds: str, name: str) -> list[tuple[str, str, str]]:
    """Name, model and further settings of each run."""
    named, numbers = list(dict.fromkeys(models.split())), list(dict.fromkeys(seeds.split()))
    if not named:
        raise ConfigError("MODELS= is missing: names in configs/models, separated by spaces")
    if name and len(named) * max(1, len(numbers)) > 1:
        raise ConfigError("NAME= names one run; it goes with one model and one seed")
    if not numbers:
        return [(name or model, model, "") for model in named]
    return [(name or f"{model}_seed{n}", model, f"training.seed={n}") for model in named for n in numbers]


def _folds(store: Store, text: str) -> list[int]:
    if not text.strip():
        return list(range(store.folds.num_folds))
    try:
        return [store.folds.check_fold(int(number)) for number in dict.fromkeys(text.split())]
    except ValueError as error:
        if isinstance(error, DistractedError):
            raise
        raise ConfigError(f"FOLDS={text!r}: expected numbers separated by spaces, such as '0 1'") from error


class Board(LiveTable):
    """A live table of a grid's folds on a terminal; elsewhere a line for what changes. Used as a context.

    Called with the jobs that have ended; what runs is read from the folds' own files, wherever they run.
    """

    def __init__(self, store: Store, jobs: Sequence[Job]) -> None:
        super().__init__()
        self._store, self._jobs = store, jobs
        self._start = time.monotonic()
        self._begun_with: float | None = None
        self._told: dict[Job, str] = {}

    def __call__(self, ended: Sequence[Ended]) -> Sequence[Job]:
        self._show(ended)
        return ()  # a grid adds no jobs

    def _show(self, ended: Sequence[Ended]) -> None:
        for one in ended:
            self._tell(one.job, f"{one.state}{f': {one.reason}' if one.reason else self._score(one.job)}")
        if not self._jobs or not self.is_due():
            return
        states = {job: self._status(job) for job in self._jobs}
        text = self._summary(states, ended)
        self.redraw(text, lambda: _table(states, text))

    def _tell(self, job: Job, text: str) -> None:
        """A line below which the table goes on, once."""
        if self._told.get(job) != text:
            self._told[job] = text
            console.err.print(Text(f"{job}: {text}"))

    def _score(self, job: Job) -> str:
        score = self._status(job).score
        return "" if score is None else f", log loss {score:.4f}"

    def _status(self, job: Job) -> FoldStatus:
        redone = redo_of(self._store.scratch(job.run, job.fold))
        manifest = None if redone is not None else self._store.find_manifest(job.run, job.fold)
        return fold_status(self._store, job.run, job.fold, manifest)

    def _summary(self, states: Mapping[Job, FoldStatus], ended: Sequence[Ended]) -> str:
        behind = sum(1.0 if state.state == "done" else state.share for state in states.values()) / len(states)
        if self._begun_with is None:
            self._begun_with = behind
        running = sum(state.state == "running" or state.retraining for state in states.values())
        done = sum(one.state == "done" for one in ended)
        text = f"{done} of {len(states)} folds done, {running} running"
        if others := len(ended) - done:
            text += f", {others} failed or stopped"
        if signals.stop.reason:
            return f"{signals.stop.reason}: stopping at the next good moment; {text}"
        if (gained := behind - self._begun_with) > 0 and behind < 1:
            left = (time.monotonic() - self._start) * (1 - behind) / gained
            text += f", about {max(1, round(left / 60))} min left"
        return text


def _table(states: Mapping[Job, FoldStatus], title: str) -> Table:
    folds = sorted({job.fold for job in states})
    table = Table(title=title, title_justify="left")
    for column in ["run", *(f"fold {fold}" for fold in folds)]:
        table.add_column(column, overflow="fold")
    for run in dict.fromkeys(job.run for job in states):
        of_run = {job.fold: state for job, state in states.items() if job.run == run}
        table.add_row(run, *(cell(of_run[fold]) if fold in of_run else "" for fold in folds))
    return table


if __name__ == "__main__":
    console.run(main)
