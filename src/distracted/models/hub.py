"""ImageNet weights of timm's hub or torchvision's: from the local cache, or downloaded where it answers."""

import logging
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from distracted.errors import WeightsError, first_line
from distracted.files import sha256_file
from distracted.reach import answers

_log = logging.getLogger(__name__)

#: Prefix of weights that torchvision alone has.
TORCHVISION = "torchvision/"
_TORCHVISION_HOST = "https://download.pytorch.org/models/"
_FILENAME = "model.safetensors"


def hub_reachable() -> bool:
    """Whether the hub answers within seconds; found out once a process.

    Left alone, the hub client retries for 48 seconds a model.
    """
    return not constants.HF_HUB_OFFLINE and answers(constants.ENDPOINT)


def cached_weights(repo: str) -> Path | None:
    """The weights of a hub repository in the hub's local cache, or None."""
    found = try_to_load_from_cache(repo, _FILENAME)
    return Path(found) if isinstance(found, str) else None


def hub_weights(repo: str) -> Path:
    """The file of a network's default weights on this disk, downloaded if need be.

    Args:
        repo: A repository of timm's hub such as "timm/resnet50.a1_in1k", or "torchvision/<file>".

    Raises:
        WeightsError: not cached, and the hub cannot be reached or does not give the file.
    """
    if repo.startswith(TORCHVISION):
        return _torchvision_weights(repo)
    if (path := cached_weights(repo)) is not None:
        return path
    if not hub_reachable():
        raise _not_there(repo, "the hub cannot be reached")
    _log.info("downloading %s from the hub", repo)
    try:
        return Path(hf_hub_download(repo, _FILENAME))
    except Exception as error:  # the hub client has changed its HTTP library, and so the errors, before
        raise _not_there(repo, f"the hub does not give it ({first_line(error)})") from error


def _torchvision_weights(repo: str) -> Path:
    """torchvision's own file in torch's own cache, checked against the digest in its name."""
    file = repo.removeprefix(TORCHVISION)
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    digest = file.rpartition("-")[2].partition(".")[0]
    if path.is_file():
        if not sha256_file(path).startswith(digest):
            raise WeightsError(f"{path}: not what its name says (its digest differs); remove it")
        return path
    if constants.HF_HUB_OFFLINE or not answers(_TORCHVISION_HOST):
        raise _not_there(repo, "torchvision's server cannot be reached")
    _log.info("downloading %s", repo)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(_TORCHVISION_HOST + file, str(path), digest, progress=False)
    except Exception as error:  # urllib's many, and a digest that differs
        raise _not_there(repo, f"torchvision's server does not give it ({first_line(error)})") from error
    return path


def _not_there(repo: str, reason: str) -> WeightsError:
    return WeightsError(f"ImageNet weights {repo}: {reason} and they are not in its cache")
