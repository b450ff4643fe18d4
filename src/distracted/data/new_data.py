"""`make new-competition`: a file in configs/data/ for a folder in any layout."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distracted.config.messages import parse_section
from distracted.data.competition import Competition, read_lists
from distracted.data.folder_contents import FolderContents
from distracted.data.guess_layout import Guess
from distracted.errors import ConfigError
from distracted.files import write_text
from distracted.schema import DataConfig

#: Keys of the data section that may be answered.
_ASKED = {
    *(
        "kaggle",
        "num_test_subjects",
        "public_share",
        "train_list",
        "train_images",
        "test_images",
        "sample_submission",
    ),
    *("columns.img", "columns.label", "columns.group", "columns.id"),
    *("subject_pattern", "label_pattern", "classes", "submission", "metric"),
}
_COMMENTS = {
    "kaggle": "for make data, and make submit SEND=1",
    "train_list": "null: the folders in train_images are the classes, or label_pattern says them",
    "sample_submission": "null: all images in test_images are predicted",
    "columns": "group: whose picture it is (patient, person, recording); null: nobody's, folds are by image",
    "subject_pattern": "finds the subject in a file's name",
    "label_pattern": "finds the class in a file's name",
    "classes": "in order; of two classes, a probability is that of the last",
    "submission": "probabilities (a column a class), probability (of the last of two classes) or label",
    "metric": "log_loss, accuracy, balanced_accuracy, macro_f1, auc or quadratic_kappa (docs/metrics.md)",
}


@dataclass(frozen=True)
class NewData:
    """A folder as it was understood.

    Attributes:
        settings: The keys of the data section.
        assumed: For each key that the folder does not say, a question that asks for it.
        competition: What the settings read; the images were not opened.
    """

    settings: dict[str, Any]
    assumed: dict[str, str]
    competition: Competition


def understand(contents: FolderContents, name: str, answers: Mapping[str, Any]) -> NewData:
    """Guess a folder's settings, and read its lists with them.

    Args:
        name: The data set's name.
        answers: Settings by dotted key, such as {"metric": "auc"}; they are not guessed.

    Raises:
        ConfigError: an answer is no setting, or its value is invalid.
        DataError: the folder does not say enough, or its lists are wrong; says what helps.
    """
    if unknown := set(answers) - _ASKED:
        raise ConfigError(
            f"SET: data.{min(unknown)} is not asked for here; expected one of {_spelled(_ASKED)}"
        )
    guess = Guess(contents, answers)
    settings = {"name": name, "folder": str(contents.folder), **guess.settings}
    config = parse_section(DataConfig, settings, f"FOLDER={contents.folder}", prefix="data.")
    return NewData(guess.settings, guess.assumed, read_lists(config))


def write_data_config(path: Path, new: NewData, *, folder: str, force: bool = False) -> None:
    """Write a file of configs/data/.

    Args:
        folder: The data folder as the file says it.

    Raises:
        ConfigError: the file is there already.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path}: is there already; FORCE=1 replaces it, NAME= writes another")
    lines = [
        "# Written by `make new-competition`, which guessed some of it. docs/config.md explains the keys.",
        "data:",
        f"  folder: {_flow(folder)}",
    ]
    for key, value in new.settings.items():
        if value is None and key in ("subject_pattern", "label_pattern", "classes"):
            continue
        if key == "columns":
            value = {name: column for name, column in value.items() if name != "id" or column is not None}
        comment = f"  # {_COMMENTS[key]}" if key in _COMMENTS else ""
        lines.append(f"  {key}: {_flow(value)}{comment}")
    if "kaggle" not in new.settings:
        lines.append(f"  # kaggle: <name of the competition>  # {_COMMENTS['kaggle']}")
    write_text(path, "\n".join(lines) + "\n")


class _Dumper(yaml.SafeDumper):
    """Quotes text such as 1e3, which OmegaConf reads as a number."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"), list("-+0123456789")
)


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        allow_unicode=True,
        sort_keys=False,
        width=float("inf"),
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _spelled(keys: Iterable[str]) -> str:
    return ", ".join(f"data.{key}" for key in sorted(keys))
