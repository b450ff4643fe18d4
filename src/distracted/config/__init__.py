"""Merges YAML files and overrides into the typed config of schema/.

`train.yaml` <- `recipes/<recipe>.yaml` <- `models/<model>.yaml` <- `data/<data>.yaml` <- dotted overrides.
The later wins: mappings merge key by key, lists are replaced, null removes a phase. `freeze` and `unfreeze`
are one choice: a later one replaces an earlier one whole. The recipe is resolved first, from the same files
and overrides; a recipe that `extends` another is merged over it.
"""

from distracted.config.layers import DataFolder
from distracted.config.load import load_config, load_data_config, load_runtime_config

__all__ = ["DataFolder", "load_config", "load_data_config", "load_runtime_config"]
