"""The submission so far: blends what is finished, writes it, and notes the score with the time."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distracted.compete.clock import Clock
from distracted.ensemble.blend import Ensemble, blend_runs
from distracted.ensemble.derive import derive_run
from distracted.ensemble.members import open_sources
from distracted.ensemble.selection import select_members
from distracted.ensemble.sources import Source
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.step import MIN_FOLDS
from distracted.predictions.store import Store
from distracted.progress import Progress
from distracted.submission.submit import Submission, write_submission

_log = logging.getLogger(__name__)

#: Name of the blend and of its submission.
NAME = "compete"
#: File of its scores over time, a line for each blend.
BLENDS = "blends.jsonl"


@dataclass(frozen=True)
class Blended:
    """A blend of the runs that were finished, with its submission.

    Attributes:
        seconds: Time to make both.
    """

    ensemble: Ensemble
    submission: Submission
    seconds: float


@dataclass(eq=False)
class Blender:
    """Blends finished runs of a store, and keeps the last blend and the scores over time.

    Attributes:
        search: Returns how the runs were chosen, for the manifests.
        blended: Called after each blend.
        last: The last blend.
    """

    store: Store
    clock: Clock
    search: Callable[[], Mapping[str, Any]]
    blended: Callable[[Blended], None]
    progress: Progress
    last: Blended | None = None
    _variants: dict[str, dict[str, Source]] = field(default_factory=dict)

    def __call__(self, offered: Sequence[Sequence[str]]) -> float:
        """Blend, write the submission, and note the scores; returns the seconds that it took."""
        given: dict[str, Any] = {
            "variants": self._variants,
            "search": self.search(),
            "progress": self.progress,
        }
        self.last = blend_finished(self.store, offered, **given)
        folder = self.store.workspace.compete(self.store.competition.name)
        finished = list(dict.fromkeys(run for of_fold in offered for run in of_fold))
        note_blend(folder / BLENDS, self.last, used=self.clock.used, finished=finished)
        self.blended(self.last)
        return self.last.seconds


def blend_finished(
    store: Store,
    offered: Sequence[Sequence[str]],
    *,
    variants: dict[str, dict[str, Source]],
    search: Mapping[str, Any],
    progress: Progress,
) -> Blended:
    """Blend finished runs and write the submission.

    Each run is offered as it is and calibrated. Each fold's members are selected, blended and weighed by the
    labels of the other folds.

    Args:
        offered: Finished runs by fold, at least one each.
        variants: By run what is offered of it, by name, with what was fitted in it; missing ones are added.
        search: How they were chosen, for the manifests.
    """
    start = time.monotonic()
    runs = list(dict.fromkeys(run for of_fold in offered for run in of_fold))
    for run in runs:
        if run not in variants:
            names = [run]
            if store.folds.num_folds >= MIN_FOLDS:
                names.append(derive_run(store, Calibrate(), [run]).name)
            sources = open_sources(store, [store.find_run(name) for name in names])
            variants[run] = dict(zip(names, sources, strict=True))
    opened = {name: source for run in runs for name, source in variants[run].items()}
    members = select_members(
        opened, [[name for run in of_fold for name in variants[run]] for of_fold in offered]
    )
    ensemble = blend_runs(
        store,
        by_fold=members,
        name=NAME,
        search=search,
        opened=opened,
        show_others=False,
        progress=progress,
    )
    submission = write_submission(store, name=NAME)
    return Blended(ensemble, submission, time.monotonic() - start)


def note_blend(path: Path, blended: Blended, *, used: float, finished: Sequence[str]) -> None:
    """Append the blend's scores to a file, a line each.

    Args:
        used: Seconds of the competition so far.
        finished: The runs that it could choose from.
    """
    ensemble, expected = blended.ensemble, blended.submission.expected
    line = {
        "seconds": round(used, 1),
        "log_loss": ensemble.pooled["log_loss"],
        "interval": [ensemble.interval.low, ensemble.interval.high],
        "expected": {key: asdict(expected)[key] for key in ("mean", "low", "high")},
        "members": list(ensemble.members),
        "finished": list(finished),
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_blends(path: Path) -> list[dict[str, Any]]:
    """The lines that `note_blend` wrote; a damaged one is left out."""
    lines = []
    for text in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict):
            lines.append(line)
        else:
            _log.warning("%s: a line is damaged, and left out", path)
    return lines
