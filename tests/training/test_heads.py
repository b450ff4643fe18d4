"""The head that the features phase fits: accurate, independent of scale, and robust to rare features."""

import numpy as np
import pytest
import torch

from conftest import model_config
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights
from distracted.schema import FeaturesPhase
from distracted.training.heads import fit_head

PHASE = FeaturesPhase(kind="features", c=1.0, max_iter=200)


def clusters(num_classes: int, num_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Features in well separated clusters, one per class, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % num_classes
    features = (
        rng.normal(size=(num_classes, num_features))[labels] + rng.normal(size=(200, num_features)) / 10
    )
    return features.astype(np.float32), labels


def fitted(features: np.ndarray, labels: np.ndarray) -> Network:
    network = build_network(model_config("test_resnet", 32), Weights("none"), num_classes=labels.max() + 1)
    fit_head(network, features, labels, PHASE)
    return network


@torch.no_grad()
def logits(network: Network, features: np.ndarray) -> np.ndarray:
    return network.head(torch.from_numpy(features)).numpy()


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_the_fitted_head_separates_the_classes(num_classes: int, network: Network) -> None:
    """Two classes are a special case: scikit-learn keeps a single row of weights for both."""
    features, labels = clusters(num_classes, network.head.classifier.in_features)
    assert (logits(fitted(features, labels), features).argmax(axis=1) == labels).all()


def test_scale_and_offset_of_the_features_do_not_matter(network: Network) -> None:
    """Features that are shifted and a thousand times as large give the same predictions."""
    features, labels = clusters(3, network.head.classifier.in_features)
    other = features * 1000 + 7
    expected = logits(fitted(features, labels), features)
    expected -= expected.mean(axis=1, keepdims=True)
    scaled = logits(fitted(other, labels), other)
    np.testing.assert_allclose(scaled - scaled.mean(axis=1, keepdims=True), expected, atol=0.02)


def test_a_feature_that_is_almost_always_zero_gets_no_huge_weight(network: Network) -> None:
    """Augmented images may activate it, and a huge weight would then decide the prediction."""
    features, labels = clusters(3, network.head.classifier.in_features)
    features[:, 0] = 1e-3 * (labels == 0)
    head = fitted(features, labels)
    before = logits(head, features[:1])
    features[0, 0] = 1.0
    assert np.abs(logits(head, features[:1]) - before).max() < 1


def test_constant_features_give_uniform_predictions(network: Network) -> None:
    features = np.ones((30, network.head.classifier.in_features), np.float32)
    constant = logits(fitted(features, np.arange(30) % 3), features)
    np.testing.assert_allclose(constant - constant.mean(axis=1, keepdims=True), 0, atol=1e-3)
