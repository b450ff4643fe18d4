"""What `make compete` did: the blend over time, what each run bought for its minutes, what was left out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distracted.predictions.store import Store


@dataclass(frozen=True)
class Bought:
    """A run that was trained, and what the blend's cross-fitted log loss was before and after it.

    Attributes:
        minute: When the blend with it was there.
        with_it: Other runs that came into the same blend.
        before, after: None for a run that was not blended yet, or for the first.
    """

    run: str
    minutes: float
    loss: float
    by: Sequence[int]
    why: str
    minute: float | None = None
    with_it: Sequence[str] = ()
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True)
class Competition:
    """A competition's summary, as `compete/summary.py` writes it."""

    content: Mapping[str, Any]
    bought: Sequence[Bought]

    @property
    def open(self) -> list[Mapping[str, Any]]:
        """Runs that were begun, failed or only planned."""
        return [run for run in self.content["runs"] if run.get("state") != "done"]


def read_competition(store: Store) -> Competition | None:
    """The summary of `make compete`; None if there is none, or it is damaged."""
    path = store.workspace.competition_summary(store.competition.name)
    try:
        content = json.loads(path.read_text())
        done = [run for run in content["runs"] if run.get("state") == "done"]
        return Competition(content, [_bought(run, content["blends"]) for run in done])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _bought(run: Mapping[str, Any], blends: Sequence[Mapping[str, Any]]) -> Bought:
    bought = Bought(run["run"], run["minutes"], run["loss"], run["by"], run.get("why", ""))
    before: Mapping[str, Any] = {}
    for blend in blends:
        new = [other for other in _finished(blend) if other not in _finished(before)]
        if bought.run in new:
            return replace(
                bought,
                minute=blend["seconds"] / 60,
                with_it=[other for other in new if other != bought.run],
                before=before.get("log_loss"),
                after=blend["log_loss"],
            )
        before = blend
    return bought


def _finished(blend: Mapping[str, Any]) -> Sequence[str]:
    """The runs that were finished when a blend was made; older lines hold its members alone."""
    return list(blend.get("finished", blend.get("members", ())))
