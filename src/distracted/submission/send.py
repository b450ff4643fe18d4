"""Send a checked submission to Kaggle and wait for its score."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distracted.errors import SubmissionError, first_line
from distracted.kaggle_client import sign_in
from distracted.progress import Progress, silent

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

_POLL_SECONDS = 5
_MAX_POLLS = 60


@dataclass(frozen=True)
class Answer:
    """Kaggle's scores, as it writes them; empty where it keeps one to itself."""

    public: str
    private: str

    @property
    def scores(self) -> dict[str, float]:
        """Those that are numbers, by name: public, private."""
        found = {}
        for part, text in (("public", self.public), ("private", self.private)):
            with suppress(ValueError, TypeError):
                found[part] = float(text)
        return {part: score for part, score in found.items() if math.isfinite(score)}


def send_submission(
    path: Path, *, competition: str | None, message: str, progress: Progress = silent
) -> Answer:
    """Send a file and wait until it is scored.

    Raises:
        CredentialsError: no Kaggle credentials; the file stays.
        SubmissionError: the data has no competition on Kaggle, or Kaggle refuses the file or does not score
            it in time.
    """
    if competition is None:
        raise SubmissionError(f"{path} is checked, but this data has no competition on Kaggle (data.kaggle)")
    api = sign_in()
    try:
        sent = api.competition_submit(str(path), message, competition, quiet=True)
    except (Exception, SystemExit) as error:  # requests' and the client's own kinds, by no common base
        raise SubmissionError(f"{path} is checked, but could not be sent: {first_line(error)}") from error
    if not sent.ref:  # the client answers so, and raises nothing, where the upload broke off
        raise SubmissionError(f"{path} is checked, but could not be sent: {sent.message}")
    try:
        found = _wait_until_scored(api, sent.ref, competition, progress)
    except (Exception, SystemExit) as error:
        raise SubmissionError(
            f"{path} was sent, but its score could not be asked for ({first_line(error)}); look at the "
            "competition's page before sending again"
        ) from error
    if found is None:
        raise SubmissionError(
            f"{path} was sent, but Kaggle has not scored it yet; look at the competition's page"
        )
    if found.status.name == "ERROR":
        raise SubmissionError(f"{path}: Kaggle refuses it: {found.error_description}")
    return Answer(found.public_score, found.private_score)


def _wait_until_scored(api: "KaggleApi", ref: int, competition: str, progress: Progress) -> Any:
    """Kaggle's record of a submission once it is scored or refused; None where that takes too long."""
    with progress("waiting for the score", total=_MAX_POLLS, unit="poll") as step:
        for _ in range(_MAX_POLLS):
            for item in api.competition_submissions(competition) or []:
                if item and item.ref == ref and item.status.name in ("COMPLETE", "ERROR"):
                    return item
            time.sleep(_POLL_SECONDS)
            step()
    return None
