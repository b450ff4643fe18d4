"""ImageNet weight files from timm's hub or from a URL: taken from the local cache, or downloaded."""

import logging
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from distracted.errors import WeightsError, first_line
from distracted.files import sha256_file
from distracted.reach import answers

_log = logging.getLogger(__name__)

_DIGEST = re.compile(r"-([0-9a-f]{8,})\.")  # torch puts the start of a file's SHA-256 in its name
_FILENAME = "model.safetensors"


def reachable(server: str) -> bool:
    """Whether a server answers within seconds; the hub's client would retry for 48 seconds per model."""
    return not constants.HF_HUB_OFFLINE and answers(server)


def short_name(source: str) -> str:
    """The file name of a URL; a hub repository's name as it is."""
    return Path(urlsplit(source).path).name if "://" in source else source


def hub_weights(source: str) -> Path:
    """Path of a network's default weights on this disk, downloaded if necessary.

    Args:
        source: A repository of timm's hub such as "timm/resnet50.a1_in1k", or the URL of a file, which
            torchvision's and some older timm networks have.

    Raises:
        WeightsError: not cached, and the hub or server is unreachable or the download fails.
    """
    return _from_url(source) if "://" in source else _from_repository(source)


def _from_repository(repo: str) -> Path:
    if isinstance(path := try_to_load_from_cache(repo, _FILENAME), str):
        return Path(path)
    if not reachable(constants.ENDPOINT):
        raise _unavailable(repo, "the hub cannot be reached")
    _log.info("downloading %s from the hub", repo)
    try:
        return Path(hf_hub_download(repo, _FILENAME))
    except Exception as error:  # the client has changed its HTTP library, and its exceptions, before
        raise _unavailable(repo, f"the download from the hub failed ({first_line(error)})") from error


def _from_url(url: str) -> Path:
    """A file in torch's cache, checked against the digest in its name if there is one."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / short_name(url)
    match = _DIGEST.search(path.name)
    digest = match.group(1) if match else None
    if path.is_file():
        if digest and not sha256_file(path).startswith(digest):
            expected = f"its SHA-256 does not begin with {digest}, as its name says"
            raise WeightsError(f"{path}: damaged: {expected}; remove it")
        return path
    scheme, server = urlsplit(url)[:2]
    if not reachable(f"{scheme}://{server}"):
        raise _unavailable(path.name, f"{server} cannot be reached")
    _log.info("downloading %s from %s", path.name, server)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest, progress=sys.stderr.isatty())
    except Exception as error:  # urllib raises many types; a wrong digest is a RuntimeError
        raise _unavailable(path.name, f"the download from {server} failed ({first_line(error)})") from error
    return path


def _unavailable(name: str, reason: str) -> WeightsError:
    return WeightsError(f"ImageNet weights {name}: {reason} and they are not in the cache")
