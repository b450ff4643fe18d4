"""ImageNet weight files from timm's hub or from a URL: taken from the local cache, or downloaded.

Whether a server can be reached is asked by the client that downloads, so that its proxies, certificates,
mirrors and tokens count. It is asked once a minute at most, with patience: left alone, the hub's client
repeats a failed question for up to minutes, for each model.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

import torch
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open

from distracted.errors import WeightsError, first_line
from distracted.files import atomic_path, sha256_file
from distracted.models.failed_requests import OFFLINE, explain

_log = logging.getLogger(__name__)

T = TypeVar("T")

_DIGEST = re.compile(r"-([0-9a-f]{8,})\.")  # torch puts the start of a file's SHA-256 in its name
_FILENAMES = ("model.safetensors", "pytorch_model.bin")  # the first that a repository has
_PAUSES = (1.0, 4.0)  # seconds before a question is repeated where a server is busy, slow or cut the line
_LONGEST_PAUSE = 60.0  # that a server may ask for
_SLOW = 3  # times the client's own patience, once it was too short
_CHUNK = 1 << 20
_NOT_CACHED = "they are not in the cache"
_PAUSE_OF_QUESTIONS = 60.0  # seconds in which a server that could not be reached is not asked again

_unreachable: dict[str, tuple[float, str]] = {}  # such servers: until when, by time.monotonic, and the reason


def short_name(source: str) -> str:
    """The file name of a URL; a hub repository's name as it is."""
    return Path(urlsplit(source).path).name if "://" in source else source


def hub_weights(source: str) -> tuple[Path, str]:
    """A network's default weights on this disk, downloaded if necessary, and their SHA-256.

    A file of the cache that is damaged is downloaded again.

    Args:
        source: A repository of timm's hub such as "timm/resnet50.a1_in1k", or the URL of a file, which
            torchvision's and some older timm networks have.

    Raises:
        WeightsError: not cached, and the hub or server is unreachable or the download fails; says why.
    """
    return _from_url(source) if "://" in source else _from_repository(source)


def _from_repository(repo: str) -> tuple[Path, str]:
    kept, where = _cached(repo), _NOT_CACHED
    if kept is not None:
        sha256, damage = _examine(kept)
        if not damage:
            return kept, sha256
        where = _say_damaged(kept, damage)
    try:
        path = _patiently(constants.ENDPOINT, lambda seconds: _download_from_hub(repo, seconds, damaged=kept))
    except WeightsError as error:
        raise WeightsError(f"ImageNet weights {repo}: {error} and {where}") from error
    sha256, damage = _examine(path)
    if damage:
        raise WeightsError(f"ImageNet weights {repo}: {constants.ENDPOINT} sent a damaged file ({damage})")
    return path, sha256


def _cached(repo: str) -> Path | None:
    files = (try_to_load_from_cache(repo, filename) for filename in _FILENAMES)
    return next((Path(file) for file in files if isinstance(file, str)), None)


def _examine(path: Path, digest: str = "") -> tuple[str, str]:
    """A cached file's SHA-256, and what is wrong with the file, or "".

    Args:
        digest: What the SHA-256 begins with, if that is known; of a large file of the hub it is in its link.
    """
    try:
        sha256 = sha256_file(path)
        name = path.readlink().name if path.is_symlink() else ""
    except OSError as error:
        return "", f"it cannot be read ({error.strerror})"
    if re.fullmatch(r"[0-9a-f]{64}", name):
        digest = name
    if not sha256.startswith(digest):
        return sha256, f"its SHA-256 does not begin with {digest}, as its name says"
    if digest or path.suffix != ".safetensors":
        return sha256, ""
    try:
        with safe_open(path, "pt"):
            return sha256, ""
    except Exception as error:  # on damaged files the reader raises many types
        return sha256, first_line(error)


def _say_damaged(path: Path, damage: str) -> str:
    """Warn of a damaged file of a cache; returns what to say about it if the download fails, too."""
    _log.warning("%s: damaged: %s; downloading it again", path, damage)
    return f"{path} is damaged: {damage}; remove it"


def _download_from_hub(repo: str, seconds: float, *, damaged: Path | None) -> Path:
    """Ask for a repository's weights once, and download them if the hub answers.

    Args:
        damaged: A damaged file of the cache, which is replaced.
    """
    for filename in _FILENAMES:
        try:
            about = get_hf_file_metadata(hf_hub_url(repo, filename), timeout=seconds)
            break
        except EntryNotFoundError:
            if filename == _FILENAMES[-1]:
                raise
    _log.info("downloading %s from %s", repo, constants.ENDPOINT)
    if damaged is not None and not damaged.is_symlink():  # the client would keep it in place of a link
        damaged.unlink(missing_ok=True)
    again = damaged is not None
    with _patience(seconds):
        try:
            return Path(hf_hub_download(repo, filename, force_download=again, etag_timeout=seconds))
        except Exception as error:
            if constants.HF_HUB_DISABLE_XET or getattr(about, "xet_file_data", None) is None:
                raise
            # Xet is a second client, with other settings for proxies and certificates.
            _log.info("the hub's Xet client fails (%s); downloading over HTTP", first_line(error))
            constants.HF_HUB_DISABLE_XET = True
            return Path(hf_hub_download(repo, filename, force_download=again, etag_timeout=seconds))


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Let the hub's client wait for data at least so long."""
    before = constants.HF_HUB_DOWNLOAD_TIMEOUT
    constants.HF_HUB_DOWNLOAD_TIMEOUT = max(before, int(seconds))
    try:
        yield
    finally:
        constants.HF_HUB_DOWNLOAD_TIMEOUT = before


def _from_url(url: str) -> tuple[Path, str]:
    """A file in torch's cache, checked against the digest in its name if there is one."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / short_name(url)
    match = _DIGEST.search(path.name)
    digest = match.group(1) if match else ""
    where = _NOT_CACHED
    if path.is_file():
        sha256, damage = _examine(path, digest)
        if not damage:
            return path, sha256
        where = _say_damaged(path, damage)
    scheme, server = urlsplit(url)[:2]
    _log.info("downloading %s from %s", path.name, server)
    try:
        if constants.HF_HUB_OFFLINE:
            raise WeightsError(f"{server} cannot be reached ({OFFLINE})")
        with atomic_path(path) as temporary:
            _patiently(f"{scheme}://{server}", lambda seconds: _download_rest(url, temporary, seconds))
            if not (sha256 := sha256_file(temporary)).startswith(digest):
                problem = f"invalid hash value: {sha256}, and its name says {digest}"
                raise WeightsError(f"the download from {server} failed ({problem})")
    except (WeightsError, OSError) as error:  # an OSError of the cache's folder
        reason = error if isinstance(error, WeightsError) else explain(error, url).reason
        raise WeightsError(f"ImageNet weights {path.name}: {reason} and {where}") from error
    return path, sha256


def _download_rest(url: str, path: Path, seconds: float) -> None:
    """Append what a file lacks; goes on where a connection is cut, as long as more arrives."""
    with path.open("ab") as file:
        while True:
            before = file.tell()
            try:
                if _append(url, file, seconds):
                    return
                problem: Exception = ConnectionError(f"the connection was cut after {file.tell()} bytes")
            except (OSError, HTTPException) as error:
                problem = error
            if file.tell() <= before:
                raise problem


def _append(url: str, file: BinaryIO, seconds: float) -> bool:
    """Append the rest of a file as far as it arrives; whether it is complete."""
    have = file.tell()
    headers = {"User-Agent": "torch.hub"} | ({"Range": f"bytes={have}-"} if have else {})
    opener = build_opener()  # with the proxies and certificates of the environment
    try:
        answer = opener.open(Request(url, headers=headers), timeout=seconds)
    except HTTPError as error:
        error.close()
        raise
    with answer:
        if have and answer.status != 206:  # the server sends the whole file
            file.truncate(0)
            file.seek(0)
            have = 0
        length = answer.headers.get("Content-Length")
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
    return length is None or file.tell() >= have + int(length)


def _patiently(server: str, attempt: Callable[[float], T]) -> T:
    """Call `attempt` with the seconds that it may wait for an answer; again where that may help.

    A server that cannot be reached is not asked again for a minute: other models need not wait for it, too.

    Raises:
        WeightsError: why it fails, as a part of a sentence.
    """
    until, reason = _unreachable.get(server, (0.0, ""))
    if time.monotonic() < until:
        raise WeightsError(reason)
    seconds = float(constants.HF_HUB_ETAG_TIMEOUT)
    for pause in (*_PAUSES, None):
        try:
            return attempt(seconds)
        except Exception as error:  # the hub's client has changed its HTTP library, and its errors, before
            failure = explain(error, server)
            if pause is None or not failure.may_pass or failure.retry_after > _LONGEST_PAUSE:
                if failure.of_server and not constants.HF_HUB_OFFLINE:
                    _unreachable[server] = (time.monotonic() + _PAUSE_OF_QUESTIONS, failure.reason)
                raise WeightsError(failure.reason) from error
            _log.info("%s; asking again", failure.reason)
            if failure.slow:
                seconds = _SLOW * float(constants.HF_HUB_ETAG_TIMEOUT)
            else:
                time.sleep(max(pause, failure.retry_after))
    raise AssertionError("not reached")
