"""The exceptions that users meet.

    DistractedError (a ValueError)      anything that a user can mend; scripts print it in a line or two
    ├── ConfigError                     a key, a value or a file of configs/
    ├── DataError                       the competition's folder: lists, names, missing files
    │   ├── ImageError                  one image that cannot be read
    │   └── ImagesError                 several of them, all named in `problems`
    ├── FoldsError                      folds that cannot be made, or that are not those of the data
    ├── WeightsError                    pretrained weights: not found, not reachable, not fitting
    ├── TrainingError                   a loss that is not finite, too little memory, dead loader processes
    ├── CheckpointError                 a checkpoint of another config, other data or another fold
    ├── LockError                       another process works on it
    ├── StoreError                      out-of-fold predictions that are missing, edited or of another kind
    ├── SubmissionError                 a submission that the competition would refuse
    ├── ClusterError                    no Ray, no cluster
    ├── CredentialsError                Kaggle's credentials are missing or refused
    └── TrackingError                   W&B cannot be reached for what needs its server

Every message says what was expected, what came, where, and what to do.
"""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class DistractedError(ValueError):
    """Base of all errors that a user can mend."""


class ConfigError(DistractedError):
    """A key, a value or a file of configs/ is wrong."""


class DataError(DistractedError):
    """The competition's folder does not hold what it should."""


class ImageError(DataError):
    """One image cannot be read; the message starts with its path."""


class ImagesError(DataError):
    """Images cannot be read.

    Attributes:
        problems: One line for each image, starting with its path; the message has the first few.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class FoldsError(DistractedError):
    """Folds cannot be made, or are not those of the data."""


class WeightsError(DistractedError):
    """Pretrained weights cannot be found, reached or fitted to the backbone."""


class TrainingError(DistractedError):
    """Training cannot go on."""


class CheckpointError(DistractedError):
    """A checkpoint belongs to another training."""


class LockError(DistractedError):
    """Another process holds the lock on what is to be written."""


class StoreError(DistractedError):
    """Stored predictions are missing, edited, or do not belong together."""


class SubmissionError(DistractedError):
    """The competition would refuse the submission."""


class ClusterError(DistractedError):
    """There is no cluster to run on."""


class CredentialsError(DistractedError):
    """Kaggle's credentials are missing or refused."""


class TrackingError(DistractedError):
    """W&B's server is needed and cannot be reached, or refuses."""
