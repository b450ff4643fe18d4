"""The whole config of a run, and its hash."""

from collections.abc import Mapping
from typing import Any

from distracted.files import sha256_json
from distracted.schema.base import Section
from distracted.schema.data import DataConfig
from distracted.schema.images import AugmentConfig, MixingConfig
from distracted.schema.model import ModelConfig
from distracted.schema.phases import Phase
from distracted.schema.runtime import InferenceConfig, RuntimeConfig
from distracted.schema.training import PseudoConfig, TrainingConfig


class RunConfig(Section):
    """The whole config of a run."""

    recipe: str
    """Name of the recipe in configs/recipes: it says which phases there are."""
    model: ModelConfig
    augment: AugmentConfig
    mixing: MixingConfig = MixingConfig()
    pseudo: PseudoConfig = PseudoConfig()
    phases: dict[str, Phase]
    """Phases by name, in the order in which they run."""
    training: TrainingConfig
    inference: InferenceConfig = InferenceConfig()
    data: DataConfig
    runtime: RuntimeConfig

    def resolved(self) -> dict[str, Any]:
        """The config as plain JSON values, without `runtime`; phases stay in order."""
        return self.model_dump(mode="json", exclude={"runtime"})

    @property
    def hash(self) -> str:
        """Hex SHA-256 of `resolved`."""
        return hash_config(self.resolved())


def hash_config(content: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a resolved config's JSON values; the order of the phases counts."""
    ordered = {"phases": list(content["phases"].items())} if "phases" in content else {}
    return sha256_json({**content, **ordered})
