"""Submits a file to Kaggle exactly once.

Kaggle takes a file in three steps: it names an address, the content goes there, and a request makes the
content a submission, which counts. That request is repeated only if Kaggle's list of submissions shows that
it has not arrived.
"""

import io
import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from distracted.errors import SubmissionError
from distracted.kaggle_answers import UnreadableAnswer, describe, may_have_arrived, refusal, status_of
from distracted.kaggle_requests import Waits, ask, pause, storage_session, within
from distracted.submission.receipts import ReceiptFile, now

if TYPE_CHECKING:
    from kagglesdk import KaggleClient

_log = logging.getLogger(__name__)

#: Seconds after a request failed by which Kaggle surely lists what has arrived, and between two looks.
LISTED_SECONDS, LOOK_SECONDS = 20.0, 4.0
_PAGE_SIZE, _MAX_PAGES = 100, 50
_SLOWEST = 8_000  # bytes a second of the slowest line that an upload may take


def deliver(kaggle: "KaggleClient", path: Path, content: bytes, message: str, sent: ReceiptFile) -> int:
    """Go on sending a file from where its receipt says; returns Kaggle's number of the submission.

    Args:
        content: What `path` holds.
        message: The submission's description; the receipt's mark is added.

    Raises:
        SubmissionError: Kaggle refuses the file or does not answer.
    """
    try:
        return _deliver(kaggle, path, content, message, sent)
    except SubmissionError:
        raise
    except Exception as error:  # the client's errors have no common base
        reason = refusal(error, sent.receipt.competition)
        raise SubmissionError(f"{path} is valid, but could not be sent: {reason}") from error


def submissions(kaggle: "KaggleClient", competition: str, patience: float | None = None) -> Iterator[Any]:
    """Kaggle's records of the team's submissions, the newest first."""
    from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

    request = ApiListSubmissionsRequest()
    request.competition_name, request.page_size = competition, _PAGE_SIZE
    service = kaggle.competitions.competition_api_client
    for _ in range(_MAX_PAGES):
        page = ask(partial(service.list_submissions, request), "reading the submissions", patience=patience)
        for item in filter(None, page.submissions or []):
            item.ref = int(item.ref)  # JSON of large numbers is text
            yield item
        if not (page.submissions and page.next_page_token):
            return
        request.page_token = page.next_page_token


def _deliver(kaggle: "KaggleClient", path: Path, content: bytes, message: str, sent: ReceiptFile) -> int:
    if sent.is_lost and (ref := _find(kaggle, path, sent, sent.receipt.mark_of_content)):
        return ref
    is_old_upload, waits = bool(sent.receipt.token), None
    while True:
        if sent.receipt.requested and (ref := _find(kaggle, path, sent, sent.receipt.mark)):
            return ref
        if not sent.receipt.token:
            sent.note(token=_upload(kaggle, path, content, sent.receipt.competition))
        waits = waits or Waits()
        sent.note(requested=now())
        try:
            return _request(kaggle, path, message, sent)
        except Exception as error:
            if not may_have_arrived(error):
                sent.note(requested="")
            if is_old_upload and status_of(error) in (400, 404):  # Kaggle keeps an upload for some days
                is_old_upload = False
                sent.note(token="")
                continue
            try:
                waits.wait(error, f"sending {path.name}")
            except Exception:
                if sent.receipt.requested and (ref := _find(kaggle, path, sent, sent.receipt.mark)):
                    return ref
                raise


def _upload(kaggle: "KaggleClient", path: Path, content: bytes, competition: str) -> str:
    """Upload the file, which does not count yet; returns Kaggle's name for the content."""
    from kagglesdk.competitions.types.competition_api_service import ApiStartSubmissionUploadRequest

    request = ApiStartSubmissionUploadRequest()
    request.competition_name, request.file_name = competition, path.name
    request.content_length, request.last_modified_epoch_seconds = len(content), int(path.stat().st_mtime)

    def upload() -> str:
        place = kaggle.competitions.competition_api_client.start_submission_upload(request)
        if not (place.token and place.create_url):
            raise UnreadableAnswer("no address for the upload in it")
        with (
            storage_session() as storage,
            storage.put(place.create_url, data=io.BytesIO(content), stream=True) as answer,
        ):
            if answer.status_code not in (200, 201):
                raise requests.ConnectionError(f"the upload is incomplete ({answer.status_code})")
            if "html" in answer.headers.get("Content-Type", ""):
                raise UnreadableAnswer(describe(answer))
        return str(place.token)

    _log.info("sending %s (%.1f MB)", path, len(content) / 1e6)
    return ask(upload, f"sending {path.name}", more=len(content) / _SLOWEST)


def _request(kaggle: "KaggleClient", path: Path, message: str, sent: ReceiptFile) -> int:
    """Ask Kaggle to take the uploaded content as a submission; returns its number."""
    from kagglesdk.competitions.types.competition_api_service import ApiCreateSubmissionRequest

    request = ApiCreateSubmissionRequest()
    request.competition_name = sent.receipt.competition
    request.blob_file_tokens = sent.receipt.token
    request.submission_description = f"{message} {sent.receipt.mark}".strip()
    answer = within(partial(kaggle.competitions.competition_api_client.create_submission, request))
    if not answer.ref:
        reason = answer.message or "Kaggle names no submission"
        raise SubmissionError(f"{path} is valid, but could not be sent: {reason}")
    return int(answer.ref)


def _find(kaggle: "KaggleClient", path: Path, sent: ReceiptFile, mark: str) -> int:
    """The number of the newest submission with a mark in its description; 0 if none has arrived.

    Kaggle may still be at work when a gateway gives up on a request, so the time counts from now.
    """
    competition, end = sent.receipt.competition, time.monotonic() + LISTED_SECONDS
    _log.info("%s: looking on Kaggle whether it has arrived", path)
    while True:
        try:
            for item in submissions(kaggle, competition):
                if mark in item.description:
                    return int(item.ref)
        except Exception as error:
            unknown = "it may be on Kaggle already, whose list of submissions cannot be read"
            again = "the same command looks again, and sends it only if it is not there"
            reason = refusal(error, competition)
            raise SubmissionError(f"{path}: {unknown}: {reason}; {again}") from error
        if time.monotonic() >= end:
            return 0
        pause(LOOK_SECONDS)
