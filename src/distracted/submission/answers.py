"""What Kaggle answered, kept beside what was expected."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distracted.files import sha256_file, write_json
from distracted.submission.expect import Expected
from distracted.submission.send import Answer

_log = logging.getLogger(__name__)


def kept_answers(provenance: Path) -> list[dict[str, Any]]:
    """Answers that a submission's JSON file holds, the oldest first; none where there is no such file.

    They stay when the submission is written anew: each says by `sha256` which file it was given to.
    """
    try:
        answers = json.loads(provenance.read_text()).get("answers", [])
        return [dict(answer) for answer in answers]
    except FileNotFoundError:
        return []
    except (ValueError, AttributeError, TypeError):
        _log.warning("%s is damaged: answers that it may have held are lost", provenance)
        return []


def answer_to(path: Path) -> dict[str, Any] | None:
    """The newest answer to a submission's file as it is; None where it was not sent, or not scored."""
    sha256 = sha256_file(path)
    answers = kept_answers(path.with_suffix(".json"))
    return next((answer for answer in reversed(answers) if answer.get("sha256") == sha256), None)


def keep_answer(provenance: Path, expected: Expected, answer: Answer) -> None:
    """Add an answer to a submission's JSON file, beside the forecast that was made for that file."""
    content = json.loads(provenance.read_text())
    kept = {
        "sha256": content["sha256"],
        "expected": expected.mean,
        "low": expected.low,
        "high": expected.high,
        **answer.scores,
        "standard_errors_off": {part: expected.errors_off(score) for part, score in answer.scores.items()},
        "received": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(provenance, {**content, "answers": [*kept_answers(provenance), kept]})
