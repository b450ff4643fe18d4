"""Reads the files of single folds: each once, checked, until it is replaced by another."""

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
from distracted.predictions._file_memory import FileMemory, read_bytes
from distracted.predictions._rows import read_rows
from distracted.predictions.manifest import MANIFEST, Manifest
from distracted.schema import hash_config

PARTS = ("valid", "test")


class FoldReader:
    """The manifests and prediction files of all folds of all runs.

    Manifests, valid.parquet and all hashes are kept in memory. test.parquet is not: it is far larger.
    """

    def __init__(self, workspace: Workspace, competition: Competition, folds: Folds) -> None:
        self._workspace = workspace
        self._competition = competition
        self._folds = folds
        self._manifests = FileMemory[Manifest]()
        self._hashes = FileMemory[str]()
        self._valid = FileMemory[bytes]()

    def path(self, run: str, fold: int, name: str = MANIFEST) -> Path:
        return self._workspace.fold(self._competition.name, run, fold) / name

    def manifest(self, run: str, fold: int) -> Manifest:
        """A fold's checked manifest; errors as `Store.manifest`."""
        path = self.path(run, fold)
        if (known := self._manifests.get(path)) is not None:
            return known
        try:
            content, identity = read_bytes(path)
            self._hashes.put(path, identity, sha256_bytes(content))
            manifest = Manifest.model_validate_json(content)
        except FileNotFoundError:
            raise StoreError(
                f"{path}: no such prediction; `make train FOLD={fold} MODEL={run}` makes it"
            ) from None
        except ValidationError as error:
            raise StoreError(f"{path}: not a manifest ({first_line(error)}); {_redo(run)}") from error
        self._check(manifest, path, run, fold)
        self._manifests.put(path, identity, manifest)
        return manifest

    def _check(self, manifest: Manifest, path: Path, run: str, fold: int) -> None:
        for key, value in {"run": run, "fold": fold, "data": self._competition.name}.items():
            if getattr(manifest, key) != value:
                raise StoreError(
                    f"{path}: {key} is {getattr(manifest, key)!r}, expected {value!r}; {_redo(run)}"
                )
        if _hash_or_none(manifest.config) != manifest.config_hash:
            raise StoreError(f"{path}: its config does not have its stated hash (edited); {_redo(run)}")
        if manifest.index_hash != self._competition.index_hash:
            raise StoreError(
                f"{path}: made from other data than {self._competition.config.folder}; {_redo(run)}"
            )
        if manifest.folds_hash != self._folds.hash:
            raise StoreError(f"{path}: made with other folds than folds.csv; {_redo(run)}")

    def manifest_sha256(self, run: str, fold: int) -> str:
        """Hex SHA-256 of a fold's manifest.json, readable or not; "" if there is none."""
        path = self.path(run, fold)
        if (known := self._hashes.get(path)) is not None:
            return known
        with suppress(StoreError):  # an unreadable manifest has a hash, too
            self.manifest(run, fold)
        return self._hashes.get(path) or ""

    def check_files(self, manifest: Manifest) -> None:
        """Refuse prediction files that do not have the hashes in their manifest."""
        for part in PARTS:
            path = self.path(manifest.run, manifest.fold, f"{part}.parquet")
            if self._hashes.get(path) != getattr(manifest, f"{part}_sha256"):
                self._bytes(manifest, part)

    def log_probs(self, manifest: Manifest, part: str) -> NDArray[np.float64]:
        """The predictions of a part, "valid" or "test", aligned by `img`; errors as `Store.read_run`."""
        content = self._bytes(manifest, part)
        path = self.path(manifest.run, manifest.fold, f"{part}.parquet")
        imgs, classes = self.imgs(manifest.fold, part), self._competition.classes
        return read_rows(content, imgs, classes, path, _redo(manifest.run))

    def imgs(self, fold: int, part: str) -> NDArray[Any]:
        """Names of a part's images, in the order of its rows."""
        if part == "test":
            return self._competition.test["img"].to_numpy()
        return self._competition.train["img"].to_numpy()[self._folds.valid(fold)]

    def _bytes(self, manifest: Manifest, part: str) -> bytes:
        """The content of a prediction file, which has the hash in its manifest."""
        path, redo = self.path(manifest.run, manifest.fold, f"{part}.parquet"), _redo(manifest.run)
        expected = getattr(manifest, f"{part}_sha256")
        if (kept := self._valid.get(path)) is not None and self._hashes.get(path) == expected:
            return kept
        try:
            content, identity = read_bytes(path)
        except FileNotFoundError:
            raise StoreError(f"{path}: no such file; {redo}") from None
        sha256 = self._hashes.get(path, identity) or sha256_bytes(content)
        self._hashes.put(path, identity, sha256)
        if sha256 != expected:
            raise StoreError(f"{path}: not the file that its manifest describes (edited or damaged); {redo}")
        if part == "valid":
            self._valid.put(path, identity, content)
        return content


def _hash_or_none(config: dict[str, Any]) -> str | None:
    """The config's hash; None if it holds an infinite number, which cannot be hashed."""
    try:
        return hash_config(config)
    except ValueError:
        return None


def _redo(run: str) -> str:
    return f"restore it, or make {run} again with FORCE=1"
