"""How to run: device, workers, cache, tracking."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from distracted.schema.base import Section


class InferenceConfig(Section):
    """Forward passes over validation and test images."""

    batch_size: PositiveInt = 32
    """Only for runs of earlier versions, whose hash it is part of: runtime.prediction_batch_size counts."""


class RuntimeConfig(Section):
    """How to run, not what: nothing here changes the hash."""

    device: str
    """`auto` (CUDA, else MPS, else the CPU), cpu, cuda, cuda:1 (that GPU alone) or mps."""
    num_workers: Annotated[int, Field(ge=0)] | Literal["auto"]
    """Processes that load images; `auto`: with a GPU one a core, at most 16. It changes no result."""
    prediction_batch_size: PositiveInt | Literal["auto"]
    """Images in a batch of predictions; `auto`: 32 on a CPU, 256 elsewhere. Where memory runs out, less."""
    cache_gb: NonNegativeFloat | Literal["auto"]
    """Disk space for decoded training images, in GB; `auto`: half of what is free; 0: no cache."""
    cache_dir: str | None = None
    """Folder of the cache, which may be deleted at any time; a relative one is below the workspace. null:
    cache/ in the workspace."""
    max_megapixels: PositiveFloat = 100.0
    """Largest image that is read, in millions of pixels, each of which takes three bytes and more once
    decoded; larger ones are an error that names them."""
    tracking: Literal["wandb", "none"]
    """Where metrics go in addition to metrics.jsonl."""
    project: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\\#?%:]+$")] | None
    """The W&B project. null: WANDB_PROJECT or W&B's settings file; where they name none, `distracted`."""
    validate_every_epoch: bool
    """Score the held-out fold after each epoch, for information."""
    num_cpus: PositiveInt | Literal["auto"]
    """Cores that a fold takes in a grid."""
    num_gpus: NonNegativeFloat | Literal["auto"]
    """GPUs that a fold takes in a grid; 0.5: two folds share one."""
    checkpoint_steps: PositiveInt | Literal["auto"]
    """Steps between checkpoints; `auto`: as often as 1% of the time allows."""
