"""The exceptions that users see.

    DistractedError (a ValueError)      any error that a user can fix; scripts print it in one or two lines
    ├── ConfigError                     a wrong key, value or file in configs/
    ├── DataError                       wrong lists, names or files in the competition's folder
    │   ├── ImageError                  one unreadable image
    │   └── ImagesError                 several unreadable images, listed in `problems`
    ├── FoldsError                      folds that cannot be made, or that do not match the data
    ├── WeightsError                    pretrained weights that are missing, unreachable or do not fit
    ├── TrainingError                   a non-finite loss, too little memory, a dead loader process
    ├── CheckpointError                 a checkpoint of another config, other data or another fold
    ├── LockError                       another process holds the lock
    ├── StoreError                      stored predictions that are missing, edited or do not match
    ├── SubmissionError                 a submission that the competition would refuse
    ├── ClusterError                    Ray is not installed or its cluster does not answer
    ├── CredentialsError                Kaggle's credentials are missing or refused
    ├── BundleError                     a bundle that is damaged, or files that differ from it
    └── TrackingError                   W&B's server is needed but unavailable

Each message names the expected and the actual value, the place (file, row, image) and the remedy.
"""

from collections.abc import Mapping
from pathlib import Path


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class name if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class DistractedError(ValueError):
    """Base class of all errors that a user can fix."""


class ConfigError(DistractedError):
    """A key, a value or a file of configs/ is wrong."""


class DataError(DistractedError):
    """A list, a name or a file in the competition's folder is wrong or missing."""


class ImageError(DataError):
    """One image cannot be read; the message starts with its path."""


class ImagesError(DataError):
    """Several images cannot be read.

    Attributes:
        problems: A line for each image, by its path; the message shows the first few.
    """

    def __init__(self, message: str, problems: Mapping[Path, str]) -> None:
        super().__init__(message)
        self.problems = problems


class FoldsError(DistractedError):
    """Folds cannot be made, or do not match the data."""


class WeightsError(DistractedError):
    """Pretrained weights are missing, unreachable or do not fit the backbone."""


class TrainingError(DistractedError):
    """Training cannot continue."""


class CheckpointError(DistractedError):
    """A checkpoint belongs to another config, other data or another fold."""


class LockError(DistractedError):
    """Another process holds the lock on the files to be written."""


class StoreError(DistractedError):
    """Stored predictions are missing, edited, or do not match each other."""


class SubmissionError(DistractedError):
    """The competition would refuse the submission."""


class ClusterError(DistractedError):
    """Ray is not installed, or no cluster answers."""


class CredentialsError(DistractedError):
    """Kaggle's credentials are missing or refused."""


class TrackingError(DistractedError):
    """A command needs W&B's server, which cannot be reached or refuses."""


class BundleError(DistractedError):
    """A bundle is incomplete or damaged, or differs from the files that are here."""
