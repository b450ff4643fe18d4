"""Plans fit into the time, and hold what takes most off the blend's loss."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distracted.compete.candidates import EPOCHS, Candidate, Input, all_candidates
from distracted.compete.planner import Situation, Slots, make_plan, quickest_run
from distracted.compete.value import Evidence

A, B = Input("a", 224), Input("b", 224)
PROBES = {(A, False): 1.0, (B, False): 1.0}
CANDIDATES = all_candidates([A, B], uneven=False)


def situation(
    *,
    left: float,
    seconds: float = 10.0,
    slots: int = 1,
    finished: dict[str, float] | None = None,
    chosen: tuple[Candidate, ...] = (),
    probes: dict[tuple[Input, bool], float] | None = None,
) -> Situation:
    """Jobs take so many seconds an epoch, and a second for frozen features."""
    return Situation(
        CANDIDATES,
        Evidence(probes or PROBES, finished or {}),
        chosen,
        lambda candidate: 1.0 + seconds * candidate.epochs,
        [0.0] * slots,
        left,
        num_folds=5,
    )


@given(
    left=st.floats(1, 5000),
    seconds=st.floats(0.1, 100),
    slots=st.integers(1, 8),
    better=st.floats(0.3, 3.0),
)
@settings(max_examples=12, deadline=None)
def test_all_runs_of_a_plan_end_in_time(left: float, seconds: float, slots: int, better: float) -> None:
    plan = make_plan(
        situation(left=left, seconds=seconds, slots=slots, probes={**PROBES, (B, False): better})
    )
    again = Slots([0.0] * slots)
    for one in plan:
        assert one.ends == pytest.approx(again.add(5, one.seconds / 5))
        assert one.ends <= left
    assert len({one.candidate for one in plan}) == len(plan)
    blends = [one.blend for one in plan]
    assert blends == sorted(blends, reverse=True)


def test_too_little_time_leaves_no_plan() -> None:
    assert make_plan(situation(left=4.9)) == []


def test_little_time_is_for_frozen_features() -> None:
    assert {one.candidate.recipe for one in make_plan(situation(left=12))} == {"features"}


def test_jobs_run_side_by_side() -> None:
    slots = Slots([0.0, 5.0])
    assert slots.add(3, 10.0) == 20.0  # 0 to 10, 5 to 15, 10 to 20
    assert slots.add(1, 1.0) == 16.0


def test_a_backbone_that_is_clearly_worse_is_not_trained() -> None:
    """A finished run of it says so."""
    worse = Candidate(B, "full", EPOCHS)
    good = Candidate(A, "full", EPOCHS)
    finished = {worse.name: 2.0, good.name: 0.05}
    plan = make_plan(situation(left=5000, finished=finished, chosen=(worse, good)))
    assert plan and plan[0].candidate.input == A


def test_a_second_backbone_comes_before_a_second_seed() -> None:
    first = Candidate(A, "full", EPOCHS)
    plan = make_plan(situation(left=450, finished={first.name: 0.2}, chosen=(first,)))
    tuned = [one.candidate for one in plan if not one.candidate.is_frozen]
    assert tuned[0].input == B


def test_seeds_that_are_chosen_are_not_chosen_again() -> None:
    chosen = tuple(Candidate(A, "full", EPOCHS, seed=seed) for seed in range(4))
    plan = make_plan(situation(left=3000, finished={one.name: 0.2 for one in chosen}, chosen=chosen))
    assert not {one.candidate for one in plan} & {*chosen}


def test_a_run_that_fills_the_time_wins_if_it_is_worth_more() -> None:
    """Long training is expected to be best here; short runs are not taken until it does not fit any more."""
    plan = make_plan(situation(left=420, slots=1))
    assert math.isclose(plan[-1].ends, max(one.ends for one in plan))
    assert plan[-1].ends > 200


def test_the_first_run_is_the_slowest_backbones_that_costs_next_to_nothing() -> None:
    """`a` takes three times as long on frozen features as `b`, and learns slower."""

    def seconds(candidate: Candidate) -> float:
        return (3.0 if candidate.input == A else 1.0) * (1 + 10 * candidate.epochs)

    runs = [quickest_run(replace(situation(left=left), seconds=seconds)) for left in (1000.0, 100.0)]
    assert [run and run.candidate.input for run in runs] == [A, B]
    assert [run and run.ends for run in runs] == [15.0, 5.0]
