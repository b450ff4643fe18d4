"""The network: a backbone and its head."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, field_validator

from distracted.schema.base import Section


class HeadConfig(Section):
    """The head on the backbone: pooled features, perhaps a dense layer, dropout, a linear layer."""

    block: str = "last"
    """Block whose output the head takes; those above it are left out (`make freeze` lists the blocks)."""
    pooling: Literal["backbone", "flatten"] = "backbone"
    """Pool as the backbone does, or flatten the whole feature map."""
    hidden: NonNegativeInt = 0
    """Units of a dense layer before the last layer; 0: none."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout before the last layer."""
    dense_layers: bool = False
    """Keep VGG's two dense layers of 4,096 units before the head."""
    auxiliary: NonNegativeFloat = 0.0
    """Weight of the auxiliary heads' losses, in networks that have such heads (inception_v3, googlenet)."""


class ModelConfig(Section):
    """The backbone, its weights and its input."""

    backbone: str
    """A timm network, or one of googlenet, mlp, cnn, majority. timm's old names become today's."""
    weights: str
    """`imagenet` (the hub), `none` (random), a weights file, `auto` (the hub, else an installed package, else
    an error), or `auto_or_none` (as `auto`, else random)."""
    weights_sha256: str | None = None
    """SHA-256 of a weights file; filled in when the config is resolved."""
    image_size: Annotated[int, Field(ge=16)] | Literal["auto"]
    """Side of the square input in pixels; `auto`: the backbone's own."""
    crop: Annotated[float, Field(gt=0, le=1)] | Literal["auto"]
    """Central share of each side of the image that the network sees; `auto`: the backbone's own."""
    regions: tuple[str, ...] = ()
    """Names of data.regions that the network sees in addition to the whole image, with shared weights."""
    head: HeadConfig

    @field_validator("regions")
    @classmethod
    def _once(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(regions)) < len(regions):
            raise ValueError("a region is named twice; expected each once")
        return regions
