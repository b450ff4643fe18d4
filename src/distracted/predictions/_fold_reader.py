"""Reads the files of single folds, checked; a file is hashed once, until it is replaced by another."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from distracted.data.competition import Competition
from distracted.data.folds import Folds
from distracted.errors import StoreError, first_line
from distracted.paths import Workspace
from distracted.predictions._hashed_files import File, HashedFiles
from distracted.predictions._rows import LogProbs, read_rows
from distracted.predictions.manifest import MANIFEST, Manifest
from distracted.schema import hash_config

PARTS = ("valid", "test")


class FoldReader:
    """The manifests and prediction files of all folds of all runs.

    Manifests and hashes are kept in memory, and valid.parquet between its check and its use.
    """

    def __init__(self, workspace: Workspace, competition: Competition, folds: Folds) -> None:
        self.workspace = workspace
        self.competition = competition
        self.folds = folds
        name = competition.name
        self._files = HashedFiles(workspace.oof(name), workspace.cache(name) / "hashes.json")
        self._manifests: dict[File | None, Manifest] = {}
        self._unused: dict[File | None, bytes] = {}

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
        if (known := self._manifests.get(self._files.at(path))) is not None:
            return known
        try:
            file, content = self._files.read(path)
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
        if self._files.sha256(self._files.at(path)) is None:
            with suppress(StoreError):  # an unreadable manifest has a hash, too
                self.manifest(run, fold)
        return self._files.sha256(self._files.at(path)) or ""

    def log_probs(self, manifest: Manifest, part: str) -> LogProbs:
        """The predictions of a part, "valid" or "test", aligned by `img`; errors as `Store.read_run`."""
        path = self.path(manifest.run, manifest.fold, f"{part}.parquet")
        expected, file = getattr(manifest, f"{part}_sha256"), self._files.at(path)
        if file in self._unused and self._files.sha256(file) == expected:
            content = self._unused.pop(file)
        else:
            _, content = self._read_part(manifest, part)
        imgs, classes = self.imgs(manifest.fold, part), self.competition.classes
        return read_rows(content, imgs, classes, path, _redo(manifest.run))

    def imgs(self, fold: int, part: str) -> "pd.Series[str]":
        """Names of a part's images, in the order of its rows."""
        if part == "test":
            return self.competition.test["img"]
        return self.competition.train["img"].iloc[self.folds.valid(fold)]

    def check_parts(self, manifest: Manifest, parts: Sequence[str] = PARTS) -> None:
        """Refuse prediction files that do not have the hashes in their manifest."""
        for part in parts:
            file = self._files.at(self.path(manifest.run, manifest.fold, f"{part}.parquet"))
            if self._files.sha256(file) != getattr(manifest, f"{part}_sha256"):
                file, content = self._read_part(manifest, part)
                if part == "valid":  # the test set's is far larger
                    self._unused[file] = content

    def _read_part(self, manifest: Manifest, part: str) -> tuple[File, bytes]:
        """A prediction file, which has the hash in its manifest, and its content."""
        path, redo = self.path(manifest.run, manifest.fold, f"{part}.parquet"), _redo(manifest.run)
        try:
            file, content = self._files.read(path)
        except FileNotFoundError:
            raise StoreError(f"{path}: no such file; {redo}") from None
        if self._files.sha256(file) != getattr(manifest, f"{part}_sha256"):
            raise StoreError(f"{path}: not the file that its manifest describes (edited or damaged); {redo}")
        return file, content


def _hash_or_none(config: dict[str, Any]) -> str | None:
    """The config's hash; None if it holds an infinite number, which cannot be hashed."""
    try:
        return hash_config(config)
    except ValueError:
        return None


def _redo(run: str) -> str:
    return f"restore it, or make {run} again with FORCE=1"
