"""What a run is: one frozen, typed config, and the hash that stands for it.

The docstring of each key is its documentation: `make docs` writes docs/config.md from them.
"""

from distracted.schema.base import NAME, Probability, Section, added_later, check_name
from distracted.schema.data import Box, ColumnsConfig, DataConfig
from distracted.schema.images import AugmentConfig, MixConfig, MixingConfig, StitchConfig
from distracted.schema.model import HeadConfig, ModelConfig
from distracted.schema.phases import (
    BlockRange,
    FeaturesPhase,
    HeadPhase,
    OptimizerName,
    Phase,
    TrainPhase,
    Unfreeze,
    When,
)
from distracted.schema.run import RunConfig, hash_config
from distracted.schema.runtime import InferenceConfig, RuntimeConfig
from distracted.schema.training import PseudoConfig, TrainingConfig

__all__ = [
    "NAME",
    "AugmentConfig",
    "BlockRange",
    "Box",
    "ColumnsConfig",
    "DataConfig",
    "FeaturesPhase",
    "HeadConfig",
    "HeadPhase",
    "InferenceConfig",
    "MixConfig",
    "MixingConfig",
    "ModelConfig",
    "OptimizerName",
    "Phase",
    "Probability",
    "PseudoConfig",
    "RunConfig",
    "RuntimeConfig",
    "Section",
    "StitchConfig",
    "TrainPhase",
    "TrainingConfig",
    "Unfreeze",
    "When",
    "added_later",
    "check_name",
    "hash_config",
]
