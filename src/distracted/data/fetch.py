"""Fetch a competition's archive from Kaggle; an interrupted download continues where it ended.

Kaggle answers with an address that expires, so each continuation requests a new one. The answer's validator
(ETag or date), size and range show whether the server still has the file whose first bytes are on disk.
Kaggle's own client continues downloads too, but appends error pages.
"""

import logging
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import requests
import urllib3
from pydantic import TypeAdapter

from distracted.errors import DataError
from distracted.files import write_json
from distracted.kaggle_answers import UnreadableAnswer, describe, refusal, status_of
from distracted.kaggle_requests import Waits, session_of, within
from distracted.progress import Progress, silent

if TYPE_CHECKING:
    from kagglesdk import KaggleClient

_log = logging.getLogger(__name__)

_CHUNK, _MEGABYTE = 1 << 16, 1_000_000
#: Seconds of retries once there are bytes; each megabyte gained resets them.
PATIENCE = 300.0
#: A connection that delivers fewer bytes than this in so many seconds is given up.
STALL_BYTES, STALL_SECONDS = 60_000, 60.0


@dataclass(frozen=True)
class _State:
    """The server's file whose first bytes are on disk.

    Attributes:
        validator: ETag or Last-Modified of the server's file; "" if it sends neither.
        size: Bytes of the whole file; 0 if unknown.
    """

    competition: str
    validator: str = ""
    size: int = 0
    is_complete: bool = False


_STATE = TypeAdapter(_State)


class _ChangedError(Exception):
    """The server's file is not the one whose first bytes are on disk."""


class Archive:
    """An archive, perhaps incomplete; a JSON file next to it describes the server's file."""

    def __init__(self, path: Path, competition: str) -> None:
        self.path, self._json = path, path.with_suffix(".json")
        self.state, self._is_begun = _State(competition), False
        with suppress(OSError, ValueError):
            state = _STATE.validate_json(self._json.read_bytes(), strict=True)
            if state.competition == competition and path.is_file():
                self.state, self._is_begun = state, True

    @property
    def length(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size if self._is_begun else 0

    def begin(self, validator: str, size: int) -> None:
        """Begin an archive at its first byte."""
        self.discard()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self._note(_State(self.state.competition, validator, size))

    def complete(self) -> None:
        self._note(_State(self.state.competition, self.state.validator, self.length, is_complete=True))

    def discard(self) -> None:
        self._json.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self.state, self._is_begun = _State(self.state.competition), False

    def _note(self, state: _State) -> None:
        write_json(self._json, asdict(state))
        self.state, self._is_begun = state, True


def fetch(kaggle: "KaggleClient", archive: Archive, *, progress: Progress = silent) -> None:
    """Complete an archive from Kaggle; cut connections are continued.

    Raises:
        DataError: Kaggle refuses or cannot be reached for minutes, or the disk is full. Bytes are kept.
    """
    waits, best = Waits(PATIENCE if archive.length else None), archive.length
    while not archive.state.is_complete:
        try:
            if archive.length > archive.state.size > 0:
                archive.discard()
            if not archive.length == archive.state.size > 0:
                _continue(kaggle, archive, progress)
            archive.complete()
        except _ChangedError:
            _log.warning("%s has changed on Kaggle; its download begins again", archive.state.competition)
            archive.discard()
        except DataError:
            raise
        except Exception as error:  # those of requests and of the client have no common base
            if status_of(error) == 416 and archive.length:  # the server's file is shorter than what is here
                archive.discard()
                continue
            if archive.length >= best + (_MEGABYTE if best else 1):
                waits, best = Waits(PATIENCE), archive.length
            try:
                waits.wait(error, f"downloading {archive.state.competition}")
            except Exception:
                raise DataError(_failed(error, archive)) from error


def _failed(error: Exception, archive: Archive) -> str:
    competition = archive.state.competition
    message = f"{competition} cannot be downloaded: {refusal(error, competition)}"
    return (
        f"{message}; {_size(archive.length)} are kept, the same command goes on"
        if archive.length
        else message
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _continue(kaggle: "KaggleClient", archive: Archive, progress: Progress) -> None:
    """Request the missing bytes and append them."""
    from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

    request = ApiDownloadDataFilesRequest()
    request.competition_name = archive.state.competition
    session = session_of(kaggle)
    session.stream = True  # old versions of the client would read the archive into memory
    headers = {"Accept-Encoding": "identity"}
    if archive.length:
        headers["Range"] = f"bytes={archive.length}-"
        if archive.state.validator:
            headers["If-Range"] = archive.state.validator
    for name in ("Range", "If-Range"):
        session.headers.pop(name, None)
    session.headers.update(headers)  # they follow the redirect to the storage, the credentials do not
    with within(partial(kaggle.competitions.competition_api_client.download_data_files, request)) as response:
        chunks = _chunks(response)
        first = next(chunks, b"")
        _place(response, first, archive)
        _receive(chain([first], chunks), archive, progress)


def _place(response: requests.Response, first: bytes, archive: Archive) -> None:
    """Check that an answer, whose first bytes are `first`, continues the archive, or begin a new one."""
    headers, length = response.headers, archive.length
    kind, encoding = headers.get("Content-Type", ""), headers.get("Content-Encoding", "").lower()
    if "html" in kind or "json" in kind:
        raise UnreadableAnswer(describe(response))
    if encoding not in ("", "identity"):
        raise UnreadableAnswer(f"compressed with {encoding}, {describe(response)}")
    if not first:  # a connection that is cut within the header looks so, and the header is wrong then
        raise requests.ConnectionError("no bytes")
    etag = headers.get("ETag", "")
    validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")  # a weak ETag is no proof
    size = int(headers["Content-Length"]) if headers.get("Content-Length", "").isdecimal() else 0
    if response.status_code == 206:
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", "").strip())
        start, end, size = map(int, span.groups()) if span else (0, 0, 0)
        if end != size - 1 or not (length or start == 0):
            raise UnreadableAnswer("a part of an archive that was not asked for")
        if length:
            if (
                start != length
                or archive.state.size not in (0, size)
                or validator not in (archive.state.validator, "")
            ):
                raise _ChangedError
            return
    if not first.startswith(b"PK"[: len(first)]):
        raise UnreadableAnswer("not a zip archive")
    if length:
        _log.warning("Kaggle's storage sends the whole archive again: %s are of no use", _size(length))
    archive.begin(validator, size)


def _receive(chunks: Iterator[bytes], archive: Archive, progress: Progress) -> None:
    """Append the bytes as they arrive; they survive a kill."""
    length, size = archive.length, archive.state.size
    here = f" ({_size(length)} are here)" if length else ""
    label = f"downloading {archive.state.competition}{here}"
    _warn_of_full_disk(archive)
    try:
        with (
            progress(label, total=max(size - length, 0) // _MEGABYTE + 1, unit="MB") as step,
            archive.path.open("ab") as file,
        ):
            for chunk in chunks:
                file.write(chunk)
                if megabytes := (length + len(chunk)) // _MEGABYTE - length // _MEGABYTE:
                    step(megabytes)
                length += len(chunk)
            file.flush()
            os.fsync(file.fileno())
    except requests.RequestException:
        raise
    except OSError as error:
        kept = f"{_size(archive.length)} are kept; make room, the same command goes on"
        raise DataError(f"{archive.path}: cannot be written ({error.strerror}); {kept}") from error
    if length != size if size else not zipfile.is_zipfile(archive.path):
        raise requests.ConnectionError(f"ended at byte {length} of {size or '?'}")


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the bytes of an answer; a connection that stalls is an error."""
    start, received = time.monotonic(), 0
    read = getattr(response.raw, "read1", response.raw.read)  # urllib3 of 2023 has no read1
    while True:
        try:
            chunk = read(_CHUNK)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise requests.ConnectionError(error) from error
        if not chunk:
            return
        yield chunk
        received += len(chunk)
        if (now := time.monotonic()) - start > STALL_SECONDS:
            if received < STALL_BYTES:
                raise requests.ReadTimeout(f"{received} bytes in {now - start:.0f} s")
            start, received = now, 0


def _warn_of_full_disk(archive: Archive) -> None:
    """Unpacked, the archive needs its size once more: photographs are compressed already."""
    free, needed = shutil.disk_usage(archive.path.parent).free, 2 * archive.state.size - archive.length
    if free < needed:
        place = archive.path.parent
        _log.warning("%s: %s are free, about %s are needed", place, _size(free), _size(needed))
