"""What W&B shows of a run beside its metrics: confusion, the worst pictures, blend weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from distracted.audit.mistakes import RowScores, worst_rows
from distracted.data.images import read_rgb
from distracted.predictions.store import Store
from distracted.report.sheets import shrink

#: Pictures of a run, and their longer side in pixels: a grid of 75 folds stays far below 200 MB.
NUM_PICTURES = 24
PICTURE_SIZE = 160


def confusion_chart(scored: RowScores) -> Any:
    """W&B's own chart of the images by true and predicted class."""
    return wandb.plot.confusion_matrix(
        y_true=scored.table["label"].tolist(),
        preds=scored.table["predicted"].tolist(),
        class_names=list(scored.classes),
        title=f"{scored.run}: confusion",
    )


def worst_table(store: Store, scored: RowScores) -> wandb.Table:
    """The held-out images that cost most, with their pictures."""
    paths, classes = store.competition.train_paths(), scored.classes
    columns: list[str | int] = [
        "picture",
        "img",
        "subject",
        "fold",
        "true",
        "predicted",
        "loss",
        "p(true)",
        "p(predicted)",
    ]
    table = wandb.Table(columns=columns)
    for row, told in worst_rows(scored, num=NUM_PICTURES, per_class=0).iterrows():
        picture = wandb.Image(shrink(read_rgb(paths[int(str(row))]), width=PICTURE_SIZE), file_type="jpg")
        table.add_data(
            picture,
            told["img"],
            told["subject"],
            int(told["fold"]),
            classes[told["label"]],
            classes[told["predicted"]],
            float(told["loss"]),
            float(told["of_true"]),
            float(told["confidence"]),
        )
    return table


def weights_table(by_fold: Sequence[Mapping[str, float]], overall: Mapping[str, float]) -> wandb.Table:
    """Blend weights, a row a member: of each fold, and of all folds together."""
    folds = [f"fold {number}" for number in range(len(by_fold))]
    table = wandb.Table(columns=["member", "all folds", *folds])
    for member, weight in overall.items():
        table.add_data(member, float(weight), *(float(weights.get(member, 0.0)) for weights in by_fold))
    return table
