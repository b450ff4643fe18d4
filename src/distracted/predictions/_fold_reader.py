"""Reads the files of single folds: each once, checked, until it is replaced by another."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from distracted.data.competition import Competition
from distracted.data.folds import Folds
from distracted.errors import StoreError, first_line
from distracted.files import sha256_bytes
from distracted.paths import Workspace
from distracted.predictions._rows import read_rows
from distracted.predictions.manifest import MANIFEST, Manifest
from distracted.schema import hash_config

PARTS = ("valid", "test")

#: A file's path, device, inode, size, and times of the last change of the contents and of the inode, in ns.
#: Files of the store are replaced by renaming: another file has another inode, and its inode's time cannot be
#: set back.
_File = tuple[Path, int, int, int, int, int]


class FoldReader:
    """The manifests and prediction files of all folds of all runs.

    Manifests, valid.parquet and all hashes are kept in memory. test.parquet is not: it is far larger.
    """

    def __init__(self, workspace: Workspace, competition: Competition, folds: Folds) -> None:
        self.workspace = workspace
        self.competition = competition
        self.folds = folds
        self._manifests: dict[_File | None, Manifest] = {}
        self._hashes: dict[_File | None, str] = {}
        self._valid: dict[_File | None, bytes] = {}

    def path(self, run: str, fold: int, name: str = MANIFEST) -> Path:
        return self.workspace.fold(self.competition.name, run, fold) / name

    def scratch(self, run: str, fold: int) -> Path:
        """The folder of a fold's by-products, as `Workspace.scratch`."""
        return self.workspace.scratch(self.competition.name, run, fold)

    def manifest(self, run: str, fold: int) -> Manifest:
        """Read and check a fold's manifest.

        Raises:
            StoreError: missing, not a manifest, or of other data or folds.
        """
        path = self.path(run, fold)
        if (known := self._manifests.get(_file_at(path))) is not None:
            return known
        try:
            file, content = _read(path)
            self._hashes[file] = sha256_bytes(content)
            manifest = Manifest.model_validate_json(content)
        except FileNotFoundError:
            raise StoreError(
                f"{path}: no such prediction; `make train FOLD={fold} MODEL={run}` makes it"
            ) from None
        except ValidationError as error:
            raise StoreError(f"{path}: not a manifest ({first_line(error)}); {_redo(run)}") from error
        self._check(manifest, path, run, fold)
        self._manifests[file] = manifest
        return manifest

    def _check(self, manifest: Manifest, path: Path, run: str, fold: int) -> None:
        for key, value in {"run": run, "fold": fold, "data": self.competition.name}.items():
            if (stated := getattr(manifest, key)) != value:
                raise StoreError(f"{path}: {key} is {stated!r}, expected {value!r}; {_redo(run)}")
        problem = ""
        if _hash_or_none(manifest.config) != manifest.config_hash:
            problem = "its config does not have its stated hash (edited)"
        elif manifest.index_hash != self.competition.index_hash:
            problem = f"made from other data than {self.competition.config.folder}"
        elif manifest.folds_hash != self.folds.hash:
            problem = "made with other folds than folds.csv"
        if problem:
            raise StoreError(f"{path}: {problem}; {_redo(run)}")

    def manifest_sha256(self, run: str, fold: int) -> str:
        """Hex SHA-256 of a fold's manifest.json, readable or not; "" if it is missing."""
        path = self.path(run, fold)
        if _file_at(path) not in self._hashes:
            with suppress(StoreError):  # an unreadable manifest has a hash, too
                self.manifest(run, fold)
        return self._hashes.get(_file_at(path), "")

    def log_probs(self, manifest: Manifest, part: str) -> NDArray[np.float64]:
        """The predictions of a part, "valid" or "test", aligned by `img`; errors as `Store.read_run`."""
        content = self._read_part(manifest, part)
        path = self.path(manifest.run, manifest.fold, f"{part}.parquet")
        imgs, classes = self.imgs(manifest.fold, part), self.competition.classes
        return read_rows(content, imgs, classes, path, _redo(manifest.run))

    def imgs(self, fold: int, part: str) -> NDArray[Any]:
        """Names of a part's images, in the order of its rows."""
        if part == "test":
            return self.competition.test["img"].to_numpy()
        return self.competition.train["img"].to_numpy()[self.folds.valid(fold)]

    def check_parts(self, manifest: Manifest) -> None:
        """Refuse prediction files that do not have the hashes in their manifest."""
        for part in PARTS:
            file = _file_at(self.path(manifest.run, manifest.fold, f"{part}.parquet"))
            if self._hashes.get(file) != getattr(manifest, f"{part}_sha256"):
                self._read_part(manifest, part)

    def _read_part(self, manifest: Manifest, part: str) -> bytes:
        """The content of a prediction file, which has the hash in its manifest."""
        path, redo = self.path(manifest.run, manifest.fold, f"{part}.parquet"), _redo(manifest.run)
        expected, known = getattr(manifest, f"{part}_sha256"), _file_at(path)
        if known in self._valid and self._hashes[known] == expected:
            return self._valid[known]
        try:
            file, content = _read(path)
        except FileNotFoundError:
            raise StoreError(f"{path}: no such file; {redo}") from None
        if file not in self._hashes:
            self._hashes[file] = sha256_bytes(content)
        if self._hashes[file] != expected:
            raise StoreError(f"{path}: not the file that its manifest describes (edited or damaged); {redo}")
        if part == "valid":
            self._valid[file] = content
        return content


def _read(path: Path) -> tuple[_File, bytes]:
    """A file and its content."""
    with path.open("rb") as file:
        return _identify(path, os.fstat(file.fileno())), file.read()


def _file_at(path: Path) -> _File | None:
    """The file that is at a path now; None if there is none."""
    try:
        return _identify(path, path.stat())
    except OSError:
        return None


def _identify(path: Path, stat: os.stat_result) -> _File:
    return path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _hash_or_none(config: dict[str, Any]) -> str | None:
    """The config's hash; None if it holds an infinite number, which cannot be hashed."""
    try:
        return hash_config(config)
    except ValueError:
        return None


def _redo(run: str) -> str:
    return f"restore it, or make {run} again with FORCE=1"
