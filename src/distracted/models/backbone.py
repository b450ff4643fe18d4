"""Backbones by name: their input settings, where their weights lie, and their trunks."""

import re
from dataclasses import dataclass
from difflib import get_close_matches

import timm
from torch import nn

from distracted.errors import ConfigError
from distracted.models.baselines import CUSTOM_TRUNKS

_HUB = re.compile(r"^(?:hf[-_]hub:)?(?:timm/)?", re.IGNORECASE)  # what may stand before a name


@dataclass(frozen=True)
class Backbone:
    """A network's properties before it is built, from timm's `PretrainedCfg` or `CUSTOM_TRUNKS`.

    Attributes:
        name: Its present name, with a tag if one was given.
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

    Args:
        name: As timm.create_model takes it: with or without a tag, an old name, or with "hf-hub:" before it;
            "timm/<name>", too.

    Raises:
        ConfigError: unknown name or tag; lists the closest names, or the tags that there are.
    """
    if custom := CUSTOM_TRUNKS.get(name):
        settings = custom.image_size, custom.crop, custom.mean, custom.std
        return Backbone(name, custom.source, *settings, custom.fixed_size)
    name = current_name(name)
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        every = [*CUSTOM_TRUNKS, *timm.list_models()]
        near = ", ".join(get_close_matches(architecture.lower(), every, n=3)) or "see timm.list_models()"
        raise ConfigError(f"model.backbone: timm has no network {name!r}; nearest: {near}")
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(_tags(architecture))
        raise ConfigError(
            f"model.backbone={name}: timm has no weights {tag!r} of {architecture}; there are: {tags}"
        ) from error
    if cfg is None:
        raise ConfigError(f"model.backbone={name}: timm has no input size or normalisation for it")
    source = cfg.hf_hub_id
    if source and source.endswith("/"):
        source = f"{source}{cfg.architecture}.{cfg.tag}"
    size, mean, std = int(cfg.input_size[1]), tuple(cfg.mean), tuple(cfg.std)
    source = source or cfg.url or None
    return Backbone(name, source, size, cfg.crop_pct, mean, std, bool(cfg.fixed_input_size))


def current_name(name: str) -> str:
    """Today's name of a network of timm, for an old name or one with the hub's prefix.

    Raises:
        ConfigError: a repository that is not timm's, or a network that timm has removed.
    """
    plain = _HUB.sub("", name)
    if ":" in plain or "/" in plain:
        raise ConfigError(
            f"model.backbone={name}: expected a network of timm; for weights of somebody else's, give "
            "timm's name of the network, and their file as model.weights"
        )
    architecture, dot, tag = plain.partition(".")
    renamed = timm.models.get_deprecated_models()
    if architecture not in renamed:
        return plain
    current: str | None = renamed[architecture]
    if current is None:
        raise ConfigError(f"model.backbone={name}: timm has removed this network")
    architecture, _, usual = current.partition(".")
    if not dot and usual not in _tags(architecture):  # timm has renamed some tags twice
        longer = [one for one in _tags(architecture) if one.startswith(f"{usual}_")]
        usual = longer[0] if len(longer) == 1 else usual
    return f"{architecture}.{tag or usual}".rstrip(".")


def _tags(architecture: str) -> list[str]:
    return [name.partition(".")[2] for name in timm.list_models(f"{architecture}.*", include_tags=True)]


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
