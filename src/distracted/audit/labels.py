"""Labels that are probably wrong, by confident learning (Northcutt et al. 2021, cleanlab)."""

import itertools
import logging
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from distracted.audit.findings import Check, image_findings
from distracted.audit.mistakes import RowScores
from distracted.data.folds import Folds
from distracted.predictions.store import Store
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

#: One fold is judged, blind to another, by a model that is fitted on the rest.
MIN_FOLDS = 3
_C = 0.01  # inverse L2 strength, for features of unit variance
_MAX_ITER = 200


def can_judge() -> bool:
    """Whether cleanlab is installed; logs how to install it if not."""
    if find_spec("cleanlab") is not None:
        return True
    _log.warning("labels are not checked: cleanlab is not installed; make setup installs it")
    return False


def find_wrong_labels(
    labels: NDArray[np.int64], probs: NDArray[np.float64], *, poor: bool = False
) -> NDArray[np.int64]:
    """Rows whose label is probably wrong, the most suspicious first.

    Args:
        labels: Class ids, shape (num_images,).
        probs: Predictions of each row by a model not trained on it, shape (num_images, num_classes).
        poor: The model is often wrong itself, so two of cleanlab's criteria have to agree.
    """
    from cleanlab.filter import find_label_issues  # slow to import, and an extra

    present = np.unique(labels)  # cleanlab requires every class to occur
    if len(present) < 2:
        return np.empty(0, dtype=np.int64)
    own_probs = probs[:, present]
    issues = find_label_issues(
        np.searchsorted(present, labels),
        own_probs / np.maximum(own_probs.sum(axis=1, keepdims=True), 1e-12),
        filter_by="both" if poor else "confident_learning",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return np.asarray(issues, dtype=np.int64)


def check_labels(store: Store, scored: RowScores) -> Check:
    """Look for wrong labels in a run's out-of-fold predictions."""
    probs, labels = np.exp(scored.log_probs), scored.table["label"].to_numpy()
    wrong = find_wrong_labels(labels, probs)
    best = probs[wrong].argmax(axis=1)
    notes = [
        f"looks like {scored.classes[label]} ({p:.0%})"
        for label, p in zip(best, probs[wrong, best], strict=True)
    ]
    given = probs[wrong, labels[wrong]].tolist()
    rows = scored.table.index[wrong].tolist()
    findings = image_findings(store.competition, rows, value=given, note=notes)
    about = (
        f"Confident learning on the out-of-fold predictions of {scored.run}. Some are just hard images, so "
        "look at each. Do not drop images because of this list: its networks were trained on the other "
        "folds, so dropping would leak. `make audit DROPS=1` makes a list by models that never saw the fold."
    )
    title, value = "Labels that are probably wrong", "probability of the given label"
    return Check("label_issues", title, about, "warning", findings, value=value)


def blind_label_issues(
    features: NDArray[np.float32], folds: Folds, *, progress: Progress = silent
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """For each fold, the rows of its training side whose labels are probably wrong, judged blind to the fold.

    Out-of-fold predictions cannot be used: the network that predicted a row of the training side was trained
    on the fold's own rows. Instead each training side is cross-validated by itself, over its own folds, with
    logistic regressions on features of a network pretrained on other data.

    Args:
        features: Features of the training images, shape (num_images, num_features).

    Yields:
        Each fold and its suspicious rows, the most suspicious first; nothing with fewer than three folds.
    """
    num = folds.num_folds
    if num < MIN_FOLDS:
        return
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    num_classes = int(folds.labels.max()) + 1
    # A regression fitted without two folds predicts each of them, blind to the other. It cannot judge rows of
    # a class that it has not seen.
    rows: dict[tuple[int, int], NDArray[np.int64]] = {}
    probs: dict[tuple[int, int], NDArray[np.float64]] = {}
    pairs = list(itertools.combinations(range(num), 2))
    with progress("label issues, blind to each fold", total=len(pairs), unit="fit") as step:
        for first, second in pairs:
            rest = ~np.isin(folds.ids, [first, second])
            seen = np.unique(folds.labels[rest])
            model = make_pipeline(StandardScaler(), LogisticRegression(C=_C, max_iter=_MAX_ITER))
            with threadpool_limits(1, user_api="blas"):  # as in `fit_logistic`
                if len(seen) > 1:
                    model.fit(features[rest], folds.labels[rest])
            for blind, judged in ((first, second), (second, first)):
                held_out = folds.valid(judged)
                held_out = held_out[np.isin(folds.labels[held_out], seen) & (len(seen) > 1)]
                predicted = np.zeros((len(held_out), num_classes))
                if len(held_out):
                    predicted[:, seen] = model.predict_proba(features[held_out])
                rows[blind, judged], probs[blind, judged] = held_out, predicted
            step()
    for blind in range(num):
        others = [fold for fold in range(num) if fold != blind]
        judged_rows = np.concatenate([rows[blind, fold] for fold in others])
        predictions = np.concatenate([probs[blind, fold] for fold in others])
        yield blind, judged_rows[find_wrong_labels(folds.labels[judged_rows], predictions, poor=True)]
