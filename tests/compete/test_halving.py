"""Successive halving: the better half goes on, by the labels of the other group of folds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from distracted.compete.groups import two_groups
from distracted.compete.halving import Halving
from distracted.compete.rungs import Rung, make_rungs
from distracted.jobs.grid import Ended, Job

NUM_FOLDS, EPOCHS = 5, 4
TRIALS = [f"trial{number}" for number in range(16)]


@dataclass
class Trainings:
    """Finished work on a machine that trains an epoch in so many seconds, and a clock.

    Attributes:
        quality: Log loss of each run on each fold, (num_runs, num_folds).
        done: Epochs by run and fold.
    """

    quality: np.ndarray
    epoch_seconds: float = 10.0
    done: dict[tuple[str, int], int] = field(default_factory=dict)
    failing: frozenset[str] = frozenset()
    failing_fold: int | None = None  # on which those fail; None: on every fold
    at: float = 0.0
    epochs_trained: int = 0

    def loss_after(self, run: str, folds: Sequence[int], epochs: int | None) -> float | None:
        until = EPOCHS if epochs is None else epochs
        if any(self.done.get((run, fold), 0) < until for fold in folds):
            return None
        return float(np.mean([self.quality[TRIALS.index(run), fold] for fold in folds]) + 1 / until)

    def search(
        self, *, ends: float = np.inf, trials: Sequence[str] = TRIALS, path: Path | None = None
    ) -> Halving:
        return Halving(
            trials,
            dict.fromkeys(trials, EPOCHS),
            two_groups([10] * NUM_FOLDS),
            self.loss_after,
            make_job=Job,
            num_slots=2,
            startup=10.0,
            now=lambda: self.at,
            ends=lambda: ends,
            path=path,
        )

    def run(self, halving: Halving, *, num_jobs: int = 10_000, ends: float = np.inf) -> bool:
        """Run so many jobs, two at a time; returns whether nothing is left."""
        ended, running = list[Ended](), list[tuple[float, Job, int]]()

        def start(jobs: Sequence[Job]) -> None:
            for job in jobs:
                until, before = halving.stop_after(job) or EPOCHS, self.done.get((job.run, job.fold), 0)
                epochs = until - before + (0.5 if until == EPOCHS else 0)
                running.append((self.at + 10 + self.epoch_seconds * epochs, job, until))

        start(halving.next_jobs([]))
        while running and len(ended) < num_jobs:
            running.sort(key=lambda one: one[0])
            at, job, until = running.pop(0)
            if at > ends:
                self.at = ends
                return False
            self.at, before = at, self.done.get((job.run, job.fold), 0)
            self.epochs_trained += until - before
            if job.run in self.failing and self.failing_fold in (None, job.fold):
                ended.append(Ended(job, "failed", "no memory"))
            else:
                self.done[job.run, job.fold] = until
                ended.append(Ended(job, "done" if until == EPOCHS else "stopped"))
            start(halving.next_jobs(ended))
        return not running


@pytest.fixture
def quality() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, (len(TRIALS), 1)) + rng.normal(0, 0.01, (len(TRIALS), NUM_FOLDS))


def test_the_rungs_double_the_epochs_and_end_with_all_folds() -> None:
    assert make_rungs(4) == (Rung(1), Rung(2), Rung(None), Rung(None, all_folds=True))
    assert make_rungs(6) == (Rung(1), Rung(2), Rung(4), Rung(None), Rung(None, all_folds=True))
    assert make_rungs(1) == (Rung(None), Rung(None, all_folds=True))


def test_the_best_settings_are_trained_over_all_folds(quality: np.ndarray) -> None:
    machine = Trainings(quality)
    halving = machine.search()
    assert machine.run(halving)
    best = {TRIALS[number] for number in np.argsort(quality.mean(axis=1))[:2]}
    assert halving.offered() == [sorted(best, key=TRIALS.index)] * NUM_FOLDS
    assert halving.num_left() == [16, 8, 4, 2, 2]
    assert machine.epochs_trained < 0.5 * len(TRIALS) * NUM_FOLDS * EPOCHS
    assert halving.seconds_left() == pytest.approx(0)


def test_each_rung_keeps_the_better_half(quality: np.ndarray) -> None:
    machine = Trainings(quality)
    halving = machine.search()
    machine.run(halving)
    for group, other in zip(halving.groups, reversed(halving.groups), strict=True):
        order = np.argsort(quality[:, other[0]])
        assert halving.entered(group, 1) == [TRIALS[n] for n in sorted(order[:8])]
        assert halving.entered(group, 2) == [TRIALS[n] for n in sorted(order[:4])]


def test_nothing_goes_on_with_what_was_dropped(quality: np.ndarray) -> None:
    machine = Trainings(quality)
    halving, dropped = machine.search(), set[str]()
    next_jobs = halving.next_jobs

    def watched(ended: Sequence[Ended]) -> list[Job]:
        jobs = next_jobs(ended)
        assert dropped <= set(halving.dropped()) and not dropped & {job.run for job in jobs}
        dropped.update(halving.dropped())
        return jobs

    halving.next_jobs = watched  # type: ignore[method-assign,assignment]
    assert machine.run(halving)
    [best] = {tuple(runs) for runs in halving.offered() or ()}
    assert dropped == {*TRIALS} - {*best}


@pytest.mark.parametrize("fold", range(NUM_FOLDS))
def test_a_folds_labels_choose_nothing_for_it(quality: np.ndarray, fold: int) -> None:
    chosen = []
    for changed in (False, True):
        scores = quality.copy()
        scores[:, fold] = scores[::-1, fold] if changed else scores[:, fold]
        machine = Trainings(scores)
        halving = machine.search()
        machine.run(halving)
        [group] = [group for group in halving.groups if fold in group]
        rungs = range(len(halving.rungs) + 1)
        chosen.append([[halving.entered(group, number) for number in rungs], halving.offered()])
    (rungs, before), (rungs_after, after) = chosen
    assert rungs == rungs_after
    assert before[fold] == after[fold]


@pytest.mark.parametrize("ends", [np.inf, 2400.0])
@pytest.mark.parametrize("num_jobs", [1, 7, 20, 30, 45])
def test_a_killed_search_goes_on_with_what_is_decided(
    quality: np.ndarray, tmp_path: Path, num_jobs: int, ends: float
) -> None:
    """Also where time is limited, and little of it is left."""
    undisturbed, machine, path = Trainings(quality), Trainings(quality), tmp_path / "decided.json"
    whole = undisturbed.search(ends=ends)
    undisturbed.run(whole, ends=ends)
    machine.run(machine.search(ends=ends, path=path), num_jobs=num_jobs, ends=ends)
    again = machine.search(ends=ends, path=path)
    assert machine.run(again, ends=ends)
    assert machine.at <= ends
    assert again.offered() == whole.offered()
    assert machine.epochs_trained <= undisturbed.epochs_trained + 2 * EPOCHS  # of the jobs that were killed
    last = machine.search(ends=machine.at, path=path)  # all is done, and no time is left
    assert last.next_jobs([], may_start=False) == [] and last.offered() == whole.offered()


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"decided": 3}', '{"epoch_seconds": ["abc"]}', '{"decided": [[1], [2]]}', "\xff"]
)
def test_decisions_that_cannot_be_read_are_made_again(
    quality: np.ndarray, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    machine, path = Trainings(quality), tmp_path / "decided.json"
    whole = machine.search()
    machine.run(whole)
    path.write_bytes(text.encode("latin-1"))
    again = machine.search(path=path)
    assert f"{path}: not readable" in caplog.text
    assert machine.run(again) or again.offered() is not None
    assert again.offered() == whole.offered()


def test_more_trials_take_over_what_is_done(quality: np.ndarray, tmp_path: Path) -> None:
    machine, at_once, path = Trainings(quality), Trainings(quality), tmp_path / "decided.json"
    machine.run(machine.search(trials=TRIALS[:8], path=path))
    more, whole = machine.search(path=path), at_once.search()
    assert machine.run(more)
    at_once.run(whole)
    best, offered = whole.offered(), more.offered()
    assert best is not None and offered is not None
    assert all({*one} <= {*other} for one, other in zip(best, offered, strict=True))


@pytest.mark.parametrize("minutes", [8, 12, 20, 40])
def test_less_time_draws_fewer_settings(quality: np.ndarray, minutes: float) -> None:
    """The search ends in time, with a finalist at least for each fold."""
    machine, ends = Trainings(quality), 60.0 * minutes
    halving = machine.search(ends=ends)
    assert machine.run(halving, ends=ends)
    assert halving.offered() is not None
    assert machine.at <= ends
    assert len([run for run in TRIALS if halving.is_begun(run)]) == halving.num_left()[0]
    assert halving.num_left()[0] == len(TRIALS) or machine.at > 0.45 * ends  # they agree


def test_settings_that_fail_cost_only_themselves(quality: np.ndarray) -> None:
    best = np.argsort(quality.mean(axis=1))
    machine = Trainings(quality, failing=frozenset({TRIALS[best[0]]}))
    halving = machine.search()
    assert machine.run(halving)
    assert halving.failed == {TRIALS[best[0]]: "no memory"}
    offered = halving.offered()
    assert offered is not None
    assert {run for of_fold in offered for run in of_fold} == {TRIALS[n] for n in best[1:3]}


def test_a_finalist_that_fails_is_replaced(quality: np.ndarray) -> None:
    best = [TRIALS[number] for number in np.argsort(quality.mean(axis=1))]
    machine = Trainings(quality, failing=frozenset(best[:2]), failing_fold=2)  # not where they are compared
    halving = machine.search()
    assert machine.run(halving)
    offered = halving.offered()
    assert {*halving.failed} == {*best[:2]} and offered is not None
    assert {run for of_fold in offered for run in of_fold} == {*best[2:4]}


@pytest.mark.parametrize("ends", [np.inf, 2400.0])
def test_the_first_settings_may_all_fail(quality: np.ndarray, ends: float) -> None:
    machine = Trainings(quality, failing=frozenset(TRIALS[:4]))
    halving = machine.search(ends=ends)
    assert machine.run(halving, ends=ends)
    assert {*halving.failed} == {*TRIALS[:4]} and halving.offered() is not None


def test_a_diverged_setting_is_the_worst(quality: np.ndarray) -> None:
    changed, best = quality.copy(), int(np.argsort(quality.mean(axis=1))[0])
    changed[best] = np.nan
    machine = Trainings(changed)
    halving = machine.search()
    assert machine.run(halving)
    assert all(
        halving.entered(group, 1) and TRIALS[best] not in (halving.entered(group, 1) or ())
        for group in halving.groups
    )


@pytest.mark.parametrize("number", [8, 16])
def test_the_expected_time_is_about_the_true_one(quality: np.ndarray, number: int) -> None:
    machine = Trainings(quality)
    halving = machine.search(trials=TRIALS[:number])
    machine.run(halving, num_jobs=1)
    expected = halving.seconds_left()
    assert expected is not None
    machine.run(machine.search(trials=TRIALS[:number]))
    assert machine.at == pytest.approx(expected, rel=0.35)


def test_nothing_is_chosen_where_nothing_is_finished(quality: np.ndarray) -> None:
    machine = Trainings(quality)
    halving = machine.search()
    machine.run(halving, num_jobs=3)
    assert halving.offered() is None
