"""Backbones by name: what is known of them beforehand, and their trunks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

import timm
from torch import nn

from distracted.errors import ConfigError, first_line
from distracted.models.baselines import OWN


@dataclass(frozen=True)
class Backbone:
    """What is known of a network before it is built.

    Attributes:
        source: Where its ImageNet weights lie: a repository of timm's hub, the address of a file, or None.
        image_size: Side in pixels; crop: share of the picture's sides seen; mean, std: of pixels in [0, 1].
        fixed_size: The network has to be told its input size when it is built (transformers).
    """

    name: str
    source: str | None
    image_size: int
    crop: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fixed_size: bool


def find_backbone(name: str) -> Backbone:
    """Look a network up by its name: one of `OWN`, or timm's.

    Raises:
        ConfigError: there is none of that name; names the nearest.
    """
    if own := OWN.get(name):
        return Backbone(name, own.source, own.image_size, own.crop, own.mean, own.std, fixed_size=False)
    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(get_close_matches(name, [*OWN, *timm.list_models()], n=3))
        raise ConfigError(
            f"model.backbone: timm has no network {name!r}; nearest: {near or 'see timm.list_models()'}"
        )
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ConfigError(f"model.backbone={name}: {error}") from error
    if cfg is None:
        raise ConfigError(f"model.backbone={name}: timm keeps no input size or normalisation for it")
    source = cfg.hf_hub_id
    if source and source.endswith("/"):
        source = f"{source}{cfg.architecture}.{cfg.tag}"
    size = int(cfg.input_size[1])
    return Backbone(
        name,
        source or cfg.url or None,
        size,
        cfg.crop_pct,
        tuple(cfg.mean),
        tuple(cfg.std),
        bool(cfg.fixed_input_size),
    )


def build_trunk(backbone: Backbone, size: int, *, dense_layers: bool) -> nn.Module:
    """A backbone without its classifier, with random weights, for images of `size` pixels.

    Args:
        dense_layers: Keep VGG's two dense layers of 4,096.
    """
    extra = {"img_size": size} if backbone.fixed_size else {}
    trunk: nn.Module = (
        OWN[backbone.name].build(size)
        if backbone.name in OWN
        else timm.create_model(backbone.name, pretrained=False, num_classes=0, **extra)
    )
    if hasattr(trunk, "pre_logits") and not dense_layers:
        trunk.pre_logits = nn.Identity()
    return trunk


@contextmanager
def refusing_size(backbone: Backbone, size: int) -> Iterator[None]:
    """Around building a network and its first pass: each architecture has its own way to refuse a size.

    Raises:
        ConfigError: the network does not take images of this size.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"model.image_size={size}: {backbone.name} does not take images of this size "
            f"({first_line(error)})"
        ) from error
