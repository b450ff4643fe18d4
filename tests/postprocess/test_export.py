"""An exported network predicts the same as the stored one, with preprocessing from its metadata."""

import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from distracted.errors import WeightsError
from distracted.postprocess import export
from distracted.postprocess.export import export_network, run_onnx, to_onnx
from distracted.predictions.store import Store
from networks_with_statistics import BACKBONES, make_network, pictures
from untrained import RUNTIME, write_untrained

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytestmark = pytest.mark.slow  # networks in each


def test_its_metadata_suffice_to_predict_a_photograph(store: Store) -> None:
    """With nothing but OpenCV, ONNX Runtime and the file."""
    run = write_untrained(store)
    exported = export_network(store, run, 1, runtime=RUNTIME)
    model = onnx.load(exported.path)
    metadata = {item.key: item.value for item in model.metadata_props}
    how = json.loads(metadata["preprocessing"])
    assert (metadata["run"], metadata["fold"]) == ("tiny", "1")
    assert json.loads(metadata["classes"]) == list(store.competition.classes)
    assert metadata["config_hash"] == run.manifests[1].config_hash
    images = []
    for path in store.competition.test_paths():
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        kept_h, kept_w = round(height * how["crop"]), round(width * how["crop"])
        top, left = (height - kept_h) // 2, (width - kept_w) // 2
        image = image[top : top + kept_h, left : left + kept_w]
        shrinks = kept_h * kept_w > how["size"] ** 2
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        images.append(cv2.resize(image, (how["size"], how["size"]), interpolation=interpolation))
    logits = run_onnx(exported.path.read_bytes())(torch.from_numpy(np.stack(images)))
    np.testing.assert_allclose(logits.log_softmax(1).numpy(), run.test[1], atol=1e-4)


def test_a_model_that_differs_from_torch_is_not_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_untrained(store)
    monkeypatch.setattr(export, "_TOLERANCE", 0.0)
    with pytest.raises(WeightsError, match=r"tiny, fold 0: the ONNX model is .* off torch"):
        export_network(store, run, 0, runtime=RUNTIME)
    assert not store.workspace.onnx("tiny", "tiny", 0).exists()


def test_a_network_that_was_trained_in_half_precision_is_compared_in_full(store: Store) -> None:
    run = write_untrained(store, "half", "training.precision=bf16")
    exported = export_network(store, run, 0, runtime=RUNTIME)
    assert exported.off < 1e-4 and exported.path.is_file()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_kind_of_backbone_is_exported(backbone: str) -> None:
    network, images = make_network(backbone), pictures(6, 64, 64, 3)
    logits = run_onnx(to_onnx(network, images[:2]))(images)
    with torch.no_grad():
        expected = network(images)
    assert (logits.log_softmax(1) - expected.log_softmax(1)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"regions": ["head", "hands"]}, (3, 64, 64, 3)),
        ({"head": {"block": "layer2", "dropout": 0.2}}, (64, 64, 3)),
        ({"head": {"pooling": "flatten", "hidden": 7, "dropout": 0.2}}, (64, 64, 3)),
    ],
)
def test_regions_and_other_heads_are_exported(settings: Any, shape: tuple[int, ...]) -> None:
    network, images = make_network("test_resnet", **settings), pictures(5, *shape)
    logits = run_onnx(to_onnx(network, images[:2]))(images)
    with torch.no_grad():
        assert torch.allclose(logits, network(images), atol=1e-4)
