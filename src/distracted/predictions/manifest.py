"""What lies beside a fold's predictions and says what they are."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from distracted.files import sha256_json

Kind = Literal["model", "derived", "blend"]


class Parent(BaseModel):
    """A run that another was made from, as it was then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    config_hash: str
    predictions: dict[str, str]  # fold -> SHA-256 over its valid.parquet and test.parquet


class Manifest(BaseModel):
    """manifest.json: written last, so that a fold without it does not exist.

    Hashes are hex SHA-256; `config` is the resolved config whose hash is `config_hash`; `scores` are those
    of the fold's held-out rows; `details` is what only one kind of run has, such as a blend's weights.
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
    written: str = ""  # UTC, ISO 8601

    @property
    def leaky(self) -> bool:
        """Whether training watched the fold that it is scored on, by LEAKY=1; a blend: a member's."""
        training = self.config.get("training", {})
        return bool(training.get("leaky") or self.config.get("leaky"))

    @property
    def fitted(self) -> bool:
        """Whether something in it was fitted on out-of-fold rows: fold k has seen other folds' labels then,
        through networks that were trained on fold k."""
        return bool(self.config.get("fitted", self.kind == "blend"))


def as_parent(manifests: Sequence[Manifest]) -> Parent:
    """A run as a parent of others, by the manifests of its folds."""
    return Parent(
        run=manifests[0].run,
        config_hash=manifests[0].config_hash,
        predictions={str(m.fold): sha256_json([m.valid_sha256, m.test_sha256]) for m in manifests},
    )
