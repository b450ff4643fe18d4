"""Labels that are probably wrong, by confident learning (Northcutt et al. 2021, cleanlab)."""

import itertools
import logging
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from distracted.audit.findings import Check, as_findings, describe_image
from distracted.audit.mistakes import RowScores
from distracted.data.folds import Folds
from distracted.predictions.store import Store
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

#: Two teach for each fold that is judged, blind to a third.
MIN_FOLDS = 3
_STRENGTH = 0.01  # inverse, of the L2 penalty, on features of unit variance
_ITERATIONS = 200


def can_judge() -> bool:
    """Whether cleanlab is installed; says how it would be."""
    if find_spec("cleanlab") is not None:
        return True
    _log.warning(
        "labels are not looked at: cleanlab is not installed (pip install -e '.[audit]' -c requirements.lock)"
    )
    return False


def find_wrong_labels(
    labels: NDArray[np.int64], probs: NDArray[np.float64], *, poor: bool = False
) -> NDArray[np.int64]:
    """Rows whose label is probably wrong, the most probable first.

    Args:
        labels: Class ids, (num_images,).
        probs: Of networks that have not seen the row, (num_images, num_classes).
        poor: The networks are often wrong themselves: a row has to stand out in two ways.
    """
    from cleanlab.filter import find_label_issues  # slow to import, and an extra

    present = np.unique(labels)  # cleanlab wants every class to occur
    ids = np.searchsorted(present, labels)
    own = probs[:, present]
    own = own / np.maximum(own.sum(axis=1, keepdims=True), 1e-12)
    if len(present) < 2:
        return np.empty(0, dtype=np.int64)
    found = find_label_issues(
        ids,
        own,
        filter_by="both" if poor else "confident_learning",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return np.asarray(found, dtype=np.int64)


def check_labels(store: Store, scored: RowScores) -> Check:
    """Look for wrong labels by a run's out-of-fold predictions."""
    probs, labels = np.exp(scored.log_probs), scored.table["label"].to_numpy()
    rows = []
    for position in find_wrong_labels(labels, probs):
        row = int(scored.table.index[position])
        best = int(probs[position].argmax())
        rows.append(
            {
                **describe_image(store, row),
                "value": float(probs[position, labels[position]]),
                "note": f"looks like {scored.classes[best]} ({probs[position, best]:.0%})",
            }
        )
    about = (
        f"Confident learning on the out-of-fold predictions of {scored.run}. Hard pictures are among them: "
        "look before you believe. What judged them was trained on the other folds: to leave images out of "
        "training because of it would leak. `make audit DROPS=1` makes a list for each fold, blind to it."
    )
    return Check(
        "label_issues",
        "Labels that are probably wrong",
        about,
        "warning",
        as_findings(rows),
        value="probability of the given label",
    )


def blind_label_issues(
    features: NDArray[np.float32], folds: Folds, *, progress: Progress = silent
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """For each fold, rows of its training side whose labels are probably wrong, without a look at the fold.

    A list from out-of-fold predictions would not do: what judged a row of the training side was itself
    trained on the fold's own rows. So the training side is cross-validated in itself, by its own folds, with
    logistic regressions on a pretrained network's features, which know nothing of this data.

    Args:
        features: Of the training images, (num_images, num_features).

    Returns:
        Of each fold, its rows, the most probable first; nothing where there are fewer than three folds.
    """
    num = folds.num_folds
    if num < MIN_FOLDS:
        return
    num_classes = int(folds.labels.max()) + 1
    # What neither fold has taught predicts one of them for the training side of the other.
    probs: dict[tuple[int, int], NDArray[np.float64]] = {}
    pairs = list(itertools.combinations(range(num), 2))
    with progress("label issues, blind to each fold", total=len(pairs), unit="fit") as step:
        for first, second in pairs:
            taught = ~np.isin(folds.ids, [first, second])
            head = make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=_ITERATIONS))
            with threadpool_limits(1, user_api="blas"):  # as in `fit_logistic`: several wait for each other
                head.fit(features[taught], folds.labels[taught])
            for blind, judged in ((first, second), (second, first)):
                found = np.zeros((len(folds.valid(judged)), num_classes))
                found[:, head.classes_] = head.predict_proba(features[folds.valid(judged)])
                probs[blind, judged] = found
            step()
    for blind in range(num):
        others = [fold for fold in range(num) if fold != blind]
        side = np.concatenate([folds.valid(fold) for fold in others])
        joined = np.concatenate([probs[blind, fold] for fold in others])
        yield blind, side[find_wrong_labels(folds.labels[side], joined, poor=True)]
