"""The network: its head, its blocks, and what freezing means."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from conftest import model_config
from distracted.errors import ConfigError
from distracted.models.network import Network, build_network, find_backbone, fingerprint
from distracted.models.weights import Weights, find_weights
from distracted.schema import BlocksToLearn


def images(number: int = 4) -> torch.Tensor:
    return torch.randint(
        0, 256, (number, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_size_and_normalisation_come_from_the_backbone() -> None:
    inception, resnet = find_backbone("inception_v3"), find_backbone("resnet50")
    assert (inception.image_size, inception.mean, inception.std) == (299, (0.5,) * 3, (0.5,) * 3)
    assert (resnet.image_size, resnet.crop, resnet.repo) == (224, 0.95, "timm/resnet50.a1_in1k")


def test_a_white_image_is_normalised_as_the_backbone_wants(network: Network) -> None:
    seen: list[torch.Tensor] = []
    network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.eval()(torch.full((1, 32, 32, 3), 255, dtype=torch.uint8))
    backbone = find_backbone("test_resnet")
    expected = (1 - torch.tensor(backbone.mean)) / torch.tensor(backbone.std)
    torch.testing.assert_close(seen[0][0, :, 5, 5], expected)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_on_pretrained_weights_the_first_prediction_is_uniform(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "trunk.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.trunk.state_dict().items()}, path)
    weights = find_weights("test_resnet", str(path), repo=None)
    pretrained = build_network(model_config("test_resnet", 32), weights, num_classes=3)
    assert pretrained.eval()(images()).abs().max() == 0


def test_from_random_weights_the_trunk_learns_from_the_first_step(network: Network) -> None:
    nn.functional.cross_entropy(network(images()), torch.tensor([0, 1, 2, 0])).backward()
    first = next(network.trunk.parameters())
    assert first.grad is not None and first.grad.abs().max() > 0


@pytest.mark.parametrize(
    "backbone",
    [
        "test_resnet",
        "test_vit",
        "test_convnext",
        "test_efficientnet",
        pytest.param("vgg11", marks=pytest.mark.slow),
    ],
)
def test_blocks_hold_every_parameter_once(backbone: str) -> None:
    network = build_network(model_config(backbone, 64), Weights("none"), num_classes=3)
    names = [name for block in network.blocks() for name in block]
    assert sorted(names) == sorted(name for name, _ in network.trunk.named_parameters())
    assert len(network.blocks()) >= 3
    assert network(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape == (2, 3)


def test_only_what_is_unfrozen_gets_a_gradient(network: Network) -> None:
    blocks = network.blocks()
    network.unfreeze(BlocksToLearn(blocks=1))
    network.train_learning(batchnorm=False)
    network(images()).square().sum().backward()
    learning = {name for name, parameter in network.trunk.named_parameters() if parameter.grad is not None}
    assert learning == set(blocks[-1])
    assert network.head.weight.grad is not None


def test_a_frozen_base_builds_no_graph_and_stays_in_eval_mode(network: Network) -> None:
    network.unfreeze("head")
    network.train_learning(batchnorm=True)
    assert not any(module.training for module in network.trunk.modules())
    assert network.head.training
    before = fingerprint(network.trunk)
    loss = nn.functional.cross_entropy(network(images()), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert network.head.weight.grad is not None
    assert all(parameter.grad is None for parameter in network.trunk.parameters())
    assert fingerprint(network.trunk) == before


@pytest.mark.parametrize("learns", [False, True])
def test_batchnorm_statistics_move_only_when_asked(network: Network, learns: bool) -> None:
    network.unfreeze("all")
    network.train_learning(batchnorm=learns)
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    network(images())
    assert torch.equal(norm.running_mean, before) is not learns


def test_too_many_blocks_are_refused(network: Network) -> None:
    with pytest.raises(ConfigError, match="unfreeze: 99 blocks; this backbone has"):
        network.unfreeze(BlocksToLearn(blocks=99))


def test_a_fingerprint_tells_weights_apart(network: Network) -> None:
    before = fingerprint(network.trunk)
    with torch.no_grad():
        next(network.trunk.parameters())[0, 0, 0, 0] += 1
    assert fingerprint(network.trunk) != before
