"""What a run is: one frozen, typed config, and the hash that stands for it."""

import re
from collections.abc import Mapping
from math import fsum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from distracted.errors import ConfigError
from distracted.files import sha256_json

#: Names of runs and data sets: each is a folder.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")

Probability = Annotated[float, Field(ge=0, le=1)]


def added_later(default: Any) -> Any:
    """A key that older configs lack; at its default it is left out of the dump, and so of the hash."""
    return Field(default=default, exclude_if=lambda value: value == default)


class Section(BaseModel):
    """A part of the config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True)


class HeadConfig(Section):
    """What sits on the backbone: its features, perhaps a dense layer, dropout, linear."""

    block: str = "last"  # the block whose output is taken; those above it are left out
    pooling: Literal["backbone", "flatten"] = "backbone"  # as the backbone pools, or the whole map flattened
    hidden: NonNegativeInt = 0  # units of a dense layer before the last one; 0: none
    dropout: Annotated[float, Field(ge=0, lt=1)]
    dense_layers: bool = False  # keep VGG's two dense layers of 4,096 before the head
    auxiliary: NonNegativeFloat = 0.0  # weight of the auxiliary heads' losses, in networks that have them


class ModelConfig(Section):
    """A backbone and where its weights come from."""

    backbone: str
    weights: str  # imagenet, none, auto, or a file
    weights_sha256: str | None = None  # of a file; filled in when the config is resolved
    image_size: Annotated[int, Field(ge=16)] | Literal["auto"]
    crop: Annotated[float, Field(gt=0, le=1)] | Literal["auto"]  # share of the picture's sides that is seen
    regions: tuple[str, ...] = ()  # of data.regions, seen beside the whole picture
    head: HeadConfig

    @field_validator("regions")
    @classmethod
    def _once(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(regions)) < len(regions):
            raise ValueError("a region is named twice; expected each once")
        return regions


class AugmentConfig(Section):
    """Policies by name; each is a list of albumentations transforms with their arguments."""

    # Pixels that pictures are reduced to, on their shorter side, before they are augmented; null: as they are
    short_side: PositiveInt | Literal["auto"] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    policy: str
    policies: dict[str, tuple[dict[str, dict[str, Any] | None], ...]]


class StitchConfig(Section):
    """Left part of one image beside the right part of another, of the same class and another subject."""

    prob: Probability = 0.0


class MixConfig(Section):
    """Two images in one, and their classes with them; mixup and cutmix."""

    prob: Probability = 0.0
    alpha: PositiveFloat  # the images' shares are drawn from Beta(alpha, alpha)


class MixingConfig(Section):
    """How probable it is that a training batch is mixed in each of the ways; the rest stays as it is."""

    stitch: StitchConfig = StitchConfig()
    mixup: MixConfig = MixConfig(alpha=0.2)
    cutmix: MixConfig = MixConfig(alpha=1.0)

    @property
    def probs(self) -> tuple[float, float, float]:
        """Of stitch, mixup and cutmix."""
        return self.stitch.prob, self.mixup.prob, self.cutmix.prob

    @property
    def on(self) -> bool:
        return any(self.probs)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (total := fsum(self.probs)) > 1:
            raise ValueError(
                "a batch is mixed in one way at most, and prob of stitch, mixup and cutmix add up to "
                f"{total:g}; expected at most 1"
            )
        return self


class BlockRange(Section):
    """Some of a backbone's blocks or layers, counted from one end or from a block on: one of the three."""

    blocks: PositiveInt | None = None
    layers: PositiveInt | None = None  # those with a weight matrix
    from_: str | None = Field(default=None, alias="from")  # a block's name; in `unfreeze` only

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.blocks, self.layers, self.from_)) != 1:
            raise ValueError("expected one of {blocks: 2}, {layers: 20} and {from: <a block's name>}")
        return self


def _name_or_part(value: Any) -> str:
    return "part" if isinstance(value, dict | BlockRange) else "name"


Unfreeze = Annotated[
    Annotated[Literal["head", "all", "gradual"], Tag("name")] | Annotated[BlockRange, Tag("part")],
    Discriminator(_name_or_part),
]
When = Literal["pretrained", "random", "always"]
OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop"]  # sgd is with Nesterov momentum 0.9


class FeaturesPhase(Section):
    """Logistic regression on the frozen base's features; it becomes the head."""

    kind: Literal["features"]
    when: When = "pretrained"
    c: PositiveFloat  # scikit-learn's inverse strength of the L2 penalty, features scaled to unit variance
    max_iter: PositiveInt


class HeadPhase(Section):
    """Some epochs of gradient descent on the head alone, from the frozen base's features of plain images."""

    kind: Literal["head"]
    when: When = "pretrained"
    epochs: PositiveInt
    batch_size: PositiveInt
    optimizer: OptimizerName
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0


class TrainPhase(Section):
    """Some epochs of gradient descent on augmented images."""

    kind: Literal["train"]
    when: When = "pretrained"
    epochs: PositiveInt
    unfreeze: Unfreeze | None = None  # what learns beside the head: the last of the backbone ...
    freeze: BlockRange | None = None  # ... or all but the first of it
    batchnorm: Literal["frozen", "train"] = "frozen"  # whether BatchNorm's statistics move
    optimizer: OptimizerName = "adamw"
    lr: PositiveFloat  # of the base
    head_lr: PositiveFloat | None = None  # null: as the base
    depth_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # the first block's rate as a share of the last's
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["one_cycle", "cosine", "constant", "plateau"] = "one_cycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the steps in which the rate rises
    reduce_after: PositiveInt = 2  # plateau: epochs without improvement before the rate falls ...
    reduce_to: Annotated[float, Field(gt=0, lt=1)] = 0.3  # ... to this share
    patience: PositiveInt | None = None  # stop after so many epochs without improvement
    keep: Literal["last", "best"] = "last"  # the epoch that goes on from here
    soup: PositiveInt = 1  # or the mean of the weights at the ends of so many last epochs
    augment: str | None = None  # another policy than augment.policy

    @property
    def watches(self) -> bool:
        """Whether it looks at a score while it trains, and so needs images that it does not train on."""
        return self.patience is not None or self.keep == "best" or self.schedule == "plateau"

    @property
    def trains_base(self) -> bool:
        return self.unfreeze != "head"

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.unfreeze is None and self.freeze is None:
            raise ValueError("expected unfreeze (head, all, gradual, or the last part) or freeze (the first)")
        if self.unfreeze is not None and self.freeze is not None:
            raise ValueError("unfreeze and freeze are one choice, and both are given; expected one of them")
        if self.freeze is not None and self.freeze.from_ is not None:
            raise ValueError("freeze takes {blocks: 2} or {layers: 10}; {from: ...} goes with unfreeze")
        if self.soup > self.epochs:
            raise ValueError(f"soup averages the last {self.soup} epochs of {self.epochs}; expected no more")
        if self.soup > 1 and self.keep == "best":
            raise ValueError("keep=best is one epoch and soup averages several; expected one of them")
        return self


Phase = Annotated[FeaturesPhase | HeadPhase | TrainPhase, Field(discriminator="kind")]


class TrainingConfig(Section):
    """What all phases share."""

    seed: NonNegativeInt
    batch_size: PositiveInt
    sampling: Literal["rows", "subjects"] = (
        "rows"  # an epoch draws each image once, or each subject equally often
    )
    num_folds: PositiveInt  # 1: a single split, a tenth of the subjects held out
    holdout: Annotated[float, Field(ge=0, le=0.5)]  # share of the training side that phases may watch
    leaky: bool  # phases watch the fold that is scored: LEAKY=1 alone sets it
    ema: Annotated[float, Field(ge=0, lt=1)]  # decay of the averaged weights; 0: the last weights predict
    tuned_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # the rest: before the base learned
    grad_clip: NonNegativeFloat  # norm; 0: off
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = (
        0.0  # share of a target that goes to all classes alike
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    loss: str = added_later("cross_entropy")  # a name in training/losses.py
    class_weights: Literal["none", "balanced"] | tuple[PositiveFloat, ...] = added_later("none")
    focal_gamma: NonNegativeFloat = added_later(2.0)  # exponent of the focal loss

    @model_validator(mode="after")
    def _gamma_of_focal(self) -> Self:
        if self.loss != "focal" and self.focal_gamma != 2.0:
            raise ValueError(f"focal_gamma goes with loss=focal, and loss is {self.loss}; expected 2.0")
        return self


class PseudoConfig(Section):
    """Pseudo-labels: test images learned from as a teacher sees them, beside the training side."""

    teachers: tuple[str, ...] = ()  # runs; fold k learns from what their fold-k networks predict
    teacher_weights: tuple[PositiveFloat, ...] = ()  # of their probabilities; none: all the same
    predictions: dict[str, str] = {}  # digest of each teacher's predictions; filled in when resolved
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0  # images whose best class has less are left out
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3  # of a batch's images
    weight: PositiveFloat = 1.0  # of such an image's loss, beside 1 of a labelled one
    own_fold: bool = False  # the held-out images join, labelled by the teacher

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError("a teacher is named twice; expected each once")
        if self.teacher_weights and len(self.teacher_weights) != len(self.teachers):
            raise ValueError(
                f"{len(self.teacher_weights)} teacher_weights for {len(self.teachers)} teachers; expected as "
                "many"
            )
        return self


class InferenceConfig(Section):
    """The forward passes over validation and test images."""

    batch_size: PositiveInt


class ColumnsConfig(Section):
    """Names of the columns in the training list; `group: null` says that there are no subjects."""

    img: str
    label: str
    group: str | None


def _check_box(value: Any) -> Any:
    try:
        x0, y0, x1, y1 = value
        fits = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    except (TypeError, ValueError):  # not four, or no numbers
        fits = False
    if not fits:
        raise ValueError(
            "expected [x0, y0, x1, y1] as shares of the picture's width and height, 0 <= x0 < x1 <= 1 and "
            "0 <= y0 < y1 <= 1"
        )
    return value


#: A part of a picture: left, top, right and bottom as shares of its width and height.
Box = Annotated[tuple[float, float, float, float], BeforeValidator(_check_box)]


class DataConfig(Section):
    """Where a competition lies and how its files are named."""

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]  # a folder's name in oof/, runs/ and cache/
    folder: Path = Field(exclude=True)  # a place on this machine, no part of what the run is
    drop_list: Path | None = Field(default=None, exclude=True)  # of images left out of training
    drops: str | None = Field(default=None, exclude_if=lambda value: value is None)  # its SHA-256
    kaggle: str | None = Field(default=None, exclude=True)  # the competition's name on Kaggle: a place, too
    num_test_subjects: PositiveInt | None = Field(default=None, exclude=True)  # the forecast's, no run's
    train_list: str = "driver_imgs_list.csv"
    train_images: str = "imgs/train"  # holds a folder for each class
    test_images: str = "imgs/test"
    sample_submission: str = "sample_submission.csv"
    columns: ColumnsConfig
    regions: dict[str, Box] = {}  # parts of the pictures that model.regions may name


class RuntimeConfig(Section):
    """How to run, not what: nothing here changes the hash."""

    device: str
    num_workers: Annotated[int, Field(ge=0)] | Literal["auto"]
    cache_gb: NonNegativeFloat | Literal["auto"]  # that decoded pictures may take; 0: none are kept
    tracking: Literal["wandb", "none"]
    project: str
    validate_every_epoch: bool
    num_cpus: PositiveInt | Literal["auto"]  # that a fold takes in a grid
    num_gpus: NonNegativeFloat | Literal["auto"]  # 0.5: two folds share a GPU
    checkpoint_steps: PositiveInt | Literal["auto"]  # between states that a killed training goes on from


class RunConfig(Section):
    """The whole config of a run."""

    recipe: str
    model: ModelConfig
    augment: AugmentConfig
    mixing: MixingConfig = MixingConfig()
    pseudo: PseudoConfig = PseudoConfig()
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
