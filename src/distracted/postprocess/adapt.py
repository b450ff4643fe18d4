"""Adaptation to new subjects: what a subject adds to the logits of all of its images is removed.

A network tends to see the same class, or to lack another, in all images of one person, camera or room. With
known subjects, features are centred by subject; here subjects are clusters of images, and logits are centred,
since those of the folds' networks mean the same while their features do not.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from distracted.errors import ConfigError
from distracted.metrics import log_loss
from distracted.postprocess.spaces import Space, stored_spaces
from distracted.postprocess.step import Examples, LogProbs, PredictionStep, Rows, normalised
from distracted.postprocess.subject_clusters import SubjectClusters
from distracted.predictions.run import StoredRun
from distracted.predictions.store import Store

#: Images that count as much as the assumption that a subject adds nothing: the candidates.
PRIOR_IMAGES = (5.0, 20.0, 80.0)
#: Mean agreement of clusters with known subjects from which on they are taken for subjects.
MIN_AGREEMENT = 0.3
_LARGEST = 15.0  # absolute value of a logit: one sure and wrong row is not to move its subject


@dataclass(frozen=True)
class Adaptation:
    """What was fitted.

    Attributes:
        prior_images: Strength of the shrinkage; 0 if predictions stay, since clusters are not subjects.
        class_logits: Mean logits of each class, (num_classes, num_classes).
        agreement: Adjusted Rand index of clusters and known subjects, mean over the folds it was fitted on.
    """

    prior_images: float
    class_logits: tuple[tuple[float, ...], ...]
    agreement: float


@dataclass(frozen=True, eq=False)
class Adapt(PredictionStep):
    """Removes from logits what an image's subject adds to them, where clusters are subjects and it pays.

    Attributes:
        spaces: One space with `SubjectClusters`, by the model whose features are clustered.
    """

    spaces: Mapping[str, Space]
    name: ClassVar[str] = "adapt"
    suffix: ClassVar[str] = "adapted"
    target: ClassVar[str] = "adapt"

    @classmethod
    def from_text(cls, text: str) -> Self:
        raise ConfigError(f"STEP={cls.name}: it needs clusters; `make adapt` makes them")

    @classmethod
    def load(cls, store: Store, run: StoredRun) -> Self:
        return cls(stored_spaces(store, run))

    def settings(self) -> dict[str, Any]:
        [(name, space)] = self.spaces.items()
        described = {SubjectClusters.kind: {name: space.description}}
        return {"spaces": described, "prior_images": list(PRIOR_IMAGES), "min_agreement": MIN_AGREEMENT}

    @classmethod
    def variables(cls, settings: Mapping[str, Any]) -> dict[str, str]:
        spaces = settings.get("spaces", {}).get(SubjectClusters.kind, {})
        return {"MODEL": next(iter(spaces))} if spaces else {}

    @classmethod
    def needs_all_images(cls, settings: Mapping[str, Any]) -> str:
        return "compares the images of a subject"

    @property
    def must_beat_identity(self) -> bool:
        return True

    @property
    def num_candidates(self) -> int:
        return 1 + len(PRIOR_IMAGES)  # with no change at all

    @property
    def seconds(self) -> float:
        return sum(space.seconds for space in self.spaces.values())

    def inputs(self, fold: int) -> dict[str, Any]:
        [(name, space)] = self.spaces.items()
        kind = SubjectClusters.kind
        return {"spaces": {kind: {name: space.keys_of_fold(kind, fold)}}}

    def fit(self, examples: Examples) -> Adaptation:
        from sklearn.metrics import adjusted_rand_score

        (log_probs,) = examples.log_probs
        class_logits = _class_logits(_logits(log_probs), examples.labels)
        adapted = {prior_images: np.empty(log_probs.shape) for prior_images in PRIOR_IMAGES}
        agreements = []
        for positions, rows in examples.by_fold():
            clusters, subjects = self._clusters(rows), examples.subjects[positions]
            if len(np.unique(subjects)) > 1:  # of a single subject, it would be 0 or 1 by chance
                agreements.append(float(adjusted_rand_score(subjects, clusters)))
            for prior_images, predicted in adapted.items():
                predicted[positions] = _adapted(rows.log_probs[0], clusters, class_logits, prior_images)
        best = min(adapted, key=lambda prior_images: log_loss(adapted[prior_images], examples.labels))
        agreement = float(np.mean(agreements)) if agreements else 0.0
        as_tuples = tuple(map(tuple, class_logits.tolist()))
        return Adaptation(best if agreement >= MIN_AGREEMENT else 0.0, as_tuples, agreement)

    def predict(self, fitted: Adaptation, rows: Rows) -> LogProbs:
        if not fitted.prior_images:
            return normalised(rows.log_probs[0])
        class_logits = np.array(fitted.class_logits)
        return _adapted(rows.log_probs[0], self._clusters(rows), class_logits, fitted.prior_images)

    def describe(self, fits: Sequence[Adaptation | None], overall: Any, runs: Sequence[str]) -> str:
        texts = Counter(_in_words(fitted) for fitted in fits)
        agreements = [fitted.agreement for fitted in fits if fitted is not None]
        span = ""
        if agreements:
            span = f"; agreement with known subjects {min(agreements):.2f} to {max(agreements):.2f}"
        return "; ".join(f"{text} ({number} folds)" for text, number in texts.items()) + span

    def _clusters(self, rows: Rows) -> NDArray[np.int64]:
        [space] = self.spaces.values()
        return space.get(SubjectClusters, rows.subset).clusters


def subject_logits(
    logits: NDArray[np.float64],
    clusters: NDArray[np.int64],
    class_logits: NDArray[np.float64],
    prior_images: float,
) -> NDArray[np.float64]:
    """What each image's cluster adds to its logits, (num_images, num_classes).

    The mean over the cluster of the logits less those that an image's predicted classes have on average,
    shrunk by n / (n + prior_images) as in a model with random effects. Predicting again without the cluster's
    share, and so on, would confirm a network's mistakes.

    Args:
        logits: Shape (num_images, num_classes).
        class_logits: Mean logits of each class, (num_classes, num_classes).
        prior_images: Images that count as much as the assumption of no effect.
    """
    _, ids, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), logits.shape[1]))
    np.add.at(sums, ids, logits - np.exp(normalised(logits)) @ class_logits)
    added: NDArray[np.float64] = (sums / (counts + prior_images)[:, None])[ids]
    return added


def _adapted(
    log_probs: LogProbs, clusters: NDArray[np.int64], class_logits: NDArray[np.float64], prior_images: float
) -> NDArray[np.float64]:
    return normalised(log_probs - subject_logits(_logits(log_probs), clusters, class_logits, prior_images))


def _logits(log_probs: LogProbs) -> NDArray[np.float64]:
    """Logits with mean zero, (num_images, num_classes)."""
    logits: NDArray[np.float64] = np.asarray(log_probs, dtype=np.float64)
    logits = logits - logits.mean(axis=1, keepdims=True)
    return logits.clip(-_LARGEST, _LARGEST)


def _class_logits(logits: NDArray[np.float64], labels: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Mean logits of each class; for absent classes, the mean by predictions counts as one more image."""
    probs = np.exp(normalised(logits))
    sums = (probs / probs.sum(axis=0)).T @ logits
    np.add.at(sums, labels, logits)
    means: NDArray[np.float64] = sums / (1 + np.bincount(labels, minlength=len(sums)))[:, None]
    return means


def _in_words(fitted: Adaptation | None) -> str:
    if fitted is None:
        return "none"
    return (
        f"prior_images={fitted.prior_images:g}"
        if fitted.prior_images
        else "clusters are not shown to be subjects"
    )
