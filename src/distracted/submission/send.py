"""Sending a checked submission to Kaggle and waiting for its score."""

import logging
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distracted.errors import SubmissionError
from distracted.files import sha256_bytes
from distracted.kaggle_answers import is_transient, refusal, retry_after
from distracted.kaggle_client import sign_in
from distracted.kaggle_requests import pause
from distracted.locks import hold
from distracted.progress import Progress, silent
from distracted.submission.deliver import deliver, submissions
from distracted.submission.receipts import ReceiptFile

if TYPE_CHECKING:
    from kagglesdk import KaggleClient

_log = logging.getLogger(__name__)

#: Seconds to wait for a score, and between two questions.
SCORE_SECONDS, POLL_SECONDS = 300.0, 5.0


def send_submission(
    path: Path,
    *,
    competition: str | None,
    message: str,
    checked: str = "",
    force: bool = False,
    progress: Progress = silent,
) -> dict[str, float]:
    """Send a file, unless it was sent already, and wait until it is scored.

    Args:
        message: Its description on Kaggle.
        checked: SHA-256 of the content that was checked; no other content is sent.
        force: Send it although it was sent already.

    Returns:
        The scores that Kaggle shows, under the keys public and private.

    Raises:
        CredentialsError: no Kaggle credentials.
        LockError: another process is sending the same file.
        SubmissionError: the data has no competition on Kaggle, the file was replaced since it was checked,
            the upload fails, or Kaggle rejects the file or does not score it in time. The file is kept, and
            the same call goes on where this one ended.
    """
    if competition is None:
        raise SubmissionError(
            f"{path} is valid, but cannot be sent: this data has no competition on Kaggle (data.kaggle)"
        )
    content = path.read_bytes()
    sha256 = sha256_bytes(content)
    if checked not in ("", sha256):
        raise SubmissionError(
            f"{path} was replaced since it was checked; nothing was sent, repeat the command"
        )
    with sign_in() as kaggle, hold(path.parent / "sent" / f"{sha256}.lock", f"sending {path}"):
        sent = ReceiptFile(path, sha256, competition, new=force)
        if ref := sent.receipt.ref:
            _log.info("%s was sent already (submission %d); asking for its score", path, ref)
        else:
            sent.note(ref=deliver(kaggle, path, content, message, sent), token="", requested="")
        return read_scores(_wait_until_scored(kaggle, path, sent, progress))


def read_scores(scored: Any) -> dict[str, float]:
    """The finite scores in Kaggle's record, where an unknown score is an empty text."""
    scores = {}
    for part in ("public", "private"):
        with suppress(ValueError, TypeError):
            scores[part] = float(getattr(scored, f"{part}_score"))
    return {part: score for part, score in scores.items() if math.isfinite(score)}


def _wait_until_scored(kaggle: "KaggleClient", path: Path, sent: ReceiptFile, progress: Progress) -> Any:
    """Poll until the submission is scored, and return Kaggle's record.

    Raises:
        SubmissionError: Kaggle rejects it, does not score it in time, or cannot be asked.
    """
    competition, ref = sent.receipt.competition, sent.receipt.ref
    end, before = time.monotonic() + SCORE_SECONDS, ""
    with progress(
        "waiting for the score", total=math.ceil(SCORE_SECONDS / POLL_SECONDS), unit="poll"
    ) as step:
        while True:
            wait, cause, item = POLL_SECONDS, None, None
            try:
                item = next((item for item in submissions(kaggle, competition, 0) if item.ref == ref), None)
                problem = "Kaggle has not scored it yet" if item else "Kaggle does not list it"
            except Exception as error:  # the client's errors have no common base
                cause, wait = error, max(POLL_SECONDS, retry_after(error) or 0)
                problem = f"its score could not be requested: {refusal(error, competition)}"
            if item and item.status.name == "COMPLETE":
                return item
            if item and item.status.name == "ERROR":
                way_out = f"(submission {ref}; FORCE=1 sends it again)"
                raise SubmissionError(f"{path}: Kaggle rejects it: {item.error_description} {way_out}")
            if time.monotonic() + wait > end or (cause and not is_transient(cause)):
                problem = f"{path} was sent (submission {ref}), but {problem}"
                way_out = "the same command asks again and sends nothing (FORCE=1 would)"
                raise SubmissionError(f"{problem}; {way_out}") from cause
            if cause and problem != before:
                _log.warning("%s; asking again in %.0f s", problem.partition(";")[0], wait)
            before = problem
            pause(wait)
            step()
