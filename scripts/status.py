"""make status: what is done and missing, per model and fold."""

import console
from distracted.config import load_data_config
from distracted.paths import Workspace
from distracted.predictions.store import open_store
from distracted.report.status import run_statuses


def main(
    data: console.Data = "state_farm", root: console.Root = console.HERE, debug: console.Debug = False
) -> None:
    """Show every run's folds and scores."""
    store = open_store(Workspace(root), load_data_config(data, root=root), progress=console.progress)
    folds = range(store.folds.num_folds)
    rows = []
    for status in run_statuses(store):
        by_fold = [f"{status.folds[fold]:.4f}" if fold in status.folds else "--" for fold in folds]
        pooled = [f"{status.pooled[key]:.4f}" if key in status.pooled else "--" for key in console.SCORES]
        time = f"{status.seconds:.0f} s"
        rows.append([status.run, status.kind, *by_fold, *pooled, time, status.problem or status.weights])
    if not rows:
        console.say(f"{store.competition.name}: no runs yet; `make cv MODEL=resnet50` trains one")
        return
    columns = [
        "run",
        "kind",
        *(f"fold {fold}" for fold in folds),
        *console.SCORES.values(),
        "time",
        "weights",
    ]
    console.table(f"{store.competition.name}: log loss by fold, and pooled scores", columns, rows)


if __name__ == "__main__":
    console.run(main)
