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
    """Fit on standardised features and write the result into the network's head, the standardisation folded
    in.

    Args:
        features: Pooled features of the training side, shape (num_images, num_features).
        labels: Class ids, each class present, shape (num_images,).
    """
    mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-6 * std.max(initial=0.0), std, np.inf)  # a feature that never moves tells nothing
    model = LogisticRegression(C=phase.c, max_iter=phase.max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a starting point need not be the optimum
        model.fit((features - mean) / std, labels)
    weight = model.coef_ / std
    bias = model.intercept_ - weight @ mean
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(weight))
        network.head.bias.copy_(torch.from_numpy(bias))
