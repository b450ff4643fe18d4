"""What a run is: one frozen, typed config, and the hash that stands for it.

The docstring of each key is its documentation: `make docs` writes docs/config.md from them.
"""

from distracted.schema.base import NAME, Section, added_later, check_name, safe_name
from distracted.schema.data import Box, ColumnsConfig, DataConfig, MetricName, SubmissionKind
from distracted.schema.differences import list_differences
from distracted.schema.images import MixingConfig
from distracted.schema.model import HeadConfig, ModelConfig
from distracted.schema.phases import BlockRange, FeaturesPhase, HeadPhase, OptimizerName, Phase, TrainPhase
from distracted.schema.run import RunConfig, hash_config
from distracted.schema.runtime import RuntimeConfig
from distracted.schema.training import PseudoConfig, TrainingConfig

__all__ = [
    "NAME",
    "BlockRange",
    "Box",
    "ColumnsConfig",
    "DataConfig",
    "FeaturesPhase",
    "HeadConfig",
    "HeadPhase",
    "MetricName",
    "MixingConfig",
    "ModelConfig",
    "OptimizerName",
    "Phase",
    "PseudoConfig",
    "RunConfig",
    "RuntimeConfig",
    "Section",
    "SubmissionKind",
    "TrainPhase",
    "TrainingConfig",
    "added_later",
    "check_name",
    "hash_config",
    "list_differences",
    "safe_name",
]
