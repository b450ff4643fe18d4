"""Names that W&B refuses at the end are refused at the start."""

from collections.abc import Callable

import pytest
import wandb

from conftest import calibrate
from distracted.ensemble.blend import blend_runs
from distracted.errors import ConfigError
from distracted.jobs.fold import train_folds
from distracted.predictions.manifest import Parent
from distracted.predictions.store import MAX_NAMES, Store
from distracted.schema import RunConfig
from distracted.tracking.log import artifacts_of
from distracted.training.resolve import resolve

LONGEST = "n" * (MAX_NAMES - len("tiny"))


def test_the_client_takes_the_longest_name_that_is_allowed(store: Store) -> None:
    parent = Parent(run=LONGEST, config_hash="", predictions={"999": "0" * 64})
    [artifact] = artifacts_of(store, parent)
    name = artifact.partition(":")[0]
    wandb.Artifact(name, "oof")
    with pytest.raises(ValueError, match="128"):
        wandb.Artifact(name + "n" * (129 - len(name)), "oof")
    for other in (f"tiny/{LONGEST}", f"{LONGEST}-fold999", f"submission-tiny-{LONGEST}"):
        assert len(other) <= 128


def test_a_longer_name_is_refused_before_any_work(
    store: Store, configure: Callable[..., RunConfig], write_run: Callable[..., None]
) -> None:
    write_run("a")
    write_run("b", seed=1)
    refused = pytest.raises(ConfigError, match=r"109 characters.*at most 112.*leave out 1$")
    with refused:
        train_folds(store, resolve(configure(), num_folds=3), run=LONGEST + "n", folds=[0])
    with refused:
        blend_runs(store, name=LONGEST + "n")
    with refused:
        calibrate(store, "a", name=LONGEST + "n")
    assert store.runs() == ["a", "b"] and not list(store.workspace.runs("tiny").glob("n*"))


def test_a_run_that_is_there_goes_on_under_its_name(store: Store, write_run: Callable[..., None]) -> None:
    """Made by an earlier version."""
    name = LONGEST + "nn"
    write_run(name, folds=(0, 1))
    with store.hold(name):
        pass
    store.check_config(name, store.manifest(name, 0).config_hash)
    assert store.read_run(name, partial=True).folds == (0, 1)
