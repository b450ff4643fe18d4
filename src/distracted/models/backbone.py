"""Backbones by name: their input settings, where their weights lie, and their trunks."""

from dataclasses import dataclass
from difflib import get_close_matches

import timm
from torch import nn

from distracted.errors import ConfigError
from distracted.models.baselines import CUSTOM_TRUNKS


@dataclass(frozen=True)
class Backbone:
    """A network's properties before it is built, from timm's `PretrainedCfg` or `CUSTOM_TRUNKS`.

    Attributes:
        source: Default ImageNet weights: a repository on timm's hub, a file's URL, or None.
        image_size: Default side in pixels.
        crop: Share of the image's sides that evaluation sees (timm's `crop_pct`).
        mean, std: Normalisation of RGB pixels in [0, 1].
        fixed_size: Whether the input size must be given at construction (transformers).
    """

    name: str
    source: str | None
    image_size: int
    crop: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fixed_size: bool


def find_backbone(name: str) -> Backbone:
    """Look up a network of `CUSTOM_TRUNKS` or of timm by name.

    Raises:
        ConfigError: unknown name; lists the closest ones.
    """
    if custom := CUSTOM_TRUNKS.get(name):
        settings = custom.image_size, custom.crop, custom.mean, custom.std
        return Backbone(name, custom.source, *settings, fixed_size=False)
    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(get_close_matches(name, [*CUSTOM_TRUNKS, *timm.list_models()], n=3))
        near = near or "see timm.list_models()"
        raise ConfigError(f"model.backbone: timm has no network {name!r}; nearest: {near}")
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ConfigError(f"model.backbone={name}: {error}") from error
    if cfg is None:
        raise ConfigError(f"model.backbone={name}: timm has no input size or normalisation for it")
    source = cfg.hf_hub_id
    if source and source.endswith("/"):
        source = f"{source}{cfg.architecture}.{cfg.tag}"
    size, mean, std = int(cfg.input_size[1]), tuple(cfg.mean), tuple(cfg.std)
    source = source or cfg.url or None
    return Backbone(name, source, size, cfg.crop_pct, mean, std, bool(cfg.fixed_input_size))


def build_trunk(backbone: Backbone, size: int, *, dense_layers: bool) -> nn.Module:
    """Build a backbone without its classifier, with random weights, for square images of `size` pixels.

    Args:
        dense_layers: Keep VGG's two dense layers of 4,096 units.
    """
    trunk: nn.Module
    if backbone.name in CUSTOM_TRUNKS:
        trunk = CUSTOM_TRUNKS[backbone.name].build(size)
    else:
        extra = {"img_size": size} if backbone.fixed_size else {}
        trunk = timm.create_model(backbone.name, pretrained=False, num_classes=0, **extra)
    if hasattr(trunk, "pre_logits") and not dense_layers:
        trunk.pre_logits = nn.Identity()
    return trunk
