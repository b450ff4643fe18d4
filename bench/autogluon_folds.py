"""AutoGluon MultiModal over folds, in an environment of its own; see `equal_hours.py`.

    python -m venv ag && ag/bin/pip install autogluon.multimodal
    HF_HOME=<root>/equal_hours/hub HF_HUB_OFFLINE=1 ag/bin/python bench/autogluon_folds.py \
        <root>/equal_hours/table.csv --minutes 45 --checkpoint tf_efficientnet_lite0

Each fold has an equal part of the time. AutoGluon trains timm's backbone with its own recipe until its time
limit, keeps the epochs that are best on a tenth of the training subjects, and averages their weights.
Finished folds are skipped. Nothing of this project is imported.
"""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd

_TUNED = 0.1  # share of the training subjects that choose among epochs
_SPARE = 0.9  # of a fold's time is training's; the rest is prediction's


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path, help="image, label, subject and fold of each training image")
    parser.add_argument("--minutes", type=float, required=True, help="of all folds together")
    parser.add_argument("--checkpoint", default="tf_efficientnet_lite0", help="timm's name")
    parser.add_argument("--batch-size", type=int, default=16)
    given = parser.parse_args()
    rows = pd.read_csv(given.table, dtype={"subject": str})
    folds = sorted(rows["fold"].unique())
    for fold in folds:
        out = given.table.parent / f"autogluon_{given.minutes:g}" / f"{fold}.npz"
        if not out.is_file():
            train_fold(rows, fold, 60 * given.minutes / len(folds), given.checkpoint, given.batch_size, out)


def train_fold(
    rows: pd.DataFrame, fold: int, seconds: float, checkpoint: str, batch_size: int, out: Path
) -> None:
    """Train on the other folds, predict the held-out one, and write both to `out`."""
    from autogluon.multimodal import MultiModalPredictor

    start = time.perf_counter()
    held_out, others = rows[rows["fold"] == fold], rows[rows["fold"] != fold]
    subjects = np.random.default_rng(fold).permutation(others["subject"].unique())
    is_tuned = others["subject"].isin(subjects[: max(1, round(_TUNED * len(subjects)))])
    folder = out.with_suffix(".model")
    shutil.rmtree(folder, ignore_errors=True)
    predictor = MultiModalPredictor(
        label="label", problem_type="multiclass", eval_metric="log_loss", path=str(folder)
    )
    columns = ["image", "label"]
    predictor.fit(
        others.loc[~is_tuned, columns],
        tuning_data=others.loc[is_tuned, columns],
        time_limit=_SPARE * seconds,
        seed=0,
        hyperparameters={
            "model.names": ["timm_image"],
            "model.timm_image.checkpoint_name": checkpoint,
            "env.num_gpus": 0,
            "env.num_workers": 0,
            "env.per_gpu_batch_size": batch_size,
            "env.batch_size": batch_size,
        },
    )
    probs = predictor.predict_proba(held_out[["image"]])
    by_class = probs.reindex(columns=sorted(rows["label"].unique())).to_numpy()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".tmp.npz")
    np.savez(partial, probs=by_class, rows=held_out.index.to_numpy(), seconds=time.perf_counter() - start)
    partial.replace(out)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"fold {fold}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
