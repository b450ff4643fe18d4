"""The features phase: a multinomial logistic regression that becomes the head's starting point."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from distracted.models.network import Network
from distracted.schema import FeaturesPhase


def fit_head(
    network: Network, features: NDArray[np.float32], labels: NDArray[np.int64], phase: FeaturesPhase
) -> None:
    """Fit on centred and scaled features and write the result into the network's head, both folded in.

    One scale for all features, not one for each: what hardly ever fires would be blown up by its own, and the
    head would be sure of nonsense as soon as a picture is augmented.

    Args:
        features: Pooled features of the training side, shape (num_images, num_features).
        labels: Class ids, each class present, shape (num_images,).
    """
    mean = features.mean(axis=0, dtype=np.float64)
    scale = max(float(np.sqrt(features.var(axis=0, dtype=np.float64).mean())), 1e-12)
    model = LogisticRegression(C=phase.c, max_iter=phase.max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a starting point need not be the optimum
        model.fit((features - mean) / scale, labels)
    weight = model.coef_ / scale
    bias = model.intercept_ - weight @ mean
    if len(weight) == 1:  # two classes: scikit-learn keeps the difference of their logits
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(weight))
        network.head.bias.copy_(torch.from_numpy(bias))
