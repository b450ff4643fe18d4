"""bundle.json: lists the files of a bundle with their sizes and hashes, and says what it holds."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from distracted.errors import BundleError, first_line
from distracted.files import write_text

NAME = "bundle.json"
FORMAT = 1  # increased when older versions can no longer restore it


class BundledFile(BaseModel):
    """One file: its path in the bundle, with slashes, its size in bytes and its hex SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size: int
    sha256: str


class BundledRun(BaseModel):
    """One run: its finished folds, and those that go on from a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    finished: tuple[int, ...]
    begun: tuple[int, ...] = ()


class Bundle(BaseModel):
    """bundle.json. `complete` is set last; `python` is the version that the wheels are for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    complete: bool = False
    project: str = ""
    data: str
    index_hash: str
    runs: tuple[BundledRun, ...] = ()
    code: bool = False
    python: str = ""
    files: tuple[BundledFile, ...] = ()

    def write(self, folder: Path) -> None:
        write_text(folder / NAME, self.model_dump_json(indent=1) + "\n")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def project_version() -> str:
    """The project's installed version, or ""."""
    try:
        return version("distracted")
    except PackageNotFoundError:
        return ""


def find_bundle(folder: Path) -> Path:
    """The folder that holds bundle.json: this one, or the only one in it that does.

    Raises:
        BundleError: there is none.
    """
    if (folder / NAME).is_file():
        return folder
    inner = sorted(path.parent for path in folder.glob(f"*/{NAME}")) if folder.is_dir() else []
    if len(inner) != 1:
        several = (
            f"several: {', '.join(path.name for path in inner)}; name one" if inner else "no bundle.json"
        )
        raise BundleError(f"BUNDLE={folder}: {several}; expected a folder that `make bundle` made")
    return inner[0]


def read_bundle(folder: Path) -> Bundle:
    """Read bundle.json.

    Raises:
        BundleError: missing, damaged, incomplete, or of a later version of the project.
    """
    path = folder / NAME
    try:
        bundle = Bundle.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        hint = "or a later version of the project made it"
        raise BundleError(f"{path}: not readable ({first_line(error)}); copy it again, {hint}") from error
    if bundle.format > FORMAT:
        raise BundleError(f"{path}: format {bundle.format}, made by distracted {bundle.project}: use that")
    for file in bundle.files:
        parts = PurePosixPath(file.path).parts
        if file.path.startswith("/") or ".." in parts or "\\" in file.path:
            raise BundleError(f"{path}: {file.path!r} leads out of the bundle")
    return bundle
