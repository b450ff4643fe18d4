"""Send a checked submission to Kaggle and wait for its score."""

import time
from dataclasses import dataclass
from pathlib import Path

from distracted.errors import SubmissionError
from distracted.kaggle_client import sign_in
from distracted.progress import Progress, silent

_POLL_SECONDS = 5
_MAX_POLLS = 60


@dataclass(frozen=True)
class Answer:
    """Kaggle's scores, as it writes them; empty where it keeps one to itself."""

    public: str
    private: str


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
        if not sent.ref:  # the client answers so, and raises nothing, where the upload broke off
            raise SubmissionError(f"{path} is checked, but could not be sent: {sent.message}")
        with progress("waiting for the score", total=_MAX_POLLS, unit="poll") as step:
            for _ in range(_MAX_POLLS):
                found = [
                    item
                    for item in api.competition_submissions(competition) or []
                    if item and item.ref == sent.ref
                ]
                status = found[0].status.name if found else "PENDING"
                if status == "COMPLETE":
                    return Answer(found[0].public_score, found[0].private_score)
                if status == "ERROR":
                    raise SubmissionError(f"{path}: Kaggle refuses it: {found[0].error_description}")
                time.sleep(_POLL_SECONDS)
                step()
    except (OSError, SystemExit) as error:  # requests' errors are OSErrors
        raise SubmissionError(f"{path} is checked, but could not be sent: {error}") from error
    raise SubmissionError(
        f"{path} was sent, but Kaggle has not scored it yet; look at the competition's page"
    )
