"""Pooled scores of runs, kept between commands: to read the held-out rows of 200 runs takes seconds."""

import json
from contextlib import suppress
from pathlib import Path

from distracted.files import sha256_json, write_json
from distracted.predictions.run import StoredRun

#: Changes where the same predictions get other scores.
_VERSION = 1


class KeptScores:
    """Scores by run, each under the hashes of all that they follow from.

    Args:
        folder: For a file for each run; files may be missing, damaged or of earlier predictions.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, run: StoredRun, metric: str) -> dict[str, float] | None:
        """The scores of exactly these predictions; None if they are not kept."""
        try:
            kept = json.loads(self._path(run).read_bytes())
            return {str(name): float(score) for name, score in kept[_key(run, metric)].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, run: StoredRun, metric: str, scores: dict[str, float]) -> None:
        """Keep scores in the place of the run's earlier ones."""
        with suppress(OSError, ValueError):  # a read-only cache; a score that is not a number
            write_json(self._path(run), {_key(run, metric): scores})

    def _path(self, run: StoredRun) -> Path:
        return self._folder / f"{run.name}.json"


def _key(run: StoredRun, metric: str) -> str:
    """The data and folds, which give the labels, the predictions, and the competition's score."""
    of_rows = [[m.fold, m.valid_sha256, m.folds_hash, m.index_hash] for m in run.manifests]
    return sha256_json([_VERSION, metric, of_rows])
