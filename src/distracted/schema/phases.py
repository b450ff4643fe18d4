"""The phases of a training: what learns, how long, at which rate."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, Tag, model_validator

from distracted.schema.base import Section

When = Literal["pretrained", "random", "always"]
OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop"]  # sgd has Nesterov momentum 0.9


class BlockRange(Section):
    """Some blocks or layers of a backbone; one of the three keys."""

    blocks: PositiveInt | None = None
    """Number of blocks."""
    layers: PositiveInt | None = None
    """Number of layers that have a weight matrix."""
    from_: str | None = Field(default=None, alias="from")
    """Name of the first block; in `unfreeze` only."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.blocks, self.layers, self.from_)) != 1:
            raise ValueError("expected one of {blocks: 2}, {layers: 20} and {from: <a block's name>}")
        return self


def _name_or_range(value: Any) -> str:
    return "part" if isinstance(value, dict | BlockRange) else "name"


_Name = Annotated[Literal["head", "all", "gradual"], Tag("name")]
Unfreeze = Annotated[_Name | Annotated[BlockRange, Tag("part")], Discriminator(_name_or_range)]


class FeaturesPhase(Section):
    """Kind `features`: a logistic regression on the frozen base's features; it becomes the head."""

    kind: Literal["features"]
    when: When = "pretrained"
    """Run the phase if the weights are pretrained, if they are random, or always."""
    c: PositiveFloat
    """scikit-learn's C, the inverse strength of the L2 penalty; features are scaled to unit variance."""
    max_iter: PositiveInt
    """Most iterations of the solver."""


class HeadPhase(Section):
    """Kind `head`: gradient descent on the head alone, on the frozen base's features of plain images."""

    kind: Literal["head"]
    when: When = "pretrained"
    """Run the phase if the weights are pretrained, if they are random, or always."""
    epochs: PositiveInt
    """Passes over the training side."""
    batch_size: PositiveInt
    """Images in a batch of this phase."""
    optimizer: OptimizerName
    """Optimiser; `sgd` has Nesterov momentum 0.9."""
    lr: PositiveFloat
    """Learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay of weight matrices."""


class TrainPhase(Section):
    """Kind `train`: gradient descent on augmented images."""

    kind: Literal["train"]
    when: When = "pretrained"
    """Run the phase if the weights are pretrained, if they are random, or always. With random weights nothing
    is frozen, whatever the phase says."""
    epochs: PositiveInt
    """Passes over the training side."""
    unfreeze: Unfreeze | None = None
    """What learns besides the head: `head` (nothing), `all`, `gradual` (one block after another, from the
    top), or the last part: {blocks: 2}, {layers: 30} or {from: layer4}."""
    freeze: BlockRange | None = None
    """Instead of `unfreeze`: the first part, which does not learn: {blocks: 2} or {layers: 8}."""
    batchnorm: Literal["frozen", "train"] = "frozen"
    """Whether BatchNorm's running statistics move."""
    optimizer: OptimizerName = "adamw"
    """Optimiser; `sgd` has Nesterov momentum 0.9."""
    lr: PositiveFloat
    """Highest learning rate of the base."""
    head_lr: PositiveFloat | None = None
    """Highest learning rate of the head; null: as `lr`."""
    depth_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Rate of the first block as a share of the last block's; the rates between rise by an equal factor."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay of weight matrices; norms and biases are not decayed."""
    schedule: Literal["one_cycle", "cosine", "constant", "plateau"] = "one_cycle"
    """Learning rate over the phase, after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps in which the rate rises."""
    reduce_after: PositiveInt = 2
    """For `plateau`: epochs without improvement before the rate falls."""
    reduce_to: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """For `plateau`: the share to which the rate falls."""
    patience: PositiveInt | None = None
    """Stop after so many epochs without improvement on training.holdout; null: never."""
    keep: Literal["last", "best"] = "last"
    """Whose weights the phase returns: the last epoch's, or the best's on training.holdout."""
    soup: PositiveInt = 1
    """Average the weights at the ends of so many last epochs."""
    augment: str | None = None
    """Augmentation policy of this phase; null: augment.policy."""

    @property
    def watches(self) -> bool:
        """Whether it watches a score during training, and so needs images that it does not train on."""
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
