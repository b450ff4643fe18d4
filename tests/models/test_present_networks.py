"""The networks of the configs that a competitor would choose now: their blocks, a step, an export."""

import pytest
import torch

from distracted.config import load_config
from distracted.models.backbone import build_trunk, find_backbone
from distracted.models.blocks import count_layers, find_blocks
from distracted.models.network import build_network
from distracted.models.weights import Weights
from distracted.postprocess.export import run_onnx, to_onnx

LARGE = ("caformer_b36", "convnext_base_clip", "dinov3_large", "eva02_large", "pe_core_large", "siglip2_base")
SMALL = ("caformer_s18", "dinov3_small", "pe_core_base")  # and small enough to be built in a test

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [*LARGE, *SMALL])
def test_blocks_hold_every_parameter_once(name: str) -> None:
    backbone = find_backbone(load_config(model=name, data="sample").model.backbone)
    with torch.device("meta"):  # shapes without values
        trunk = build_trunk(backbone, backbone.image_size, dense_layers=False)
    blocks = find_blocks(trunk)
    parameters = [parameter for block in blocks for parameter in block.parameters]
    assert sorted(parameters) == sorted(parameter for parameter, _ in trunk.named_parameters())
    assert len(blocks) >= 5 and blocks[0].name == "stem" and "patch_embed" not in blocks[-1].parameters[0]
    pools_by_attention = name.startswith(("siglip2", "pe_core"))
    assert (blocks[-1].name == "attn_pool") == pools_by_attention


@pytest.mark.parametrize("name", SMALL)
def test_it_steps_with_its_first_blocks_frozen_and_is_exported(name: str) -> None:
    model = load_config(model=name, data="sample").model.model_copy(update={"image_size": 64})
    network = build_network(model, Weights("none"), num_classes=3)
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    first = count_layers(network.blocks[:2])
    network.freeze_first(first)
    network.train_learning(batchnorm=False)
    before = {key: value.clone() for key, value in network.trunk.named_parameters()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    torch.nn.functional.cross_entropy(network(images), torch.arange(3)).backward()
    optimizer.step()
    moved = {key for key, value in network.trunk.named_parameters() if not value.equal(before[key])}
    for number, block in enumerate(network.blocks):
        assert (number >= 2) == bool(moved & set(block.parameters)), block.name
    with torch.no_grad():
        expected = network.eval()(images)
    logits = run_onnx(to_onnx(network, images[:2]))(images)
    assert (logits.log_softmax(1) - expected.log_softmax(1)).abs().max() < 1e-4
