"""Which networks CUDA cannot repeat: those that docs/gpu.md names, by the operations in autograd's graph.

The operations are those of `torch.use_deterministic_algorithms` that have no deterministic implementation.
"""

import re

import pytest
import torch
from torch import nn

from distracted.config import load_config
from distracted.models.backbone import find_backbone
from distracted.models.network import build_network
from distracted.models.weights import Weights
from distracted.paths import CONFIGS
from distracted.training.resolve import with_input
from gpu_parts.repeats import UNREPEATABLE

MODELS = sorted(path.stem for path in (CONFIGS / "models").glob("*.yaml") if path.stem != "majority")
PAGE = (CONFIGS.parent / "docs/gpu.md").read_text()

#: Names of autograd's functions of these operations.
WITHOUT = re.compile(
    r"AvgPool3D|AdaptiveAvgPool[23]D|AdaptiveMaxPool2D|FractionalMaxPool|MaxUnpool|MaxPool2Dunpool"
    r"|Upsample(Linear|Bilinear|Bicubic|Trilinear)|ReflectionPad|GridSampler|NllLoss2D|CtcLoss|EmbeddingBag"
    r"|Put|Histc|Bincount|Median|ScatterReduce|CudnnCtc"
)


def operations(model: str, *overrides: str) -> set[str]:
    """Autograd's functions in a training step that have no deterministic implementation on CUDA."""
    config = load_config(model=model, data="sample", overrides=overrides).model
    config = with_input(config, find_backbone(config.backbone))
    network = build_network(config, Weights("none"), num_classes=3)
    network.freeze_first(0)
    network.train_learning(batchnorm=True)
    size = config.image_size
    assert isinstance(size, int)
    logits = network.weighted_logits(torch.zeros(2, size, size, 3, dtype=torch.uint8))
    losses = [weight * nn.functional.cross_entropy(rows, torch.tensor([0, 1])) for weight, rows in logits]
    todo, seen = [torch.stack(losses).sum().grad_fn], set()
    while todo:
        function = todo.pop()
        if function is not None and function not in seen:
            seen.add(function)
            todo += [following for following, _ in function.next_functions]
    assert len(seen) > 5
    return {function.name() for function in seen if WITHOUT.search(function.name())}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_page_names_the_networks_that_cuda_cannot_repeat(model: str) -> None:
    assert bool(operations(model)) == (f"| `{model}` |" in PAGE) == (model in UNREPEATABLE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "overrides", "cannot"),
    [
        ("googlenet", ["model.head.auxiliary=0"], False),
        ("inception_v3", ["model.image_size=128"], True),
        ("inception_v3", ["model.image_size=128", "model.head.auxiliary=0"], False),
        ("vgg16", ["model.head.dense_layers=true", "model.image_size=128"], True),
        ("vgg16", ["model.head.dense_layers=true"], False),
    ],
)
def test_settings_that_the_page_names(model: str, overrides: list[str], cannot: bool) -> None:
    found = operations(model, *overrides)
    assert all("AdaptiveAvgPool2D" in name for name in found) and bool(found) is cannot
