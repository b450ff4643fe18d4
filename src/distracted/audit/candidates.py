"""Images to choose a drop list from."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.findings import Check
from distracted.audit.labels import MIN_FOLDS, blind_label_issues
from distracted.data.drops import COLUMNS as DROP_COLUMNS
from distracted.files import write_text
from distracted.predictions.store import Store
from distracted.progress import Progress

_log = logging.getLogger(__name__)


def candidates_of(store: Store) -> Path:
    """The file of images to choose a drop list from."""
    return store.workspace.audit(store.competition.name) / "drop_candidates.csv"


def write_candidates(
    store: Store, checks: list[Check], features: NDArray[np.float32] | None, progress: Progress
) -> None:
    """Write drop_candidates.csv in the drop list's format, for a person to choose from.

    Args:
        features: Features of the training images, to judge labels blind to each fold; None leaves it out.
    """
    rows: list[tuple[str, str, str]] = []
    folds = store.folds.table.set_index("img")["fold"]
    for check in checks:
        for finding in check.findings.to_dict("records"):
            if check.key == "empty" and finding["part"] == "train":
                rows.append((str(finding["img"]), f"shows nothing ({finding['note']})", ""))
            elif check.key == "damaged" and finding["part"] == "train":
                rows.append((str(finding["img"]), f"damaged ({finding['note']})", ""))
            elif check.key in ("exact_duplicates", "near_duplicates"):
                rows += _apart(folds, {str(key): str(value) for key, value in finding.items()}, check.key)
    if features is not None:
        imgs = store.competition.train["img"]
        for fold, issues in blind_label_issues(features, store.folds, progress=progress):
            reason = f"label probably wrong, as judged blind to fold {fold}"
            rows += [(str(imgs.iloc[row]), reason, str(fold)) for row in issues]
        if store.folds.num_folds < MIN_FOLDS:
            _log.warning("fewer than %d folds leave no list of suspicious labels blind to one", MIN_FOLDS)
    table = pd.DataFrame(rows, columns=list(DROP_COLUMNS)).drop_duplicates(["img", "fold"])
    write_text(candidates_of(store), table.to_csv(index=False, lineterminator="\n"))


def _apart(folds: "pd.Series[int]", pair: Mapping[str, str], key: str) -> list[tuple[str, str, str]]:
    """Drops that keep one of two similar pictures out of training where the other is scored.

    Args:
        folds: Each training image's fold, by `img`.

    Returns:
        Rows of the drop list: img, reason and fold, "" for all folds.
    """
    same = "the same picture as" if key == "exact_duplicates" else "nearly the same picture as"
    drops = []
    for one, other, part, whose in (
        (pair["img"], pair["other"], pair["other_part"], pair["other_subject"]),
        (pair["other"], pair["img"], pair["part"], pair["subject"]),
    ):
        if {pair["part"], pair["other_part"]} == {"train"} and folds[one] != folds[other] >= 0:
            drops.append((one, f"{same} {other} of {whose}, which is scored there", str(folds[other])))
        elif part == "test":
            drops.append((one, f"{same} {other} of the test set", ""))
    return drops
