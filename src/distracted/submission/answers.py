"""Kaggle's scores of a submission, stored with the forecast in its JSON file."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distracted.files import sha256_file, write_json
from distracted.submission.expect import Expected

_log = logging.getLogger(__name__)


def read_answers(provenance: Path) -> list[dict[str, Any]]:
    """The answers in a submission's JSON file, the oldest first; none if the file is missing.

    Answers survive when the submission is rewritten; the key `sha256` says which file each belongs to.
    """
    try:
        answers = json.loads(provenance.read_text()).get("answers", [])
        return [dict(answer) for answer in answers]
    except FileNotFoundError:
        return []
    except (ValueError, AttributeError, TypeError):
        _log.warning("%s is damaged: any answers in it are lost", provenance)
        return []


def answer_to(path: Path) -> dict[str, Any] | None:
    """The newest answer to a submission's current file; None if it was not sent or not scored."""
    sha256 = sha256_file(path)
    answers = read_answers(path.with_suffix(".json"))
    return next((answer for answer in reversed(answers) if answer.get("sha256") == sha256), None)


def add_answer(provenance: Path, sha256: str, expected: Expected | None, scores: Mapping[str, float]) -> None:
    """Add Kaggle's scores and the forecast for a sent file to a submission's JSON file.

    Args:
        sha256: Hash of the file that was sent; another file may lie in its place by now.
        expected: None if the competition's score is not the log loss, which alone is forecast.
    """
    content = json.loads(provenance.read_text())
    forecast = (
        {} if expected is None else {"expected": expected.mean, "low": expected.low, "high": expected.high}
    )
    off = (
        {}
        if expected is None
        else {part: expected.errors_off(score, public=part == "public") for part, score in scores.items()}
    )
    entry = {
        "sha256": sha256,
        **forecast,
        **scores,
        "standard_errors_off": off,
        "received": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(provenance, {**content, "answers": [*read_answers(provenance), entry]})
