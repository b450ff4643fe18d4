"""Sending a checked submission to Kaggle and waiting for its score."""

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distracted.errors import SubmissionError
from distracted.kaggle_client import quiet, refusal, sign_in
from distracted.progress import Progress, silent

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

_POLL_SECONDS = 5
_MAX_POLLS = 60


def send_submission(
    path: Path, *, competition: str | None, message: str, progress: Progress = silent
) -> dict[str, float]:
    """Send a file and wait until it is scored.

    Returns:
        The scores that Kaggle shows, under the keys public and private.

    Raises:
        CredentialsError: no Kaggle credentials.
        SubmissionError: the data has no competition on Kaggle, the upload fails, or Kaggle rejects the file
            or does not score it in time. The file is kept.
    """
    if competition is None:
        raise SubmissionError(
            f"{path} is valid, but cannot be sent: this data has no competition on Kaggle (data.kaggle)"
        )
    api = sign_in()
    try:
        with quiet():
            sent = api.competition_submit(str(path), message, competition, quiet=True)
    except (Exception, SystemExit) as error:  # the client's exceptions have no common base
        raise SubmissionError(
            f"{path} is valid, but could not be sent: {refusal(error, competition)}"
        ) from error
    if not sent.ref:  # after a broken upload the client raises nothing and returns no number
        raise SubmissionError(f"{path} is valid, but could not be sent: {sent.message}")
    look = "look at the competition's page before sending it again"
    try:
        scored = _wait_until_scored(api, sent.ref, competition, progress)
    except (Exception, SystemExit) as error:
        raise SubmissionError(
            f"{path} was sent, but its score could not be requested: {refusal(error, competition)}; {look}"
        ) from error
    if scored is None:
        raise SubmissionError(f"{path} was sent, but Kaggle has not scored it yet; {look}")
    if scored.status.name == "ERROR":
        raise SubmissionError(f"{path}: Kaggle rejects it: {scored.error_description}")
    return read_scores(scored)


def read_scores(scored: Any) -> dict[str, float]:
    """The finite scores in Kaggle's record, where an unknown score is an empty text."""
    scores = {}
    for part in ("public", "private"):
        with suppress(ValueError, TypeError):
            scores[part] = float(getattr(scored, f"{part}_score"))
    return {part: score for part, score in scores.items() if math.isfinite(score)}


def _wait_until_scored(api: "KaggleApi", ref: int, competition: str, progress: Progress) -> Any:
    """Poll until a submission is scored or rejected, and return Kaggle's record; None after a timeout."""
    with progress("waiting for the score", total=_MAX_POLLS, unit="poll") as step:
        for _ in range(_MAX_POLLS):
            for item in api.competition_submissions(competition) or []:
                if item and item.ref == ref and item.status.name in ("COMPLETE", "ERROR"):
                    return item
            time.sleep(_POLL_SECONDS)
            step()
    return None
