"""Blocks and layers of many backbone families, and the number of layers that each setting freezes."""

import pytest
import timm
import torch
from torch import nn

from distracted.errors import ConfigError
from distracted.models.backbone import build_trunk, find_backbone
from distracted.models.blocks import count_layers, find_blocks, frozen_layers
from distracted.schema import TrainPhase


def trunk_of(name: str) -> nn.Module:
    """A trunk on the meta device, which has shapes but no values."""
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0)


def names_of(name: str) -> list[str]:
    return [block.name for block in find_blocks(trunk_of(name))]


def phase(**settings: object) -> TrainPhase:
    return TrainPhase.model_validate({"kind": "train", "epochs": 1, "lr": 0.1, **settings})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "vgg16",
        "vgg11_bn",
        "inception_v3",
        "inception_v4",
        "resnet50",
        "densenet121",
        "legacy_xception",
        "mobilenetv1_100",
        "efficientnet_b0",
        "convnextv2_tiny",
        "eva02_small_patch14_336",
        "vit_base_patch16_dinov3",
        "swinv2_tiny_window8_256",
        "caformer_s18",  # timm has no parameter groups for it
        "pit_ti_224",  # nor for this one, whose class token belongs to the trunk itself
        "nfnet_f0",
        "test_vit",
    ],
)
def test_blocks_hold_every_parameter_once_and_end_in_a_module(name: str) -> None:
    trunk = trunk_of(name)
    blocks = find_blocks(trunk)
    parameters = [parameter for block in blocks for parameter in block.parameters]
    assert sorted(parameters) == sorted(parameter for parameter, _ in trunk.named_parameters())
    assert len({block.name for block in blocks}) == len(blocks) >= 4
    ndims = {parameter: value.ndim for parameter, value in trunk.named_parameters()}
    for block in blocks:
        trunk.get_submodule(block.output)
        for layer in block.layers:
            assert any(ndims[parameter] > 1 for parameter in layer), layer


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
@torch.no_grad()
def test_blocks_run_in_their_order(name: str) -> None:
    """A forward pass enters the blocks in the order in which they are listed."""
    trunk = timm.create_model(name, num_classes=0).eval()
    blocks = find_blocks(trunk)
    entered: list[str] = []
    for block in blocks:
        owner = trunk.get_submodule(block.parameters[-1].rpartition(".")[0])
        owner.register_forward_hook(lambda *_, name=block.name: entered.append(name))
    trunk(torch.zeros(1, *trunk.pretrained_cfg["input_size"]))
    assert list(dict.fromkeys(entered)) == [block.name for block in blocks]


def test_blocks_have_the_names_that_people_use() -> None:
    assert names_of("resnet50") == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert names_of("vgg16")[:5] == ["block1", "block2", "block3", "block4", "block5"]
    assert names_of("inception_v3")[-2:] == ["Mixed_7b", "Mixed_7c"]
    assert names_of("convnextv2_tiny") == ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]


def test_a_blocks_output_is_the_end_of_its_feature_stage() -> None:
    """The output is taken after the activation where that is a separate module."""
    assert find_blocks(trunk_of("resnet50"))[0].output == "act1"
    assert find_blocks(trunk_of("vgg16"))[1].output == "features.8"
    assert find_blocks(trunk_of("resnet50"))[2].output == "layer2"


def test_layers_are_counted_as_the_papers_count_them() -> None:
    """Convolutions: 13 in VGG16, 16 in VGG19, 49 in ResNet50 and four more on its shortcuts."""
    for name, expected in (("vgg16", 13), ("vgg19", 16), ("resnet50", 49 + 4), ("resnet152", 151 + 4)):
        with torch.device("meta"):
            trunk = timm.create_model(name, num_classes=0)
        if hasattr(trunk, "pre_logits"):
            trunk.pre_logits = nn.Identity()
        assert count_layers(find_blocks(trunk)) == expected


def test_a_final_norm_belongs_to_the_block_before_it() -> None:
    last = find_blocks(trunk_of("swinv2_tiny_window8_256"))[-1]
    assert last.name == "layers.3" and "norm.weight" in last.parameters


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        ({"unfreeze": "all"}, 0),
        ({"unfreeze": "head"}, 53),
        ({"unfreeze": {"blocks": 2}}, 1 + 10 + 13),
        ({"unfreeze": {"blocks": 5}}, 0),
        ({"unfreeze": {"from": "layer3"}}, 1 + 10 + 13),
        ({"unfreeze": {"from": "stem"}}, 0),
        ({"unfreeze": {"layers": 20}}, 33),
        ({"freeze": {"layers": 10}}, 10),
        ({"freeze": {"blocks": 1}}, 1),
        ({"freeze": {"layers": 53}}, 53),
    ],
)
def test_every_setting_freezes_a_number_of_first_layers(settings: dict[str, object], frozen: int) -> None:
    assert frozen_layers(find_blocks(trunk_of("resnet50")), phase(**settings)) == frozen


def test_gradual_unfreezes_blocks_from_the_last_at_equal_intervals() -> None:
    blocks = find_blocks(trunk_of("resnet50"))
    frozen = [frozen_layers(blocks, phase(unfreeze="gradual"), done=step / 10) for step in range(10)]
    assert frozen == [43, 43, 24, 24, 11, 11, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"unfreeze": {"from": "layer9"}},
            "unfreeze: this backbone has no block 'layer9'; from the input on it has stem, layer1, layer2",
        ),
        ({"unfreeze": {"blocks": 6}}, "unfreeze: 6 blocks; this backbone has 5"),
        ({"unfreeze": {"layers": 54}}, "unfreeze: 54 layers; this backbone has 53"),
        ({"freeze": {"layers": 54}}, "freeze: 54 layers; this backbone has 53"),
        ({"freeze": {"blocks": 6}}, "freeze: 6 blocks; this backbone has 5"),
    ],
)
def test_unknown_blocks_and_too_large_numbers_are_rejected(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        frozen_layers(find_blocks(trunk_of("resnet50")), phase(**settings))


@pytest.mark.parametrize("name", ["googlenet", "cnn", "mlp"])
def test_custom_networks_have_blocks_too(name: str) -> None:
    trunk = build_trunk(find_backbone(name), 64, dense_layers=False)
    blocks = find_blocks(trunk)
    parameters = [parameter for block in blocks for parameter in block.parameters]
    assert parameters == [parameter for parameter, _ in trunk.named_parameters()]
    assert blocks[0].name == "stem" and len(blocks) >= 2
