"""What each of two groups of folds knows about runs, and which run it chooses next.

The runs of a group's blends are chosen by the labels of the other group: by probes, by short fits and by the
scores of the runs that it chose before. So the labels of a fold decide nothing that predicts it: neither
which settings go on after short fits, nor which runs are blended; its weights come from all other folds.
Only the clock is shared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from distracted.compete.candidates import Candidate
from distracted.compete.entries import Plan
from distracted.compete.groups import Group
from distracted.compete.planner import (
    MARGIN,
    Planned,
    Situation,
    Slots,
    default_run,
    make_plan,
    quickest_run,
)
from distracted.compete.results import Results
from distracted.compete.times import Times
from distracted.compete.value import Evidence, predict_log_losses

#: Share of the time that short fits may take.
TRIAL_SHARE = 0.1
#: Rungs of successive halving, in epochs: each goes on with the better half.
TRIAL_EPOCHS = (1, 2)
_MOST_TRIALS = 8

_CLEARLY = 0.05  # a change of the probes' loss, as a logarithm, that counts
_LEAST_SECONDS = 30.0  # in which it is worth while to begin a run
_FOREVER = 1e8

#: The runs that no score chooses, with the reason that the plan gives.
_FIRST = (quickest_run, "the quickest way to a submission"), (default_run, "the usual fine-tuning")


@dataclass(eq=False)
class Chooser:
    """Chooses by what the plan says was chosen so far, and by the scores of that.

    Attributes:
        candidates: All runs that may be chosen, with the first seed each.
        known: Candidates by run, with any seed.
        failed: Runs that failed; no further run of their settings is chosen.
        seconds: Expected seconds of a candidate's job.
        free: Returns the seconds until each slot is free.
        left: Returns the seconds until all jobs have to be finished.
        num_seeds: Seeds of one setting at most.
        outlook: What each group would choose after the next run; it changes freely.
    """

    candidates: Sequence[Candidate]
    known: dict[str, Candidate]
    failed: set[str]
    plan: Plan
    results: Results
    times: Times
    groups: Sequence[Group]
    seconds: Callable[[Candidate], float]
    free: Callable[[], list[float]]
    left: Callable[[], float]
    num_slots: int
    num_seeds: int
    outlook: dict[Group, list[Planned]] = field(default_factory=dict)

    def is_ready(self) -> bool:
        """Whether the runs are finished that the next choice of each group depends on."""
        done = self.results.finished_folds
        known = [candidate.name for group in self.groups for candidate in self._known_to(group)]
        return all(len(done(run)) == self._num_folds for run in known)

    def next_runs(self) -> tuple[dict[Group, Planned], str]:
        """The run that each group would train next, and why; groups without one are left out.

        No score has a say in the first two, but for the sampling of classes, and as a rule both groups choose
        them alike: a submission is there early, and a good one soon after. Later the groups take turns: where
        the time is too short for the runs of both, the second plans for what the first leaves.
        """
        situations = {group: self._situation(group) for group in self.groups}
        firsts, number = dict[Group, Planned](), len(self.plan.choices[0])
        if number < len(_FIRST):
            usual, why = _FIRST[number]
            firsts = {group: one for group, now in situations.items() if (one := usual(now))}
            if firsts:
                return firsts, why
        plans = {group: make_plan(now) for group, now in situations.items()}
        first, second = self.groups[number % 2], self.groups[1 - number % 2]
        if plans[first] and plans[second] and not self._fit_together(plans[first][0], plans[second][0]):
            after = self._slots_after(plans[first][0])
            plans[second] = make_plan(replace(situations[second], free=after))
        self.outlook = {group: plan[1:] for group, plan in plans.items()}
        why = "takes most off the blend's expected loss for its time"
        return {group: plan[0] for group, plan in plans.items() if plan}, why

    def _fit_together(self, one: Planned, other: Planned) -> bool:
        """Whether both runs end in time, one after the other."""
        if one.candidate == other.candidate:
            return True
        slots = Slots(self._slots_after(one))
        return MARGIN * slots.add(self._num_folds, self.seconds(other.candidate)) <= self.left()

    def _slots_after(self, planned: Planned) -> list[float]:
        """Seconds until each slot is free, once all jobs of a run are started."""
        slots = Slots(self.free())
        slots.add(self._num_folds, self.seconds(planned.candidate))
        return slots.free

    def unfinished_runs(self) -> tuple[dict[Group, Planned], str]:
        """The run of each group that is worth most for its time, although it will not be finished in time."""
        if self.left() < _LEAST_SECONDS:
            return {}, ""
        plans = {g: make_plan(replace(self._situation(g), left=_FOREVER, most=1)) for g in self.groups}
        return (
            {group: plan[0] for group, plan in plans.items() if plan},
            "begun in the time that is left; a larger HOURS finishes it",
        )

    def next_rung(self) -> tuple[int, dict[str, list[int]]] | None:
        """The epochs of the next short fits, and by run the folds that ask for them; None: there are none.

        They come before the first tuned run is chosen. Each group tries what its own plan holds, and keeps
        the better half of that for the next rung.
        """
        left = [epochs for epochs in TRIAL_EPOCHS if epochs > max(self.plan.trials, default=0)]
        if not left or len(self.plan.choices[0]) < len(_FIRST):  # the runs that no score chooses come first
            return None
        plans = {group: make_plan(self._situation(group)) for group in self.groups}
        if not any(plans.values()):
            return None
        epochs, runs = left[0], dict[str, list[int]]()
        for group, plan in plans.items():
            chosen = {one.family for one in self._chosen_by(group)}
            proposed = [one for one in _different(plan) if one not in chosen]
            wanted = self._better_half(group) if self.plan.trials else proposed
            for candidate in self._affordable(wanted, epochs):
                runs.setdefault(candidate.name, []).extend(group)
        return epochs, runs

    @property
    def _num_folds(self) -> int:
        return sum(map(len, self.groups))

    def _situation(self, group: Group) -> Situation:
        """What a group's plan starts from: scores of the runs that it chose, without its own labels.

        The other group's runs are left out, since it may have chosen them by labels of this one; so are the
        last ones chosen, finished or not, since that may depend on how many runs the other group chose.
        """
        evidence = self.results.evidence(group, self._known_to(group), self._tried_by(group))
        return Situation(
            with_fitting_classes(self.candidates, evidence),
            evidence,
            self._chosen_by(group),
            self.seconds,
            self.free(),
            self.left(),
            self._num_folds,
            num_seeds=self.num_seeds,
            failed={self.known[run].family for run in self.failed if run in self.known},
        )

    def _chosen_by(self, group: Group) -> list[Candidate]:
        """The runs that a group chose, in order, without those that failed."""
        chosen = self.plan.choices[self.groups.index(group)]
        entries = [entry for run in chosen if (entry := self.plan.find(run)) is not None]
        runs = [entry.run for entry in entries if entry.state != "failed"]
        return [self.known[run] for run in runs if run in self.known]

    def _known_to(self, group: Group) -> list[Candidate]:
        """The runs that a group chose, without the last ones: they may run when the next is chosen."""
        chosen = self._chosen_by(group)
        lag = 1 + self.num_slots // self._num_folds
        return chosen[: max(0, len(chosen) - lag)]

    def _tried_by(self, group: Group) -> dict[Candidate, int]:
        """The short fits that a group asked for, and the epochs up to which it did."""
        return {
            self.known[run]: epochs
            for epochs, runs in sorted(self.plan.trials.items())
            for run, by in runs.items()
            if group[0] in by and run in self.known
        }

    def _better_half(self, group: Group) -> list[Candidate]:
        """The better half of the candidates that a group tried in the last rung."""
        tried = self._tried_by(group)
        expected = predict_log_losses([*tried], self.results.evidence(group, [], tried))
        return [[*tried][n] for n in sorted(np.argsort(expected)[: (len(tried) + 1) // 2])]

    def _affordable(self, candidates: Sequence[Candidate], epochs: int) -> list[Candidate]:
        """As many of a group's candidates as the time for a rung allows; none if only one is left."""
        share = TRIAL_SHARE / len(TRIAL_EPOCHS) / len(self.groups)
        left = share * self.num_slots * self.left()
        affordable = list[Candidate]()
        for candidate in candidates:
            if candidate.epochs > epochs and len(affordable) < _MOST_TRIALS:
                left -= self.times.seconds(candidate) * epochs / candidate.epochs
                affordable += [candidate] if left >= 0 else []
        return affordable if len(affordable) > 1 else []


def with_fitting_classes(candidates: Sequence[Candidate], evidence: Evidence) -> list[Candidate]:
    """Those that draw classes equally often where these are uneven, unless the probes advise against it.

    Where classes are uneven in each subject in its own way, that can halve the loss; where the test set has
    the same shares, calibration undoes most of what it costs.
    """
    probes = evidence.probes
    changes = [np.log(loss / probes[one, False]) for (one, is_even), loss in probes.items() if is_even]
    even = bool(changes) and float(np.mean(changes)) < _CLEARLY and any(one.even for one in candidates)
    return [one for one in candidates if one.is_frozen or one.even == even]


def _different(plan: Sequence[Planned]) -> list[Candidate]:
    """The tuned candidates of a plan; of those that differ in seed or length alone, the first."""
    tuned = [one.candidate.family for one in plan if not one.candidate.is_frozen]
    firsts = {(one.input, one.recipe, one.even): one for one in reversed(tuned)}
    return [one for one in dict.fromkeys(tuned) if one in firsts.values()]
