"""ImageNet weights by way of timm's hub: from its local cache, or downloaded where the hub can be reached."""

import logging
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from distracted.errors import WeightsError, first_line
from distracted.reach import answers

_log = logging.getLogger(__name__)

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
    """A hub repository's safetensors file on this disk, downloaded if need be.

    Args:
        repo: Such as "timm/resnet50.a1_in1k".

    Raises:
        WeightsError: not cached, and the hub cannot be reached or does not give the file.
    """
    if (path := cached_weights(repo)) is not None:
        return path
    reason = "the hub cannot be reached"
    if hub_reachable():
        _log.info("downloading %s from the hub", repo)
        try:
            return Path(hf_hub_download(repo, _FILENAME))
        except Exception as error:  # the hub client has changed its HTTP library, and so the errors, before
            reason = f"the hub does not give it ({first_line(error)})"
    raise WeightsError(f"ImageNet weights {repo}: {reason} and they are not in its cache")
