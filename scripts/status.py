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
    rows = []
    for status in run_statuses(store):
        folds = " ".join(
            f"{status.folds[fold]:.4f}" if fold in status.folds else "  --  "
            for fold in range(store.folds.num_folds)
        )
        pooled = f"{status.pooled:.4f}" if status.pooled is not None else "--"
        rows.append(
            [
                status.run,
                status.kind,
                folds,
                pooled,
                f"{status.seconds:.0f} s",
                status.problem or status.weights,
            ]
        )
    console.table(
        store.competition.name, ["run", "kind", "log loss of each fold", "pooled", "time", "weights"], rows
    )


if __name__ == "__main__":
    console.run(main)
