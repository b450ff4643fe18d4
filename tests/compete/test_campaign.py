"""Whole competitions with the real campaign, clock and reserve, on simulated machines and runs."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from distracted.compete.campaign import Campaign
from distracted.compete.candidates import Candidate
from distracted.compete.entries import TTA, Entry, Plan, read_plan, write_plan
from distracted.compete.groups import two_groups
from distracted.compete.value import Evidence
from distracted.jobs.grid import Ended, Job
from distracted.stopping import Stop, Stopped
from simulated_competitions import NUM_FOLDS, Machine, Played, World, play, set_up

SCREENING, FOREVER = 60.0, 60_000.0  # seconds
GROUPS = two_groups([1] * NUM_FOLDS)


def small(seed: int) -> World:
    """A world whose candidates are few, so that tests are quick."""
    world = World(seed)
    world.inputs = [one for one in world.inputs if one.own][:3]
    world.candidates = [one for one in world.candidates if one.input in world.inputs and not one.even]
    return world


def steady(seed: int) -> World:
    """A small world whose times are as they were measured."""
    world = small(seed)
    world.slowness = dict.fromkeys(world.slowness, 1.0)
    world.jitter, world.paces = 0.0, world.paces * 0 + 1.0
    return world


@pytest.mark.parametrize(
    ("seed", "num_slots", "hours"), [(0, 2, 900), (1, 1, 2500), (2, 8, 400), (3, 4, 1200)]
)
def test_the_time_is_used_and_never_exceeded(seed: int, num_slots: int, hours: float) -> None:
    """Although the machine's speed doubles and halves, and measured times are wrong."""
    played = play(small(seed), hours=hours, num_slots=num_slots, screening=SCREENING)
    assert 0.95 * hours < played.used <= hours
    assert played.blends and played.blends[0][0] < 0.4 * hours
    assert played.blends[-1][1] < played.blends[0][1]


def test_more_time_is_worth_it() -> None:
    losses = [play(small(5), hours=hours, num_slots=2, screening=SCREENING).loss for hours in (300, 3000)]
    assert losses[1] < losses[0]


class Relabelled(Machine):
    """A machine on which some folds' labels were changed: every score that reads them is another."""

    changed: Collection[int] = ()

    def evidence(
        self, hidden: Collection[int], chosen: Sequence[Candidate], tried: Mapping[Candidate, int]
    ) -> Evidence:
        evidence = super().evidence(hidden, chosen, tried)
        if {*self.changed} <= {*hidden}:
            return evidence

        def other(name: str, loss: float) -> float:
            return loss * math.exp(1.5 * self.world._draw("changed", name).normal())

        return replace(
            evidence,
            probes={key: other(str(key), loss) for key, loss in evidence.probes.items()},
            finished={run: other(run, loss) for run, loss in evidence.finished.items()},
            trials=[
                replace(one, loss=other(one.run, one.loss)) if one.fold in self.changed else one
                for one in evidence.trials
            ],
        )


def chosen_by(campaign: Campaign, fold: int) -> list[str]:
    """The runs that a fold's blend takes, in the order in which they were chosen."""
    [group] = [number for number, group in enumerate(campaign.groups) if fold in group]
    chosen = campaign.plan.choices[group]
    assert {*chosen} == {entry.run for entry in campaign.plan.entries if fold in entry.by}
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("fold", range(NUM_FOLDS))
def test_a_folds_labels_choose_nothing_for_it(fold: int) -> None:
    """Probes, short fits, halving and all rounds: whatever they read of a fold, its own runs stay the same.

    Times are measured exactly, and do not run out: the clock is what all folds share.
    """
    campaigns = []
    for machine_type in (Machine, Relabelled):
        machine = machine_type(steady(7), 2, FOREVER, SCREENING, at=SCREENING)
        if isinstance(machine, Relabelled):
            machine.changed = (fold,)
        competing = set_up(machine, num_seeds=2)
        competing.run(machine, command=lambda job, device: [], log=lambda job: Path())
        campaigns.append(competing.campaign)
    before, after = campaigns
    others = [other for other in range(NUM_FOLDS) if other != fold]
    assert len(before.plan.trials[1]) > 1  # short fits were compared
    assert chosen_by(before, fold) == chosen_by(after, fold)
    assert any(chosen_by(before, other) != chosen_by(after, other) for other in others)  # there it counts


def test_finished_runs_get_views_where_these_are_cheap_or_time_is_left() -> None:
    """Whatever a run's folds are, its views have the same."""
    machine = Machine(small(5), 2, 3000.0, SCREENING, at=SCREENING)
    competing = set_up(machine, num_views=3)
    competing.run(machine, command=lambda job, device: [], log=lambda job: Path())
    entries = {entry.run: entry for entry in competing.campaign.plan.entries}
    tuned = [one for one in entries.values() if one.state == "done" and "_full" in one.run and not one.views]
    assert tuned and machine.at <= machine.hours
    assert any(one.views and one.state == "done" for one in entries.values())
    for run in tuned:
        assert entries[run.run + TTA].by == run.by and entries[run.run + TTA].parent == run.run
    assert not [run for run in entries if "features" in run and run.endswith(TTA)]
    members = competing.campaign.members()
    done = [run for run, one in entries.items() if one.views and one.state == "done"]
    assert all((run in of_fold) == (run.removesuffix(TTA) in of_fold) for run in done for of_fold in members)


def test_the_groups_are_disjoint_and_about_equal() -> None:
    assert two_groups([174, 172, 172, 164, 446]) == ((3, 4), (0, 1, 2))
    assert two_groups([10, 10, 10]) == ((0, 2), (1,))


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("looks", [3, 17, 40, 41, 60])
def test_a_killed_campaign_goes_on_with_its_plan_file(tmp_path: Path, looks: int) -> None:
    """After a kill at any moment, what is chosen at the end is what an undisturbed campaign chooses."""
    world, hours = steady(8), FOREVER
    world.candidates = [one for one in world.candidates if one.input == world.inputs[0]]

    def run(machine: Machine, plan: Plan, kill_at: int | None = None) -> Campaign:
        competing = set_up(machine, plan=plan, num_seeds=2)
        competing.campaign.changed = lambda: write_plan(path, competing.campaign.as_written())
        number = 0

        def show(ended: Sequence[Ended]) -> None:
            nonlocal number
            number += 1
            if number == kill_at:
                raise Killed

        competing.show = show
        competing.run(machine, command=lambda job, device: [], log=lambda job: Path())
        return competing.campaign

    path = tmp_path / "undisturbed.yaml"
    undisturbed = run(Machine(world, 2, hours, SCREENING, at=SCREENING), Plan())
    path, machine = tmp_path / "plan.yaml", Machine(world, 2, hours, SCREENING, at=SCREENING)
    assert len(undisturbed.plan.trials[1]) > 1
    with pytest.raises(Killed):
        run(machine, Plan(), kill_at=looks)
    plan = read_plan(path, num_folds=NUM_FOLDS, models=[one.model for one in world.inputs])
    assert not plan.is_edited
    resumed = run(machine, plan.without_outlook(GROUPS))
    for fold in range(NUM_FOLDS):
        assert chosen_by(resumed, fold) == chosen_by(undisturbed, fold)


@pytest.mark.parametrize(("first", "hours"), [("", 2000.0), ("_seed1", 20_000.0)])
def test_a_failed_job_costs_its_run_alone(first: str, hours: float) -> None:
    """No further seed of it is chosen, be it the first one or another."""
    world = small(9)
    world.candidates = [one for one in world.candidates if one.input == world.inputs[0]]
    machine = Machine(world if first else small(9), 2, hours, SCREENING, at=SCREENING)
    competing = set_up(machine)
    campaign, failed = competing.campaign, list[str]()
    hand_out = campaign.next_jobs

    def next_jobs(ended: Sequence[Ended], *, may_start: bool = True) -> list[Job]:
        spoiled = []
        for one in ended:
            tuned = "features" not in one.job.run and one.state == "done"
            if tuned and (one.job.run in failed or (not failed and one.job.run.endswith(first))):
                failed.append(one.job.run)
                machine.finished.get(one.job.run, set()).discard(one.job.fold)
                spoiled.append(Ended(one.job, "failed", "of a test"))
            else:
                spoiled.append(one)
        return hand_out(spoiled, may_start=may_start)

    campaign.next_jobs = next_jobs  # type: ignore[method-assign]
    competing.run(machine, command=lambda job, device: [], log=lambda job: Path())
    states = {entry.run: entry.state for entry in campaign.plan.entries}
    assert states[failed[0]] == "failed" and list(states.values()).count("done") > 1
    assert failed[0] not in {run for runs in campaign.members() for run in runs}
    assert failed[0].endswith(first) and failed[0].removesuffix(first) + "_seed2" not in states
    assert all(len(set(choices)) == len(choices) for choices in campaign.plan.choices)


def test_a_run_that_a_person_removes_may_be_chosen_again(tmp_path: Path) -> None:
    """The rest goes on, although its score is known."""
    world, path = small(6), tmp_path / "plan.yaml"
    world.candidates = [one for one in world.candidates if one.input == world.inputs[0]]
    machine = Machine(world, 2, FOREVER, SCREENING, at=SCREENING)
    competing = set_up(machine, num_seeds=1)
    competing.run(machine, command=lambda job, device: [], log=lambda job: Path())
    write_plan(path, competing.campaign.as_written())
    content = yaml.safe_load(path.read_text())
    [removed, *_] = [run for run in content["choices"][0] if "_full" in run]
    content["runs"] = [entry for entry in content["runs"] if not entry["run"].startswith(removed)]
    path.write_text(yaml.safe_dump(content))
    plan = read_plan(path, num_folds=NUM_FOLDS, models=[one.model for one in machine.world.inputs])
    assert plan.is_edited
    again = set_up(machine, plan=plan.without_outlook(GROUPS), num_seeds=1)
    again.run(machine, command=lambda job, device: [], log=lambda job: Path())
    assert again.campaign.plan.find(removed) is not None
    assert all(choices.count(removed) == 1 for choices in again.campaign.plan.choices)


def test_an_edited_plan_is_trained_as_it_stands() -> None:
    machine = Machine(small(4), 2, 50_000.0, SCREENING, at=SCREENING)
    names = [candidate.name for candidate in machine.world.candidates]
    wanted = [next(name for name in names if name.endswith(end)) for end in ("_full_2epochs", "_features")]
    entries = [Entry(run, run.partition("_")[0], "", tuple(range(NUM_FOLDS))) for run in wanted]
    competing = set_up(machine, plan=Plan(entries, extend=False, is_edited=True))
    competing.run(machine, command=lambda job, device: [], log=lambda job: Path())
    assert [(entry.run, entry.state) for entry in competing.campaign.plan.entries] == [
        (run, "done") for run in wanted
    ]
    assert {*machine.finished} == {*wanted}


def test_a_request_to_stop_ends_it_at_once_and_the_rest_follows_later() -> None:
    machine = Machine(small(6), 2, 5000.0, SCREENING, at=SCREENING)
    stop, competing = Stop(), set_up(machine)
    competing.stop = stop

    def show(ended: Sequence[Ended]) -> None:
        if machine.at > 600:
            stop.ask("Ctrl-C")

    competing.show = show
    with pytest.raises(Stopped, match="Ctrl-C"):
        competing.run(machine, command=lambda job, device: [], log=lambda job: Path())
    assert machine.at < 700


@pytest.mark.slow
def test_simulated_competitions_beat_simple_rules() -> None:
    """The planner's own simulation, in small; bench/simulated_competitions.py plays 200."""
    from simulated_competitions import by_rule, own_size

    better = 0
    for seed in (20, 21, 22, 23):
        world, given = World(seed), {"hours": 2500.0, "num_slots": 4, "screening": 200.0}
        played: Played = play(world, **given)  # type: ignore[arg-type]
        rule = by_rule(world, own_size(world), **given)  # type: ignore[arg-type]
        better += not rule < played.loss
    assert better >= 3
