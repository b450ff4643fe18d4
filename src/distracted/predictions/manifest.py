"""The manifest of a fold's predictions: the config and inputs that made them, and their hashes."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from distracted.files import sha256_json
from distracted.schema import added_later

MANIFEST = "manifest.json"

Kind = Literal["model", "derived", "blend"]


class Parent(BaseModel):
    """The state of a run when another run was made from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    config_hash: str
    predictions: dict[str, str]  # fold -> SHA-256 over its valid.parquet and test.parquet


class Manifest(BaseModel):
    """manifest.json: written last, so that a fold without it does not exist.

    Hashes are hex SHA-256. `config` is the resolved config, with the hash `config_hash`; `scores` are of the
    fold's held-out rows; `details` depend on the kind of run, such as a blend's weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    run: str
    fold: int
    data: str
    config: dict[str, Any]
    config_hash: str
    index_hash: str
    folds_hash: str
    valid_sha256: str
    test_sha256: str
    parents: tuple[Parent, ...] = ()
    weights: dict[str, Any] = {}
    scores: dict[str, float] = {}
    seconds: float = 0.0
    images_per_second: float = 0.0
    details: dict[str, Any] = {}
    git_commit: str | None = None
    packages: dict[str, str] = {}
    network_sha256: str = added_later("")  # of a trained run's model.safetensors
    unlisted: dict[str, int] = added_later({})  # pictures on disk that no list names, in train and test
    written: str = ""  # UTC, ISO 8601

    @property
    def leaky(self) -> bool:
        """Whether training (of a derived run or a blend: of a parent) watched its scored fold, by LEAKY=1."""
        training = self.config.get("training", {})
        return bool(training.get("leaky") or self.config.get("leaky"))

    @property
    def fitted(self) -> bool:
        """Whether something in it was fitted on out-of-fold rows.

        Fold k has then seen the labels of other folds, through networks that were trained on fold k.
        """
        return bool(self.config.get("fitted", self.kind == "blend"))


def as_parent(manifests: Sequence[Manifest]) -> Parent:
    """The run of these manifests, one per fold, as a parent."""
    return Parent(
        run=manifests[0].run,
        config_hash=manifests[0].config_hash,
        predictions={str(m.fold): sha256_json([m.valid_sha256, m.test_sha256]) for m in manifests},
    )
