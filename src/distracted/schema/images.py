"""What happens to training images: augmentation, and mixing within a batch."""

from math import fsum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from distracted.schema.base import Probability, Section, added_later


class AugmentConfig(Section):
    """Augmentation of single images."""

    short_side: PositiveInt | Literal["auto"] | None = added_later(None)
    """Shorter side in pixels that images are reduced to, once, before they are augmented; `auto`: 8/7 of
    what the network sees; null: not reduced."""
    size: Annotated[int, Field(ge=16)] | Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] | None = (
        added_later(None)
    )
    """Side of the augmented images that training sees, in pixels or as a share of model.image_size; null: as
    model.image_size; `auto`: 0.875 of it if that is the network's own, which nobody chose. Smaller ones train
    faster, and make up for random crops, which show objects larger than evaluation does."""
    policy: str
    """Name of the policy that training uses; a phase may name another."""
    policies: dict[str, tuple[dict[str, dict[str, Any] | None], ...]]
    """Policies by name: lists of albumentations transforms with their arguments. There is no flip: left and
    right hand are different classes."""


class StitchConfig(Section):
    """Stitch: the left part of one image, the right part of another of its class and another subject."""

    prob: Probability = 0.0
    """Probability that a batch is stitched."""


class MixConfig(Section):
    """Mixup or cutmix: two images in one, with both classes as targets."""

    prob: Probability = 0.0
    """Probability that a batch is mixed this way."""
    alpha: PositiveFloat
    """The images' shares are drawn from Beta(alpha, alpha)."""


class MixingConfig(Section):
    """Mixing of images within a batch, in phases of kind train; a batch is mixed in one way at most."""

    stitch: StitchConfig = StitchConfig()
    mixup: MixConfig = MixConfig(alpha=0.2)
    cutmix: MixConfig = MixConfig(alpha=1.0)

    @property
    def probs(self) -> tuple[float, float, float]:
        """Probabilities of stitch, mixup and cutmix."""
        return self.stitch.prob, self.mixup.prob, self.cutmix.prob

    @property
    def on(self) -> bool:
        return any(self.probs)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (total := fsum(self.probs)) > 1:
            several = "a batch is mixed in one way at most, and prob of stitch, mixup and cutmix add up to"
            raise ValueError(f"{several} {total:g}; expected at most 1")
        return self
