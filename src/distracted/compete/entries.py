"""The plan as a file: runs/<data>/plan.yaml, which a person can read and edit."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from distracted.compete.groups import Group
from distracted.compete.planner import Planned
from distracted.errors import ConfigError, first_line
from distracted.files import write_text

T = TypeVar("T")
State = Literal["done", "running", "planned", "failed"]

_HEAD = """\
# The plan of `make compete`. It is written again whenever something ends or measured times change it.
# Edit it while the command does not run: remove, add or reorder `runs` that are not done, or set `extend` to
# false, so that nothing is added to them. `by` lists the folds that chose a run: only their blends take it
# (all, if it is left out). `trials` are short fits, kept and continued if chosen;
# `choices` are the runs that each of two groups of folds chose, in order. `views`: the run <name>_tta
# averages the predictions of the run <name> over these views of each image (`make tta`). The first `set` is
# what SET= gave to all runs, `folds` a hash of the data and their folds.
"""
_KEYS = {"run", "model", "set", "views", "by", "state", "minutes", "loss", "blend", "why"}
#: What a run over several views is called after its run.
TTA = "_tta"


@dataclass
class Entry:
    """A run of the plan.

    Attributes:
        run: Its name; model and settings: what is trained under it.
        views: Views of each image that predictions of `parent` are averaged over; "": it is trained.
        by: Folds that chose it.
        minutes: Expected time of all its jobs, one after another; once it is done the time they took.
        loss, blend: Expected log loss of the run, and of the blend with all runs up to it.
        why: The reason, in a few words.
    """

    run: str
    model: str
    settings: str
    by: tuple[int, ...]
    state: State = "planned"
    minutes: float | None = None
    loss: float | None = None
    blend: float | None = None
    why: str = ""
    views: str = ""

    @property
    def parent(self) -> str:
        """The run whose networks predict the views."""
        return self.run.removesuffix(TTA)

    def as_yaml(self) -> dict[str, Any]:
        trained = {"views": self.views} if self.views else {"model": self.model, "set": self.settings}
        shown: dict[str, Any] = {"run": self.run, **trained, "by": list(self.by), "state": self.state}
        numbers = {"minutes": self.minutes, "loss": self.loss, "blend": self.blend}
        shown |= {key: float(f"{value:.3g}") for key, value in numbers.items() if value is not None}
        return shown | ({"why": self.why} if self.why else {})


def entry_of(planned: Planned, folds: tuple[int, ...], why: str) -> Entry:
    """The entry of a planned run that some folds choose."""
    candidate, settings = planned.candidate, shlex.join(planned.candidate.overrides)
    entry = Entry(candidate.name, candidate.input.model, settings, folds, why=why)
    entry.minutes, entry.loss, entry.blend = planned.seconds / 60, planned.loss, planned.blend
    return entry


@dataclass
class Plan:
    """The runs in their order.

    Attributes:
        entries: Finished and begun runs first; then those that are only planned, which may still change.
        trials: By epochs of a rung: the runs begun as short fits, and the folds that asked for them.
        choices: For each group of folds the runs that it chose, in order.
        extend: Whether runs may be added.
        settings: What SET= gives to all runs; None: not known.
        folds: Hash of the data and their folds; None: not known.
        is_edited: Whether a person has changed the file since: then its runs are trained as they stand there.
    """

    entries: list[Entry] = field(default_factory=list)
    trials: dict[int, dict[str, list[int]]] = field(default_factory=dict)
    choices: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    extend: bool = True
    settings: str | None = None
    folds: str | None = None
    is_edited: bool = False

    def bound_to(self, settings: Sequence[str], folds: str) -> "Plan":
        """The plan with what SET= gives to all runs, for these folds.

        Raises:
            ConfigError: its runs have other settings, or were chosen by the labels of other folds.
        """
        given, is_begun = shlex.join(sorted(settings)), bool(self.entries or self.trials)
        if is_begun and self.settings not in (None, given):
            raise ConfigError(
                f"SET={given!r}: the runs of the plan have SET={self.settings!r}; give that again, or start "
                "over as docs/compete.md says"
            )
        if is_begun and self.folds not in (None, folds):
            raise ConfigError(
                "the data or their folds are others than those that the plan was made for: its runs may have "
                "been chosen by labels that are held out now; start over as docs/compete.md says"
            )
        return replace(self, settings=given, folds=folds)

    def without_outlook(self, groups: Sequence[Group]) -> "Plan":
        """The plan of the runs that were chosen; in an edited one a person has chosen all that are there.

        Args:
            groups: The two groups of folds.
        """
        chosen = {run for runs in self.choices for run in runs}
        if self.is_edited:
            added = [entry for entry in self.entries if entry.run not in chosen]
            first, second = (
                [run for run in dict.fromkeys(runs) if self.find(run) is not None]
                + [entry.run for entry in added if not set(group).isdisjoint(entry.by)]
                for group, runs in zip(groups, self.choices, strict=True)
            )
            return replace(self, choices=(first, second))
        entries = [entry for entry in self.entries if entry.state != "planned" or entry.run in chosen]
        return replace(self, entries=entries)

    def find(self, run: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.run == run), None)


def write_plan(path: Path, plan: Plan) -> None:
    """Write the plan with a digest of its content, by which an edit is noticed."""
    runs = [entry.as_yaml() for entry in plan.entries]
    given = {"set": plan.settings, "folds": plan.folds}
    given = {key: value for key, value in given.items() if value is not None}
    content = {
        **given,
        "extend": plan.extend,
        "runs": runs,
        "trials": plan.trials,
        "choices": [*plan.choices],
    }
    text = yaml.safe_dump(content, sort_keys=False, width=110, default_flow_style=None)
    write_text(path, f"{_HEAD}{text}written: {_digest(yaml.safe_load(text))}\n")


def read_plan(path: Path, *, num_folds: int, models: Sequence[str]) -> Plan:
    """Read the plan; an empty one if there is no file.

    Args:
        models: Names in configs/models.

    Raises:
        ConfigError: not a plan, or one with unknown keys, models or folds; says where.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return Plan()
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or an impossible date
        raise ConfigError(f"{path}: not readable YAML: {first_line(error)}; {_WAY_OUT}") from error
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise ConfigError(f"{path}: expected `runs`, a list; {_WAY_OUT}")
    if unknown := set(content) - {"set", "folds", "runs", "trials", "choices", "extend", "written"}:
        raise ConfigError(f"{path}: unknown key {sorted(map(str, unknown))[0]!r}; {_WAY_OUT}")
    written = content.pop("written", None)
    plan = Plan(
        [_entry(item, f"{path}: runs[{n}]", num_folds, models) for n, item in enumerate(content["runs"])],
        _read(_TRIALS, content.get("trials") or {}, f"{path}: trials: expected folds by run by epochs"),
        _read(_CHOICES, content.get("choices") or [[], []], f"{path}: choices: expected two lists of runs"),
        content.get("extend", True),
        _read(_TEXT, content.get("set"), f"{path}: set: expected text, as SET= takes it"),
        _read(_TEXT, content.get("folds"), f"{path}: folds: expected the hash that was there"),
        is_edited=written != _digest(content),
    )
    if not isinstance(plan.extend, bool):
        raise ConfigError(f"{path}: extend: expected true or false, got {plan.extend!r}")
    names = [entry.run for entry in plan.entries]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{path}: {sorted(twice)[0]} is there twice; expected each run once")
    return plan


_TRIALS = TypeAdapter(dict[int, dict[str, list[int]]])
_TEXT = TypeAdapter[str | None](str | None)
_CHOICES = TypeAdapter(tuple[list[str], list[str]])


def _read(adapter: TypeAdapter[T], content: Any, expected: str) -> T:
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        raise ConfigError(f"{expected}; {_WAY_OUT}") from error


_WAY_OUT = "mend it, or remove the file: `make compete` writes another, and finished runs stay"


def _entry(item: Any, where: str, num_folds: int, models: Sequence[str]) -> Entry:
    if not isinstance(item, Mapping) or not isinstance(item.get("run"), str):
        raise ConfigError(f"{where}: expected a mapping with `run`, the run's name; {_WAY_OUT}")
    where = f"{where} ({item['run']})"
    if unknown := set(item) - _KEYS:
        raise ConfigError(f"{where}: unknown key {sorted(map(str, unknown))[0]!r}; {_WAY_OUT}")
    model, views = item.get("model", item["run"]), item.get("views", "")
    if not isinstance(views, str) or (views and not item["run"].endswith(TTA)):
        raise ConfigError(f"{where}: views: expected groups of views of a run <name>{TTA}; {_WAY_OUT}")
    if not views and model not in models:
        raise ConfigError(f"{where}: there is no model {model!r} in configs/models; {_WAY_OUT}")
    folds = item.get("by", list(range(num_folds)))
    if not isinstance(folds, list) or not folds or any(fold not in range(num_folds) for fold in folds):
        raise ConfigError(f"{where}: by: expected some of the folds 0 to {num_folds - 1}, got {folds!r}")
    state = item.get("state", "planned")
    if state not in ("done", "running", "planned", "failed"):
        raise ConfigError(f"{where}: state: expected done, running, planned or failed, got {state!r}")
    numbers = {key: item.get(key) for key in ("minutes", "loss", "blend")}
    if wrong := [key for key, value in numbers.items() if not isinstance(value, int | float | None)]:
        raise ConfigError(f"{where}: {wrong[0]}: expected a number, got {numbers[wrong[0]]!r}")
    by, settings, why = tuple(dict.fromkeys(folds)), str(item.get("set", "")), str(item.get("why", ""))
    return Entry(item["run"], model, settings, by, state, why=why, views=views, **numbers)


def _digest(content: Any) -> str:
    return sha256(repr(content).encode()).hexdigest()[:12]
