"""Which networks explain a run's mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distracted.ensemble.blend import blend_runs
from distracted.predictions.store import Store
from distracted.report.gallery import find_networks

WriteRun = Callable[..., None]


def write_networks(store: Store, run: str) -> None:
    for fold in store.finished_folds(run):
        path = store.workspace.network(store.competition.name, run, fold)
        path.parent.mkdir(parents=True)
        path.touch()


def edit_details(store: Store, run: str, edit: Callable[[dict[str, dict[str, object]]], object]) -> None:
    for fold in store.finished_folds(run):
        path: Path = store.path(run, fold)
        manifest = json.loads(path.read_text())
        edit(manifest["details"])
        path.write_text(json.dumps(manifest))


@pytest.mark.slow
def test_a_blends_mistakes_are_explained_by_the_member_that_it_loses_most_without(
    store: Store, write_run: WriteRun
) -> None:
    for seed, (run, skill) in enumerate([("fair", 2.0), ("good", 4.0), ("noise", 0.0)]):
        write_run(run, skill=skill, seed=seed)
        write_networks(store, run)
    ensemble = blend_runs(store)
    assert max(ensemble.contributions, key=lambda run: ensemble.contributions[run].loss) == "good"
    assert blend_runs(store).contributions == ensemble.contributions  # as stored

    def by() -> str | None:
        run = find_networks(store, "ensemble")
        return None if run is None else run.name

    def value(run: str) -> dict[str, float]:
        return {"loss": float(run == "noise"), "error": 0.0}

    assert by() == "good"
    members = ("fair", "good", "noise")
    edit_details(store, "ensemble", lambda d: d.update(contributions={run: value(run) for run in members}))
    assert by() in ("fair", "good")  # nothing can be seen through a network that does not beat the prior
    edit_details(store, "ensemble", lambda d: d.pop("contributions"))
    edit_details(store, "ensemble", lambda d: d["on_all_folds"].update(weights={"fair": 0.9, "good": 0.1}))
    assert by() == "fair"  # a blend of an older version
    assert blend_runs(store).contributions == {}
