"""What a run is: one frozen, typed config, and the hash that stands for it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from distracted.errors import ConfigError
from distracted.files import sha256_json

#: Names of runs and data sets: each is a folder.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


class Section(BaseModel):
    """A part of the config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HeadConfig(Section):
    """Global pooling, dropout, linear."""

    dropout: Annotated[float, Field(ge=0, lt=1)]
    dense_layers: bool = False  # keep VGG's two dense layers of 4,096 before the head


class ModelConfig(Section):
    """A timm backbone and where its weights come from."""

    backbone: str
    weights: str  # imagenet, none, auto, or a file
    weights_sha256: str | None = None  # of a file; filled in when the config is resolved
    image_size: Annotated[int, Field(ge=16)] | Literal["auto"]
    crop: Annotated[float, Field(gt=0, le=1)] | Literal["auto"]  # share of the picture's sides that is seen
    head: HeadConfig


class AugmentConfig(Section):
    """Policies by name; each is a list of albumentations transforms with their arguments."""

    policy: str
    policies: dict[str, tuple[dict[str, dict[str, Any] | None], ...]]


class BlocksToLearn(Section):
    """The last `blocks` blocks of the backbone learn."""

    blocks: PositiveInt


When = Literal["pretrained", "random", "always"]


class FeaturesPhase(Section):
    """Logistic regression on the frozen base's pooled features; it becomes the head's starting point."""

    kind: Literal["features"]
    when: When = "pretrained"
    c: PositiveFloat  # scikit-learn's inverse strength of the L2 penalty, features scaled to unit variance
    max_iter: PositiveInt


class TrainPhase(Section):
    """Some epochs of gradient descent on augmented images."""

    kind: Literal["train"]
    when: When = "pretrained"
    epochs: PositiveInt
    unfreeze: Literal["head", "all"] | BlocksToLearn
    batchnorm: Literal["frozen", "train"] = "frozen"  # whether BatchNorm's statistics move
    optimizer: Literal["adamw", "sgd", "rmsprop"] = "adamw"  # sgd is with Nesterov momentum 0.9
    lr: PositiveFloat  # of the base
    head_lr: PositiveFloat | None = None  # null: as the base
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the steps in which the rate rises
    augment: str | None = None  # another policy than augment.policy


Phase = Annotated[FeaturesPhase | TrainPhase, Field(discriminator="kind")]


class TrainingConfig(Section):
    """What all phases share."""

    seed: NonNegativeInt
    batch_size: PositiveInt
    num_folds: Annotated[int, Field(ge=2)]
    ema: Annotated[float, Field(ge=0, lt=1)]  # decay of the averaged weights; 0: the last weights predict
    grad_clip: NonNegativeFloat  # norm; 0: off
    precision: Literal["auto", "fp32", "bf16", "fp16"]


class InferenceConfig(Section):
    """The forward passes over validation and test images."""

    batch_size: PositiveInt


class ColumnsConfig(Section):
    """Names of the columns in the training list; `group: null` says that there are no subjects."""

    img: str
    label: str
    group: str | None


class DataConfig(Section):
    """Where a competition lies and how its files are named."""

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]  # a folder's name in oof/, runs/ and cache/
    folder: Path = Field(exclude=True)  # a place on this machine, no part of what the run is
    kaggle: str | None = Field(default=None, exclude=True)  # the competition's name on Kaggle: a place, too
    train_list: str = "driver_imgs_list.csv"
    train_images: str = "imgs/train"  # holds a folder for each class
    test_images: str = "imgs/test"
    sample_submission: str = "sample_submission.csv"
    columns: ColumnsConfig


class RuntimeConfig(Section):
    """How to run, not what: nothing here changes the hash."""

    device: str
    num_workers: Annotated[int, Field(ge=0)] | Literal["auto"]
    tracking: Literal["wandb", "none"]
    project: str
    validate_every_epoch: bool


class RunConfig(Section):
    """The whole config of a run."""

    recipe: str
    model: ModelConfig
    augment: AugmentConfig
    phases: dict[str, Phase]
    training: TrainingConfig
    inference: InferenceConfig
    data: DataConfig
    runtime: RuntimeConfig

    def resolved(self) -> dict[str, Any]:
        """What the run is, as plain JSON values: all but `runtime`; phases stay in order."""
        return self.model_dump(mode="json", exclude={"runtime"})

    @property
    def hash(self) -> str:
        """Hex SHA-256 of `resolved`."""
        return hash_config(self.resolved())


def hash_config(content: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a resolved config's JSON values; the order of the phases counts."""
    ordered = {"phases": list(content["phases"].items())} if "phases" in content else {}
    return sha256_json({**content, **ordered})


def check_name(name: str, what: str) -> str:
    """Return a name that is safe as a folder's name, or raise ConfigError."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r}: expected letters, digits and . _ + - only, not starting with a dot or a dash"
        )
    return name
