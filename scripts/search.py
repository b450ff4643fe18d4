"""make search: draws settings of one model, drops the worse half again and again, and chooses honestly."""

import math
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

import console
import signals
from distracted.config import load_config
from distracted.config.search_space import listed_settings, read_space
from distracted.data.audit import check_split
from distracted.ensemble.derive import derive_run
from distracted.errors import ConfigError, DistractedError
from distracted.imports import importing
from distracted.locks import hold
from distracted.paths import CONFIGS
from distracted.postprocess.choose import Choose
from distracted.predictions.job_state import mark_trial
from distracted.predictions.store import Store
from distracted.report.status import pooled_scores
from distracted.schema import RunConfig, RuntimeConfig, check_name
from grid import train_command
from live import LiveTable

if TYPE_CHECKING:
    from distracted.compete.clock import Clock
    from distracted.compete.draws import Sampler
    from distracted.compete.halving import Halving
    from distracted.compete.trials import Drawn
    from distracted.jobs.grid import Ended

_SAMPLERS = ("quasi", "random")
_RESERVE = 10.0  # seconds at the end for jobs to save their state, and for the choice


def main(
    model: Annotated[str, typer.Option(help="A name in configs/models.")],
    trials: Annotated[int, typer.Option(help="How many settings to draw; more add to those.", min=2)] = 16,
    hours: Annotated[str, typer.Option(help="Total time over all starts: 8, 1.5, 1h30m or 45m.")] = "",
    file: Annotated[str, typer.Option(help="A search file; by default configs/sweep.yaml.")] = "",
    sampler: Annotated[str, typer.Option(help="quasi (evenly spread) or random.")] = "quasi",
    cluster: Annotated[str, typer.Option(help="Address of a Ray cluster: auto, or host:port.")] = "",
    name: Annotated[str, typer.Option(help="The chosen run; by default <model>_search.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    root: console.Root = console.HERE,
) -> None:
    """Search settings of a model by successive halving; the same command goes on after a stop."""
    began = time.monotonic()
    with importing():
        from distracted.compete.begin import JobMaker
        from distracted.compete.clock import Clock
        from distracted.compete.groups import two_groups
        from distracted.compete.halving import Halving
        from distracted.compete.results import StoredScores
        from distracted.compete.run import TimedJobs
        from distracted.compete.trials import make_trials, remove_checkpoints
        from distracted.cores import usable_cores
        from distracted.jobs.cards import grid_cards, job_device
        from distracted.jobs.grid import Job, placement
        from distracted.jobs.local import Here
        from distracted.jobs.on_ray import OnRay
        from distracted.training.resolve import resolve

    seconds = signals.hours_in_seconds(hours) if hours else math.inf
    if not model.strip():
        raise ConfigError("MODEL= is missing: a name in configs/models")
    settings, name = console.overrides(set), name or f"{model}_search"
    path = Path(file) if file else CONFIGS / "sweep.yaml"
    placed = console.place(data, root, console.runtime_in(set))

    def config_of(own: Sequence[str]) -> RunConfig:
        return load_config(model=model, data=placed, overrides=[*settings, *own], root=root)

    drawn = draw(path, trials, sampler, settings, config_of)
    first = config_of([])
    store = console.open_store(first.data, root, first.runtime, num_folds=first.training.num_folds)
    runtime, data_name, folds = first.runtime, store.competition.name, store.folds
    check_new_choice(store, name)
    check_split(store.competition, folds)
    if folds.num_folds < 2:
        raise ConfigError(f"{data_name}: a single split leaves no fold to choose by; expected two or more")
    cards = {} if cluster else grid_cards(os.environ.get("CUDA_VISIBLE_DEVICES"), [first])
    if not cluster:  # its machines may have other devices and weights
        resolve(first, num_folds=folds.num_folds, device=job_device(first, cards))
    every = make_trials(model, drawn, config_of)
    if len(every) < 2:
        raise ConfigError(f"{path}: {len(every)} different setting leaves nothing to search; expected more")
    if len(every) < trials:
        console.say(f"{path} holds {len(every)} different settings; TRIALS={trials} asks for more")
    settings_of = {trial.run: trial.settings for trial in every}
    asked = {"MODEL": model, "TRIALS": trials, "HOURS": hours, "FILE": file, "SET": set}
    asked |= {"SAMPLER": sampler if sampler != _SAMPLERS[0] else "", "NAME": name}
    again = " ".join(["make search", *(f"{key}={shlex.quote(str(v))}" for key, v in asked.items() if v)])
    folder = store.workspace.search(data_name, name)
    with ExitStack() as stack:
        lock = store.workspace.search(data_name, f"{model}.lock.json")  # searches of a model share trials
        stack.enter_context(hold(lock, f"make search MODEL={model} on {data_name}"))
        clock = Clock(folder / "clock.json", seconds, began=began)
        engine = stack.enter_context(OnRay(cluster)) if cluster else Here(usable_cores(), cards=list(cards))
        make_job = JobMaker(engine, runtime)
        engine.check([make_job("any", 0)])
        halving = Halving(
            [trial.run for trial in every],
            {trial.run: trial.epochs for trial in every},
            two_groups([len(folds.valid(fold)) for fold in range(folds.num_folds)]),
            StoredScores(store).loss_after,
            make_job=make_job,
            num_slots=make_job.num_slots,
            startup=engine.startup,
            now=lambda: clock.used,
            ends=lambda: clock.hours - _RESERVE,
            path=folder / "decided.json",
        )
        console.say(f"{len(every)} settings of {model}; {make_job.num_slots} jobs at a time")

        def command(job: Job, device: str) -> Sequence[str]:
            own = shlex.join(settings_of[job.run])
            # each epoch is scored: what one group trains to its end, the other compares at earlier epochs
            text = f"{set} {own} runtime.validate_every_epoch=true {placement(job, device, runtime)}".strip()
            stop_after = halving.stop_after(job)
            mark_trial(store.workspace.trial(data_name, job.run), again)
            return train_command(job, model, text, data, root, cluster=cluster, stop_after=stop_after)

        def log(job: Job) -> Path:
            return store.workspace.log(data_name, job.run, job.fold).absolute()

        board = stack.enter_context(Board(halving, clock))
        free = partial(console.free_bytes, root)
        jobs = TimedJobs(
            halving,
            clock,
            lambda: _RESERVE,
            signals.stop,
            board,
            free_bytes=free,
            make_room=lambda: remove_checkpoints(store, halving.dropped()),
        )
        jobs.run(engine, command=command, log=log)
    finished = {trial.run: scores for trial in every if (scores := _pooled(store, halving, trial.run))}
    show_trials(store, halving, every, finished)
    try:
        runs = choose(store, halving, hours, clock, name=name, runtime=runtime, search={"command": again})
    finally:
        track_trials(store, halving, every, finished, name=name, runtime=runtime)
    metric = store.competition.metric
    best = min(runs, key=lambda run: metric.loss_of(finished[run][metric.name]))
    own = shlex.join(text for text in [*settings, *settings_of[best]] if not text.startswith("runtime"))
    given = console.data_variable(data)
    more = f'make grid MODELS={model} SEEDS="1 2" SET={shlex.quote(own)}{given}'
    console.say(f"other seeds (all folds chose these settings: scores are a little too good): {more}")
    used = f"{clock.used / 60:.1f} minutes used"
    used = f"all of HOURS={hours} is used, and a larger HOURS goes on" if clock.left <= _RESERVE else used
    console.say(f"{used}; TRIALS={2 * trials} adds settings to these")


def check_new_choice(store: Store, name: str) -> None:
    """Refuse a name that is invalid, or that belongs to a run of another kind."""
    store.check_new(check_name(name, "NAME"))
    made = store.manifests(name) if store.finished_folds(name) else ()
    if any(manifest.config.get("step", {}).get("name") != Choose.name for manifest in made):
        raise ConfigError(f"NAME={name}: there is a run of that name that is no search's; name another")


def draw(
    path: Path,
    trials: int,
    sampler: str,
    settings: Sequence[str],
    config_of: Callable[[Sequence[str]], RunConfig],
) -> list[tuple[str, ...]]:
    """Draw settings from a search file; what is invalid in it is refused now, not after hours of trials."""
    from distracted.compete.draws import draw_settings

    if sampler not in _SAMPLERS:
        raise ConfigError(f"SAMPLER={sampler}: expected {' or '.join(_SAMPLERS)}")
    space = read_space(path)
    if both := sorted({text.partition("=")[0] for text in settings} & {*space["parameters"]}):
        raise ConfigError(f"SET: {both[0]} is searched by {path}; leave it out in one of them")
    try:
        drawn = draw_settings(space, trials, sampler=cast("Sampler", sampler))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for setting in listed_settings(space):
        config_of([setting])
    return drawn


def choose(
    store: Store,
    halving: "Halving",
    hours: str,
    clock: "Clock",
    *,
    name: str,
    runtime: RuntimeConfig,
    search: Mapping[str, Any],
) -> list[str]:
    """Write the run that takes for each fold the best of its group's finalists; returns all of these.

    Raises:
        DistractedError: a group has no finalist.
    """
    if (offered := halving.offered()) is None:
        failed = [f"{run}: {reason}" for run, reason in halving.failed.items()]
        why = "no setting was trained over all folds"
        if clock.left <= _RESERVE:
            why = f"HOURS={hours}: {why} in that time; what was begun is kept for a larger HOURS"
        raise DistractedError("\n".join([*failed, why]))
    metric, num_tried = store.competition.metric, sum(map(halving.is_begun, halving.trials))
    runs = [run for run in halving.trials if any(run in of_fold for of_fold in offered)]
    step = Choose(
        offered=[[runs.index(run) for run in of_fold] for of_fold in offered],
        search={**search, "num_trials": len(halving.trials), "num_tried": num_tried},
    )
    made = derive_run(store, step, runs, name=name, force=True)
    console.track(store, runtime, made.name)
    console.say(
        f"{made.name}: {metric.title} {made.gain.after:.4f}: for each fold one of {num_tried} settings, by "
        f"other folds ({made.how}); the best one's own {made.gain.before:.4f} flatters, as any choice does"
    )
    return runs


def _pooled(store: Store, halving: "Halving", run: str) -> Mapping[str, float]:
    return pooled_scores(store, run) if halving.is_complete(run) else {}


def show_trials(
    store: Store,
    halving: "Halving",
    trials: Sequence["Drawn"],
    finished: Mapping[str, Mapping[str, float]],
) -> None:
    """Print the trials that were begun, the best ones first: log loss at each rung, and of all folds."""
    metric = store.competition.metric

    def rank(trial: "Drawn") -> tuple[float, ...]:
        losses = halving.losses(trial.run)
        own = metric.loss_of(finished[trial.run][metric.name]) if trial.run in finished else math.inf
        return (own, -len(losses), losses[-1] if losses else math.inf)

    rows = []
    for trial in sorted(filter(lambda trial: halving.is_begun(trial.run), trials), key=rank):
        losses = [f"{loss:.4f}" for loss in halving.losses(trial.run)]
        losses += [""] * (len(halving.rungs) - len(losses))
        whole = f"{finished[trial.run][metric.name]:.4f}" if trial.run in finished else ""
        state = f"failed: {halving.failed[trial.run]}" if trial.run in halving.failed else ""
        values = [text.partition("=")[2] for text in trial.settings]
        rows.append([trial.run, *values, *losses, whole or state])
    keys = [text.partition("=")[0] for text in trials[0].settings]
    columns = ["run", *keys, *map(str, halving.rungs), f"all folds: {metric.title}"]
    console.table("settings, and their log loss where they were compared", columns, rows)


def track_trials(
    store: Store,
    halving: "Halving",
    trials: Sequence["Drawn"],
    finished: Mapping[str, Mapping[str, float]],
    *,
    name: str,
    runtime: RuntimeConfig,
) -> None:
    """Log each trial to W&B as a run with its settings and scores, if W&B is on."""
    if runtime.tracking == "none":
        return
    from distracted.tracking.trials import track_trial

    for trial in trials:
        if halving.is_begun(trial.run):
            losses = {
                str(rung): loss for rung, loss in zip(halving.rungs, halving.losses(trial.run), strict=False)
            }
            scores = finished.get(trial.run, {})
            track_trial(store, trial.run, trial.settings, losses, scores, search=name, runtime=runtime)


class Board(LiveTable):
    """The settings that are left and their scores as a live table; without a terminal a line now and then."""

    def __init__(self, halving: "Halving", clock: "Clock") -> None:
        super().__init__()
        self._halving, self._clock = halving, clock

    def __call__(self, ended: "Sequence[Ended]") -> None:
        self.update(ended, self._summary, self._table)

    def _summary(self) -> str:
        text = f"minute {self._clock.used / 60:.1f}"
        if math.isfinite(self._clock.hours):
            text += f" of {self._clock.hours / 60:.0f}"
        counts = [str(number) for number in self._halving.num_left()]
        text += f": {' > '.join(counts)} settings" if counts else ": the first settings"
        if running := [f"{run} fold {fold}" for run, fold in self._halving.running]:
            text += f", running {', '.join(running)}"
        if signals.stop.reason:
            return f"{signals.stop.reason}: stopping at the next good moment; {text}"
        if (left := self._halving.seconds_left()) is not None:
            text += f", about {max(1, round(left / 60))} min left"
        return text

    def _table(self, title: str) -> Table:
        table = Table(title=title, title_justify="left")
        for column in ["run", *map(str, self._halving.rungs)]:
            table.add_column(column, overflow="fold")
        for run in filter(self._halving.is_begun, self._halving.trials):
            losses = [f"{loss:.4f}" for loss in self._halving.losses(run)]
            table.add_row(run, *losses, style="" if self._halving.is_left(run) else "dim")
        return table


if __name__ == "__main__":
    console.run(main)
