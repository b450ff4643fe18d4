"""Charts and tables of a run on W&B: confusion matrix, worst images, blend weights."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distracted.audit.mistakes import RowScores, worst_rows
from distracted.predictions.store import Store

if TYPE_CHECKING:
    import wandb

#: Images per run and their longer side in pixels: those of 75 folds take far less than 200 MB.
NUM_PICTURES = 24
PICTURE_SIZE = 160


def confusion_chart(scored: RowScores) -> Any:
    """W&B's confusion matrix."""
    import wandb

    return wandb.plot.confusion_matrix(
        y_true=scored.table["label"].tolist(),
        preds=scored.table["predicted"].tolist(),
        class_names=list(scored.classes),
        title=f"{scored.run}: confusion",
    )


def worst_table(store: Store, scored: RowScores) -> "wandb.Table":
    """The held-out images with the largest losses."""
    import wandb

    from distracted.data.images import read_rgb
    from distracted.report.sheets import shrink

    paths, classes = store.competition.train_paths(), scored.classes
    facts = ("img", "subject", "fold", "true", "predicted", "loss", "p(true)", "p(predicted)")
    table = wandb.Table(columns=["picture", *facts])
    if not store.competition.has_images:
        return table
    for index, row in worst_rows(scored, num=NUM_PICTURES, per_class=0).iterrows():
        picture = wandb.Image(shrink(read_rgb(paths[int(str(index))]), width=PICTURE_SIZE), file_type="jpg")
        names = [classes[row[column]] for column in ("label", "predicted")]
        numbers = [float(row[column]) for column in ("loss", "of_true", "confidence")]
        table.add_data(picture, row["img"], row["subject"], int(row["fold"]), *names, *numbers)
    return table


def weights_table(by_fold: Sequence[Mapping[str, float]], overall: Mapping[str, float]) -> "wandb.Table":
    """Blend weights, one row per member: over all folds together, then of each fold."""
    import wandb

    folds = [f"fold {number}" for number in range(len(by_fold))]
    table = wandb.Table(columns=["member", "all folds", *folds])
    for member, weight in overall.items():
        table.add_data(member, float(weight), *(float(weights.get(member, 0.0)) for weights in by_fold))
    return table
