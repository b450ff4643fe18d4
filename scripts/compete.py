"""make compete: a whole competition by itself; from a few minutes on a checked submission is on disk."""

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

import console
import folds
import signals
import submit
from distracted.config import load_config
from distracted.data.audit import check_split
from distracted.errors import ConfigError, DistractedError
from distracted.files import sha256_json
from distracted.imports import importing
from distracted.locks import hold
from distracted.paths import CONFIGS
from distracted.predictions.job_state import mark_trial
from distracted.predictions.store import Store
from distracted.report.status import fold_status
from distracted.schema import RunConfig
from grid import train_command, views_command
from live import LiveTable
from status import cell

if TYPE_CHECKING:
    from distracted.compete.blending import Blended
    from distracted.compete.campaign import Campaign
    from distracted.compete.clock import Clock
    from distracted.compete.screened import Screen
    from distracted.jobs.grid import Ended

#: Backbones that differ, each with weights in a package or on the hub; those that cannot be had are left out.
_MODELS = "efficientnet_lite0 efficientnet_lite1 efficientnet_lite2 resnet50 convnextv2_tiny"
_MODELS_ON_GPU = f"{_MODELS} efficientnetv2_s caformer_s18 dinov3_small dinov3_base siglip2_base"


def main(
    hours: Annotated[str, typer.Option(help="Total time over all starts: 8, 1.5, 1h30m or 45m.")] = "8",
    models: Annotated[str, typer.Option(help="Names in configs/models; by default a varied handful.")] = "",
    cluster: Annotated[str, typer.Option(help="Address of a Ray cluster: auto, or host:port.")] = "",
    send: Annotated[bool, typer.Option("--send", help="Send the submission to Kaggle at the end.")] = False,
    data: console.Data = "state_farm",
    set: console.Set = "",
    root: console.Root = console.HERE,
) -> None:
    """Measure, screen, plan, train, blend and submit within HOURS; the same command goes on after a stop."""
    began = time.monotonic()
    with importing():
        from distracted.compete.begin import JobMaker, begin_campaign, model_and_settings
        from distracted.compete.blending import BLENDS, NAME, Blender, read_blends
        from distracted.compete.clock import Clock
        from distracted.compete.entries import read_plan
        from distracted.compete.run import Competing, Reserve
        from distracted.compete.screen import screen
        from distracted.cores import usable_cores
        from distracted.jobs.cards import grid_cards, job_device
        from distracted.jobs.grid import Job, placement
        from distracted.jobs.local import Here
        from distracted.jobs.on_ray import OnRay

    seconds = signals.hours_in_seconds(hours)
    known = sorted(path.stem for path in (CONFIGS / "models").glob("*.yaml"))
    if unknown := [name for name in models.split() if name not in known]:
        there_are = ", ".join(known)
        raise ConfigError(f"MODELS: there is no {unknown[0]!r} in configs/models; there are {there_are}")
    settings = console.overrides(set)
    fixed = [text.partition("=")[0] for text in settings]
    of_runtime = shlex.join(text for text in settings if text.startswith("runtime"))
    if recipes := [key for key in fixed if key == "recipe" or key.startswith("phases")]:
        raise ConfigError(f"SET: recipes and their phases are chosen by make compete; leave {recipes[0]} out")
    placed = console.place(data, root, console.runtime_in(set))

    def config_of(model: str, more: Sequence[str]) -> RunConfig:
        return load_config(model=model, data=placed, overrides=[*settings, *more], root=root)

    first = config_of("resnet50", [])
    store = console.open_store(first.data, root, first.runtime, num_folds=first.training.num_folds)
    name, runtime = store.competition.name, first.runtime
    folder = store.workspace.compete(name)
    folds.describe(store)
    check_split(store.competition, store.folds)
    if store.folds.num_folds < 2:
        raise ConfigError(f"{name}: a single split leaves no fold to choose by; expected two folds or more")
    with ExitStack() as stack:
        stack.enter_context(hold(folder / "lock.json", f"make compete on {name}"))
        clock = Clock(folder / "clock.json", seconds, began=began)
        reserve = Reserve()
        plan = read_plan(store.workspace.plan(name), num_folds=store.folds.num_folds, models=known)
        own = [text for text in settings if not text.startswith("runtime")]
        plan = plan.bound_to(own, sha256_json([store.competition.index_hash, store.folds.hash])[:12])
        if clock.left <= (reserve.seconds if plan.entries else 0):
            console.say(f"all of HOURS={hours} is used; a larger HOURS goes on")
            if send:
                submit.main(name=NAME, send=True, data=data, set=of_runtime, root=root)
            return
        stack.callback(clock.note, at_once=True)
        cards = {} if cluster else grid_cards(os.environ.get("CUDA_VISIBLE_DEVICES"), [first])
        engine = stack.enter_context(OnRay(cluster)) if cluster else Here(usable_cores(), cards=list(cards))
        make_job = JobMaker(engine, runtime)
        engine.check([make_job("any", 0)])
        used = f"{clock.used / 60:.1f} of {clock.hours / 60:.0f} minutes used"
        console.say(f"{used}; {make_job.num_slots} jobs at a time")
        has_gpu = bool(engine.num_gpus) and runtime.device != "cpu"
        screened = screen(
            store,
            config_of,
            models.split() or (_MODELS_ON_GPU if has_gpu else _MODELS).split(),
            path=folder / "screen.json",
            seconds=clock.left,
            num_threads=make_job.num_threads,
            device=job_device(first, cards),
            fixed=fixed,
            tick=clock.note,
            progress=console.progress,
        )
        show_screen(screened)
        board = stack.enter_context(Board(store, clock))
        campaign = begin_campaign(
            store,
            screened,
            config_of,
            plan,
            make_job=make_job,
            clock=clock,
            reserve=reserve,
            fixed=fixed,
            changed=board.plan_changed,
        )
        board.campaign = campaign

        def command(job: Job, device: str) -> Sequence[str]:
            entry = campaign.plan.find(job.run)
            if entry is not None and entry.views:
                text = f"{of_runtime} {placement(job, device, runtime)}".strip()
                return views_command(job, entry.parent, entry.views, text, data, root, cluster=cluster)
            model, own = model_and_settings(campaign, job.run)
            epochs = campaign.stop_after(job)  # of a short fit, which is scored
            mark = store.workspace.trial(name, job.run)
            if epochs is None:  # chosen: a run like others
                mark.unlink(missing_ok=True)
            else:
                mark_trial(mark, f"make compete HOURS={hours}")
            text = f"runtime.validate_every_epoch={str(epochs is not None).lower()} {set} {own}"
            text = f"{text} {placement(job, device, runtime)}".strip()
            return train_command(job, model, text, data, root, cluster=cluster, stop_after=epochs)

        blend = Blender(store, clock, campaign.search, board.blended, console.progress)
        free = partial(console.free_bytes, root)
        competing = Competing(campaign, clock, reserve, blend, signals.stop, show=board, free_bytes=free)

        def log(job: Job) -> Path:
            return store.workspace.log(name, job.run, job.fold).absolute()

        competing.run(engine, command=command, log=log)
    if blend.last is None:
        raise DistractedError(why_no_blend(campaign, hours))
    say_end(blend.last, read_blends(folder / BLENDS), campaign, clock, store.workspace.plan(name))
    if send:
        submit.main(name=NAME, send=True, data=data, set=of_runtime, root=root)


def why_no_blend(campaign: "Campaign", hours: str) -> str:
    """Why nothing could be blended, and the way out."""
    entries, members = campaign.plan.entries, campaign.members()
    if any(members):
        without = " ".join(str(fold) for fold, runs in enumerate(members) if not runs)
        return f"nothing is blended: no finished run is for the folds {without}; `by` in the plan lists them"
    if failed := [f"{entry.run}: {entry.why}" for entry in entries if entry.state == "failed"]:
        return "\n".join([*failed, "nothing is blended: no run was finished"])
    return (
        f"HOURS={hours}: no run was finished in that time, so that nothing is blended; what was begun is "
        "kept, and a larger HOURS goes on with it"
    )


def show_screen(screened: "Screen") -> None:
    """Print what was measured, and what was left out."""
    probes, rows = screened.evidence().probes, []
    for one in sorted(screened.inputs, key=lambda one: probes[one.input, False]):
        even = f"{probes[one.input, True]:.4f}" if (one.input, True) in probes else "--"
        slowest = max(one.speed.train.values(), default=one.speed.predict)
        speeds = [f"{1 / slowest:.1f}", f"{1 / one.speed.predict:.1f}"]
        rows.append([one.input.model, str(one.input.size), f"{probes[one.input, False]:.4f}", even, *speeds])
    columns = ["backbone", "pixels", "log loss", "with even classes", "trains img/s", "predicts img/s"]
    console.table("probes on frozen features, on unseen folds; speed of one job", columns, rows)
    for what, why in screened.left_out.items():
        console.say(f"left out: {what}: {why}")


def say_end(
    last: "Blended",
    blends: Sequence[Mapping[str, Any]],
    campaign: "Campaign",
    clock: "Clock",
    plan: Path,
) -> None:
    """Print the headline, where everything is, and what comes next."""
    ensemble, search = last.ensemble, campaign.search()
    title, interval = ensemble.metric.title, ensemble.interval
    rows = [
        [name, f"{score:.4f}", f"{ensemble.weights[name]:.3f}"] for name, score in ensemble.scores.items()
    ]
    console.table("members", ["run", f"OOF {title}", f"weight ({ensemble.blender}, all folds)"], rows)
    rows = [
        [
            f"{line['seconds'] / 60:.1f}",
            f"{line['log_loss']:.4f}",
            f"{line['expected']['mean']:.4f}",
            ", ".join(run for run in line["members"] if run not in before),
        ]
        for before, line in zip([[], *(line["members"] for line in blends)], blends, strict=False)
    ]
    columns = ["minute", "cross-fitted log loss", "expected log loss", "new members"]
    console.table("the blend as it grew", columns, rows)
    console.say(
        f"{ensemble.name}: cross-fitted {title} {interval.mean:.4f} (95% over subjects {interval.low:.4f} to "
        f"{interval.high:.4f}; class prior {ensemble.prior:.4f}). All choices are cross-fitted: "
        f"{search['num_runs']} runs among {search['num_candidates']} candidates, {search['num_trials']} of "
        "them tried by short fits, members and blenders"
    )
    console.say(f"expected log loss {submit.describe(last.submission.expected)}")
    console.say(f"{clock.used / 60:.1f} of {clock.hours / 60:.0f} minutes used")
    console.say(f"submission: {last.submission.path}; plan: {plan}; `make report` shows all runs")
    if begun := [entry.run for entry in campaign.plan.entries if entry.state == "running"]:
        console.say(f"begun, and not finished: {', '.join(begun)}; a larger HOURS goes on with it")


class Board(LiveTable):
    """The plan's runs and folds as a live table on a terminal; elsewhere a line now and then.

    Called with the jobs that have ended.
    """

    campaign: "Campaign"

    def __init__(self, store: Store, clock: "Clock") -> None:
        super().__init__()
        self._store, self._clock = store, clock
        self._told = ""  # the plan that was shown
        self._last = ""

    def __call__(self, ended: "Sequence[Ended]") -> None:
        self.update(ended, self._summary, self._table)

    def blended(self, made: "Blended") -> None:
        """Say what the new blend scores."""
        title, score = made.ensemble.metric.title, made.ensemble.interval.mean
        self._last = f"{score:.4f}"
        console.say(
            f"minute {self._clock.used / 60:.1f}: blend of {len(made.ensemble.members)}: cross-fitted "
            f"{title} {score:.4f}, expected {made.submission.expected.mean:.4f}; {made.submission.path}"
        )

    def plan_changed(self, campaign: "Campaign") -> None:
        """Show what is to come, if that is other than was shown."""
        coming = [entry for entry in campaign.as_written().entries if entry.state in ("planned", "running")]
        names = " ".join(entry.run for entry in coming)
        if names in ("", self._told):
            return
        planned = [one for plan in campaign.chooser.outlook.values() for one in plan]
        self._told, ends = names, {one.candidate.name: one.ends for one in planned}
        rows = []
        for entry in coming:
            until = f"{(self._clock.used + ends[entry.run]) / 60:.0f}" if entry.run in ends else ""
            numbers = [
                "" if value is None else f"{value:.3g}" for value in (entry.minutes, entry.loss, entry.blend)
            ]
            rows.append([entry.run, *numbers, until, " ".join(map(str, entry.by)), entry.why])
        columns = ["run", "minutes of all jobs", "expected log loss", "expected blend loss", "done at minute"]
        title = f"the plan after {self._clock.used / 60:.1f} of {self._clock.hours / 60:.0f} minutes"
        console.table(title, [*columns, "chosen by folds", "why"], rows)

    def _summary(self) -> str:
        entries, running = self.campaign.plan.entries, self.campaign.running
        done = sum(entry.state == "done" for entry in entries)
        text = f"{self._clock.used / 60:.1f} of {self._clock.hours / 60:.0f} min: {done} runs done"
        if running:
            jobs = [f"{run} fold {fold}{self._share(run, fold)}" for run, fold in running]
            text += f", running {', '.join(jobs)}"
        planned = [entry.run for entry in self.campaign.as_written().entries if entry.state == "planned"]
        text += f", then {planned[0]}" if planned else ""
        text += f"; last blend {self._last}" if self._last else ""
        if signals.stop.reason:
            return f"{signals.stop.reason}: stopping at the next good moment; {text}"
        return text

    def _share(self, run: str, fold: int) -> str:
        share = self.campaign.results.share(run, fold)
        return f" ({share:.0%})" if share else ""

    def _table(self, title: str) -> Table:
        table, num_folds = Table(title=title, title_justify="left"), self._store.folds.num_folds
        for column in ["run", *(f"fold {fold}" for fold in range(num_folds)), "log loss"]:
            table.add_column(column, overflow="fold")
        runs = [entry.run for entry in self.campaign.plan.entries]
        runs += [run for run, _ in self.campaign.running]  # short fits, too
        for run in dict.fromkeys(runs):
            manifests = [self._store.find_manifest(run, fold) for fold in range(num_folds)]
            cells = [cell(fold_status(self._store, run, n, one)) for n, one in enumerate(manifests)]
            entry = self.campaign.plan.find(run)
            is_done = entry is not None and entry.state == "done" and entry.loss is not None
            table.add_row(run, *cells, f"{entry.loss:.4f}" if is_done else "")  # type: ignore[union-attr]
        return table


if __name__ == "__main__":
    console.run(main)
