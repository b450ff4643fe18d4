"""Begins a campaign, or goes on with one: measurements, plan and times of this machine brought together."""

import logging
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distracted.compete.campaign import Campaign
from distracted.compete.candidates import NUM_SEEDS, Candidate
from distracted.compete.clock import Clock
from distracted.compete.entries import Plan, write_plan
from distracted.compete.groups import two_groups
from distracted.compete.results import StoredResults
from distracted.compete.run import Reserve
from distracted.compete.screen import Configs
from distracted.compete.screened import Screen
from distracted.compete.summary import write_summary
from distracted.compete.times import Times
from distracted.compete.views import NUM_VIEWS
from distracted.errors import ConfigError, DistractedError
from distracted.jobs.begun import resolve_run
from distracted.jobs.grid import Engine, Job, plan_jobs, room_for
from distracted.predictions.store import Store
from distracted.schema import RuntimeConfig

_log = logging.getLogger(__name__)

_MANY = 10**6  # jobs: each gets the threads that it would have among many
_SPARE = 1.2


@dataclass(frozen=True)
class JobMaker:
    """Makes the jobs of runs, all with the same resources."""

    engine: Engine
    runtime: RuntimeConfig

    def __call__(self, run: str, fold: int) -> Job:
        [job] = plan_jobs([(run, fold)], {run: self.runtime}, self.engine, num_all=_MANY)
        return job

    @property
    def num_slots(self) -> int:
        """Jobs that run at a time."""
        return room_for(self("any", 0), self.engine)

    @property
    def num_threads(self) -> int:
        """Cores of a job."""
        return self("any", 0).num_cpus


def begin_campaign(
    store: Store,
    screened: Screen,
    configs: Configs,
    plan: Plan,
    *,
    make_job: JobMaker,
    clock: Clock,
    reserve: Reserve,
    fixed: Sequence[str] = (),
    changed: Callable[[Campaign], None] = lambda campaign: None,
) -> Campaign:
    """The campaign of a store, which goes on from a plan.

    Args:
        plan: As it was read.
        fixed: Keys of settings that the user has given.
        changed: Called after each change of the plan; the file is written by then.

    Raises:
        ConfigError: the time is too short for the cheapest run.
    """
    num_folds = store.folds.num_folds
    path = store.workspace.plan(store.competition.name)
    groups = two_groups(screened.counts.sum(axis=1).tolist())
    plan = plan.without_outlook(groups)
    if plan.is_edited and plan.entries:
        _log.info("%s was edited: its runs are trained as they stand there", path)
    num_held_out = len(store.folds.scored) // num_folds
    times = Times(
        {one.input: one.speed for one in screened.inputs},
        num_train=len(store.folds.ids) - num_held_out,
        num_valid=num_held_out,
        num_test=len(store.competition.test),
        startup=make_job.engine.startup,
        waits=min(1.0, make_job.num_slots / num_folds),
    )
    least = reserve.seconds + times.least(num_folds, make_job.num_slots)
    if not plan.entries and clock.left < least:
        enough = _SPARE * (clock.used + least)
        raise ConfigError(
            f"HOURS: {clock.hours / 60:.3g} minutes are too short for anything: {clock.used / 60:.1f} are "
            f"used, and the least, a head on frozen features and its submission, takes about "
            f"{least / 60:.1f} more; HOURS={max(1, math.ceil(enough / 60))}m would do"
        )
    known = {entry.run for entry in plan.entries}
    candidates = [
        candidate
        for candidate in screened.candidates(fixed)
        if candidate.name in known or not _is_taken(store, configs, candidate)
    ]
    campaign = Campaign(
        candidates,
        plan,
        StoredResults(store, screened.evidence),
        times,
        groups=groups,
        num_slots=make_job.num_slots,
        make_job=make_job,
        now=lambda: clock.used,
        ends=lambda: clock.hours - reserve.seconds,
        num_views=NUM_VIEWS,
        num_seeds=1 if "training.seed" in fixed else NUM_SEEDS,
    )

    def write() -> None:
        write_plan(path, campaign.as_written())
        write_summary(store, campaign, screened, clock)
        changed(campaign)

    campaign.changed = write
    return campaign


def _is_taken(store: Store, configs: Configs, candidate: Candidate) -> bool:
    """Whether a candidate's name belongs to a run of other settings that is there already."""
    if not store.finished_folds(candidate.name):
        return False
    try:
        config = configs(candidate.input.model, candidate.overrides)
        hashes = {manifest.config_hash for manifest in store.manifests(candidate.name)}
        taken = hashes != {resolve_run(store, config, candidate.name).config.hash}
    except DistractedError:
        taken = True
    if taken:
        _log.warning("%s: left out, there is a run of that name with other settings", candidate.name)
    return taken


def model_and_settings(campaign: Campaign, run: str) -> tuple[str, str]:
    """The model of a run of the campaign, and its settings for SET=."""
    if (entry := campaign.plan.find(run)) is not None:
        return entry.model, entry.settings
    candidate = campaign.known[run]  # a short fit
    return candidate.input.model, shlex.join(candidate.overrides)
