"""ImageNet weights of timm's hub, or of a file elsewhere: from the local cache, or downloaded."""

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

_DIGEST = re.compile(r"-([0-9a-f]{8,})\.")  # in a file's name
_FILENAME = "model.safetensors"


def hub_reachable() -> bool:
    """Whether the hub answers within seconds; found out once a process.

    Left alone, the hub client retries for 48 seconds a model.
    """
    return _reachable(constants.ENDPOINT)


def _reachable(server: str) -> bool:
    return not constants.HF_HUB_OFFLINE and answers(server)


def cached_weights(repo: str) -> Path | None:
    """The weights of a hub repository in the hub's local cache, or None."""
    found = try_to_load_from_cache(repo, _FILENAME)
    return Path(found) if isinstance(found, str) else None


def short_name(source: str) -> str:
    """A hub repository as it is; of an address, the file's name."""
    return Path(urlsplit(source).path).name if "://" in source else source


def hub_weights(source: str) -> Path:
    """The file of a network's default weights on this disk, downloaded if need be.

    Args:
        source: A repository of timm's hub such as "timm/resnet50.a1_in1k", or the address of a file, as
            torchvision and the older of timm's networks have them.

    Raises:
        WeightsError: not cached, and the hub or server cannot be reached or does not give the file.
    """
    return _file_at(source) if "://" in source else _in_repository(source)


def _in_repository(repo: str) -> Path:
    if (path := cached_weights(repo)) is not None:
        return path
    if not hub_reachable():
        raise _not_there(repo, "the hub cannot be reached")
    _log.info("downloading %s from the hub", repo)
    try:
        return Path(hf_hub_download(repo, _FILENAME))
    except Exception as error:  # the hub client has changed its HTTP library, and so the errors, before
        raise _not_there(repo, f"the hub does not give it ({first_line(error)})") from error


def _file_at(url: str) -> Path:
    """A file in torch's own cache, checked against the digest in its name where there is one."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / short_name(url)
    found = _DIGEST.search(path.name)
    digest = found.group(1) if found else None
    if path.is_file():
        if digest and not sha256_file(path).startswith(digest):
            raise WeightsError(f"{path}: not what its name says (its digest differs); remove it")
        return path
    scheme, server = urlsplit(url)[:2]
    if not _reachable(f"{scheme}://{server}"):
        raise _not_there(path.name, f"{server} cannot be reached")
    _log.info("downloading %s from %s", path.name, server)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest, progress=sys.stderr.isatty())
    except Exception as error:  # urllib's many, and a digest that differs
        raise _not_there(path.name, f"{server} does not give it ({first_line(error)})") from error
    return path


def _not_there(name: str, reason: str) -> WeightsError:
    return WeightsError(f"ImageNet weights {name}: {reason} and they are not in the cache")
