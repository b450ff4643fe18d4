"""Pooled scores are kept between commands, for the predictions that they were computed from alone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distracted.metrics import accuracy, log_loss
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.store import Store

WriteRun = Callable[..., None]
MARK = 7.25  # no run has this score


@pytest.fixture
def kept(store: Store, write_run: WriteRun) -> Path:
    """The file with the scores of a run, of which the log loss was then changed."""
    write_run("a", seed=0)
    assert pooled(store) == scores(store)
    path = store.workspace.cache("tiny") / "scores" / "a.json"
    [(key, values)] = json.loads(path.read_text()).items()
    assert values == scores(store)
    path.write_text(json.dumps({key: {**values, "log_loss": MARK}}))
    return path


def pooled(store: Store, metric: str = "log_loss", *, partial: bool = False) -> dict[str, float]:
    """What a later command says, where the competition has this score."""
    config = store.competition.config.model_copy(update={"metric": metric})
    later = Store(store.workspace, replace(store.competition, config=config), store.folds)
    return Catalogue(later, partial=partial).entry("a").pooled


def scores(store: Store) -> dict[str, float]:
    """The scores of the rows that are stored."""
    oof = store.read_run("a", partial=True).oof
    rows = np.isfinite(oof).all(axis=1)
    oof, labels = oof[rows].astype(np.float32), store.folds.labels[rows]
    return {"log_loss": log_loss(oof, labels), "accuracy": accuracy(oof, labels)}


def test_a_later_command_takes_them(store: Store, kept: Path) -> None:
    assert pooled(store)["log_loss"] == MARK


def test_they_are_not_those_of_other_predictions(store: Store, kept: Path, write_run: WriteRun) -> None:
    write_run("a", seed=1, folds=(1,))
    assert pooled(store) == scores(store)


def test_they_are_not_those_of_fewer_folds(store: Store, kept: Path) -> None:
    for path in store.workspace.fold("tiny", "a", 2).iterdir():
        path.unlink()
    assert pooled(store) == {}
    assert pooled(store, partial=True) == scores(store)


def test_they_are_not_those_of_another_metric(store: Store, kept: Path) -> None:
    found = pooled(store, "macro_f1")
    assert found.keys() == {"log_loss", "accuracy", "macro_f1"}
    assert {name: found[name] for name in scores(store)} == scores(store)


def test_an_edited_file_of_predictions_has_none(store: Store, kept: Path) -> None:
    path = store.path("a", 1, "valid.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    assert pooled(store) == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"other": {}}', "\0"])
def test_a_damaged_file_counts_for_nothing(store: Store, kept: Path, content: str) -> None:
    kept.write_text(content)
    assert pooled(store) == scores(store)
    assert [*json.loads(kept.read_text()).values()] == [scores(store)]


def test_without_a_place_to_keep_them_they_are_computed(store: Store, kept: Path) -> None:
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.touch()
    assert pooled(store) == scores(store)
