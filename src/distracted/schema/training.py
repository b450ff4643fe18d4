"""What all phases of a training share, and pseudo-labels."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from distracted.schema.base import Section, added_later


class TrainingConfig(Section):
    """Settings of the whole training."""

    seed: NonNegativeInt
    """Everything random derives from the seed and the fold."""
    batch_size: PositiveInt
    """Images in a batch of a train phase."""
    sampling: Literal["rows", "subjects", "classes"] = "rows"
    """An epoch of a train phase draws each image once, or each subject or each class equally often. With
    `classes` predictions are for equally frequent classes; `make calibrate` moves them to the shares."""
    num_folds: PositiveInt
    """Folds by subject; 1: a single split with a tenth of the subjects held out."""
    holdout: Annotated[float, Field(ge=0, le=0.5)]
    """Share of the training side's subjects that phases may watch (patience, keep: best, plateau) and not
    train on."""
    leaky: bool
    """Phases watch the fold that is scored; only LEAKY=1 sets it."""
    ema: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the exponential moving average of the weights, which predicts; 0: off."""
    tuned_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Weight of the trained network in its average with the network before its base learned."""
    grad_clip: NonNegativeFloat
    """Gradient norm to clip at; 0: off."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target that is spread evenly over all classes, in train phases."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """`auto`: fp32 on a CPU, bf16 or fp16 on a GPU."""
    loss: str = added_later("cross_entropy")
    """Loss of train phases: `cross_entropy`, `focal` or `binary_cross_entropy`."""
    class_weights: Literal["none", "balanced"] | tuple[PositiveFloat, ...] = added_later("none")
    """Weights of the classes in the loss: all 1, inverse to the class shares, or a list in the order of the
    classes."""
    focal_gamma: NonNegativeFloat = added_later(2.0)
    """Exponent of the focal loss."""
    rates_for: PositiveInt | None = added_later(None)
    """Batch size that the rates of train phases are meant for: with a larger one they grow, linearly for
    sgd, with the square root for the others. null: they stay as they are."""

    @model_validator(mode="after")
    def _gamma_of_focal(self) -> Self:
        if self.loss != "focal" and self.focal_gamma != 2.0:
            raise ValueError(f"focal_gamma goes with loss=focal, and loss is {self.loss}; expected 2.0")
        return self


class PseudoConfig(Section):
    """Pseudo-labels: test images as further training images, with a teacher's probabilities as targets."""

    teachers: tuple[str, ...] = ()
    """Runs that teach; fold k learns from the predictions of their fold-k networks."""
    teacher_weights: tuple[PositiveFloat, ...] = ()
    """Weights of the teachers' probabilities; empty: all equal."""
    predictions: dict[str, str] = Field(default={})
    """Digest of each teacher's predictions; filled in when the config is resolved."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Images whose best class has a lower probability are left out."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of pseudo-labelled images in each batch."""
    weight: PositiveFloat = 1.0
    """Weight of a pseudo-labelled image's loss; a labelled one has 1."""
    own_fold: bool = False
    """Also learn from the fold's held-out images, labelled by the teacher."""

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError("a teacher is named twice; expected each once")
        num, wanted = len(self.teacher_weights), len(self.teachers)
        if num and num != wanted:
            raise ValueError(f"{num} teacher_weights for {wanted} teachers; expected as many")
        return self
