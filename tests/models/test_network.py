"""The network: normalisation, heads, features, and which tensors change under freezing."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from conftest import model_config
from distracted.errors import ConfigError
from distracted.models.backbone import find_backbone
from distracted.models.blocks import count_layers
from distracted.models.network import Network, build_network, fingerprint
from distracted.models.weights import Weights, find_weights


def images(number: int = 4) -> torch.Tensor:
    return torch.randint(
        0, 256, (number, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_size_and_normalisation_come_from_the_backbone() -> None:
    inception, resnet = find_backbone("inception_v3"), find_backbone("resnet50")
    assert (inception.image_size, inception.mean, inception.std) == (299, (0.5,) * 3, (0.5,) * 3)
    assert (resnet.image_size, resnet.crop, resnet.source) == (224, 0.95, "timm/resnet50.a1_in1k")


def test_a_white_image_is_normalised_as_the_backbone_expects(network: Network) -> None:
    seen: list[torch.Tensor] = []
    network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.eval()(torch.full((1, 32, 32, 3), 255, dtype=torch.uint8))
    backbone = find_backbone("test_resnet")
    expected = (1 - torch.tensor(backbone.mean)) / torch.tensor(backbone.std)
    torch.testing.assert_close(seen[0][0, :, 5, 5], expected)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_with_pretrained_weights_the_first_prediction_is_uniform(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "trunk.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.trunk.state_dict().items()}, path)
    weights = find_weights("test_resnet", str(path), source=None)
    pretrained = build_network(model_config("test_resnet", 32), weights, num_classes=3)
    assert pretrained.eval()(images()).abs().max() == 0


def test_from_random_weights_the_trunk_learns_from_the_first_step(network: Network) -> None:
    nn.functional.cross_entropy(network(images()), torch.tensor([0, 1, 2, 0])).backward()
    first = next(network.trunk.parameters())
    assert first.grad is not None and first.grad.abs().max() > 0


#: Convolutions with BatchNorm, convolutions with LayerNorm, and a transformer.
FAMILIES = ["test_resnet", "test_convnext", "test_vit"]


def build(backbone: str, **head: object) -> Network:
    torch.manual_seed(0)
    return build_network(model_config(backbone, 32, **head), Weights("none"), num_classes=3)


def loss_of(network: Network) -> torch.Tensor:
    targets = torch.tensor([0, 1, 2, 0])
    losses = [
        w * nn.functional.cross_entropy(logits, targets) for w, logits in network.weighted_logits(images())
    ]
    return torch.stack(losses).sum()


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_exactly_the_layers_that_are_not_frozen_change_in_a_step(backbone: str, share: float) -> None:
    network = build(backbone)
    with torch.no_grad():  # some norms start at zero, and layers before them would get no gradient
        for parameter in network.trunk.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    layers = [layer for block in network.blocks for layer in block.layers]
    num_frozen = round(share * len(layers))
    network.freeze_first(num_frozen)
    network.train_learning(batchnorm=False)
    before = {name: tensor.clone() for name, tensor in network.trunk.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)  # AdamW moves whatever has a gradient
    loss_of(network).backward()
    optimizer.step()
    changed = {name for name, value in network.trunk.state_dict().items() if not value.equal(before[name])}
    trained = {name for layer in layers[num_frozen:] for name in layer}
    assert changed == trained
    assert network.head.classifier.weight.grad is not None


@pytest.mark.parametrize("backbone", FAMILIES)
def test_frozen_blocks_store_no_activations(backbone: str) -> None:
    """The bytes that autograd saves for the backward pass fall with each frozen block."""
    network = build(backbone)
    sizes = []
    for num_blocks in range(len(network.blocks) + 1):
        network.freeze_first(count_layers(network.blocks[:num_blocks]))
        network.train_learning(batchnorm=False)
        saved: list[int] = []
        storages = {p.untyped_storage().data_ptr() for p in network.parameters()}

        def pack(tensor: torch.Tensor, saved: list[int] = saved, known: set[int] = storages) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in known:  # weights take no extra memory
                saved.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss_of(network)
        sizes.append(sum(saved))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 20


def test_a_frozen_base_builds_no_graph_and_stays_in_eval_mode(network: Network) -> None:
    network.freeze_first(count_layers(network.blocks))
    network.train_learning(batchnorm=True)
    assert not any(module.training for module in network.trunk.modules())
    assert network.head.training
    before = fingerprint(network.trunk)
    loss = nn.functional.cross_entropy(network(images()), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert network.head.classifier.weight.grad is not None
    assert all(parameter.grad is None for parameter in network.trunk.parameters())
    assert fingerprint(network.trunk) == before


@pytest.mark.parametrize("moves", [False, True])
def test_batchnorm_statistics_move_only_when_asked(network: Network, moves: bool) -> None:
    network.freeze_first(0)
    network.train_learning(batchnorm=moves)
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    network(images())
    assert torch.equal(norm.running_mean, before) is not moves


def test_batchnorm_of_a_frozen_block_stays_even_when_the_others_move(network: Network) -> None:
    network.freeze_first(count_layers(network.blocks[:2]))
    network.train_learning(batchnorm=True)
    before = {name: value.clone() for name, value in network.trunk.state_dict().items() if "running" in name}
    network(images())
    after = network.trunk.state_dict()
    moved = {name for name, value in before.items() if not after[name].equal(value)}
    frozen = {name.rpartition(".")[0] for block in network.blocks[:2] for name in block.parameters}
    assert moved and not {name.rpartition(".")[0] for name in moved} & frozen


@pytest.mark.parametrize("backbone", FAMILIES)
@torch.no_grad()
def test_an_earlier_block_can_feed_the_head(backbone: str) -> None:
    whole, cut = build(backbone), build(backbone, block="last")
    name = whole.blocks[-3].name
    cut = build(backbone, block=name)
    assert [block.name for block in cut.blocks] == [block.name for block in whole.blocks[:-2]]
    seen: list[torch.Tensor] = []
    entered: list[str] = []
    cut.trunk.get_submodule(cut.blocks[-1].output).register_forward_hook(lambda *a: seen.append(a[2]))
    last = cut.trunk.get_submodule(whole.blocks[-1].output)
    last.register_forward_hook(lambda *a: entered.append("last"))
    features = cut.eval().features(images())
    output = whole.trunk.get_submodule(whole.blocks[-3].output)
    expected: list[torch.Tensor] = []
    output.register_forward_hook(lambda *a: expected.append(a[2]))
    whole.trunk.load_state_dict(cut.trunk.state_dict())
    whole.eval()(images())
    pooled = expected[0].mean((2, 3)) if expected[0].ndim == 4 else expected[0].mean(1)
    torch.testing.assert_close(features, pooled)
    assert not entered  # later blocks are not computed
    assert cut(images()).shape == (4, 3)


@torch.no_grad()
def test_flattened_features_are_the_feature_map() -> None:
    pooled, flat = build("test_resnet"), build("test_resnet", pooling="flatten")
    flat.trunk.load_state_dict(pooled.trunk.state_dict())
    features = flat.eval().features(images()).view(4, pooled.head.classifier.in_features, -1)
    torch.testing.assert_close(features.mean(2), pooled.eval().features(images()))


def test_hidden_adds_a_dense_layer_before_the_classifier() -> None:
    head = build("test_resnet", hidden=16, dropout=0.5).head
    assert [type(m).__name__ for m in head.modules() if not list(m.children())] == [
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
    ]
    assert head.classifier.in_features == 16


def test_an_unknown_block_for_the_head_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"model\.head\.block: .* no block 'layer9'; .*stem, layer1"):
        build("test_resnet", block="layer9")


def with_regions(backbone: str, **head: object) -> Network:
    config = model_config(backbone, 32, **head).model_copy(update={"regions": ("head", "hands")})
    return build_network(config, Weights("none"), num_classes=3)


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("head", [{}, {"pooling": "flatten", "hidden": 4}])
@torch.no_grad()
def test_features_of_views_are_joined_in_order(backbone: str, head: dict[str, object]) -> None:
    """The trunk is that of a network without regions, whose head is a third as wide."""
    plain, joined = build(backbone, **head), with_regions(backbone, **head)
    joined.trunk.load_state_dict(plain.trunk.state_dict())
    views = images(6).view(2, 3, 32, 32, 3)
    expected = torch.cat([plain.eval().features(views[:, number]) for number in range(3)], dim=1)
    torch.testing.assert_close(joined.eval().features(views), expected)
    widths = [next(network.head.parameters()).shape[1] for network in (plain, joined)]
    assert widths[1] == 3 * widths[0] == expected.shape[1]
    assert joined(views).shape == (2, 3)


@torch.no_grad()
def test_an_earlier_block_feeds_the_head_with_each_view() -> None:
    cut = with_regions("test_resnet", block="layer2").eval()
    views = images(6).view(2, 3, 32, 32, 3)
    for number, features in enumerate(cut.features(views).chunk(3, dim=1)):
        torch.testing.assert_close(features, cut.features(views[:, number]))


def build_with_auxiliary(backbone: str, path: Path | None = None, size: int = 80) -> Network:
    weights = Weights("none") if path is None else find_weights(backbone, str(path), source=None)
    return build_network(model_config(backbone, size, auxiliary=0.3), weights, num_classes=3)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "num"), [("googlenet", 2), ("inception_v3", 1)])
def test_auxiliary_heads_are_used_in_training_only(backbone: str, num: int) -> None:
    network = build_with_auxiliary(backbone)
    network.freeze_first(0)
    network.train_learning(batchnorm=False)
    pictures = torch.randint(0, 256, (2, 80, 80, 3), dtype=torch.uint8)
    weighted = network.weighted_logits(pictures)
    assert [weight for weight, _ in weighted] == [1.0] + [0.3] * num
    assert all(logits.shape == (2, 3) for _, logits in weighted)
    torch.stack([logits.sum() for _, logits in weighted]).sum().backward()
    assert all(p.grad is not None for p in network.auxiliary.parameters())
    assert network.eval()(pictures).shape == (2, 3)
    network.freeze_first(count_layers(network.blocks))  # no block is trained
    network.train_learning(batchnorm=False)
    assert len(network.weighted_logits(pictures)) == 1
    assert not any(p.requires_grad for p in network.auxiliary.parameters())


@pytest.mark.slow
def test_an_auxiliary_heads_logits_are_the_mean_over_an_images_views() -> None:
    config = model_config("googlenet", 64, auxiliary=0.3).model_copy(update={"regions": ("hands",)})
    network = build_network(config, Weights("none"), num_classes=3)
    network.freeze_first(0)
    network.eval()
    views = torch.randint(0, 256, (2, 2, 64, 64, 3), dtype=torch.uint8)
    (_, logits), *auxiliary = network.weighted_logits(views)
    assert logits.shape == (2, 3) and len(auxiliary) == 2
    one_by_one = [network.weighted_logits(views[:, [i, i]])[1:] for i in range(2)]
    for number, (_, mean) in enumerate(auxiliary):
        parts = torch.stack([of_view[number][1] for of_view in one_by_one])
        torch.testing.assert_close(mean, parts.mean(0), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_an_auxiliary_head_needs_a_block_below_the_heads_own() -> None:
    for block, left in (("inception4d", ["inception4a"]), ("inception4a", [])):
        config = model_config("googlenet", 64, auxiliary=0.3, block=block)
        network = build_network(config, Weights("none"), num_classes=3)
        assert [head.block for head in network.auxiliary_heads()] == left
        network.freeze_first(0)
        network.train_learning(batchnorm=False)
        assert not any(m.training for m in network.auxiliary.modules() if isinstance(m, nn.BatchNorm2d))
        pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
        assert len(network.weighted_logits(pictures)) == 1 + len(left)


def test_a_copy_of_a_cut_network_is_cut_at_its_own_block() -> None:
    """The moving average (EMA) makes deep copies: the hooks of a copy must not refer to the original."""
    network = build("test_resnet", block="layer2")
    copied = deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert copied.eval()(images()).abs().max() == 0 < network.eval()(images()).abs().max()


def test_blocks_after_the_heads_block_are_never_trained() -> None:
    network = build("test_resnet", block="layer2")
    network.freeze_first(0)
    trained = {name for name, p in network.trunk.named_parameters() if p.requires_grad}
    assert trained == {name for block in network.blocks for name in block.parameters}
    assert not any(name.startswith(("layer3", "layer4")) for name in trained)


def test_auxiliary_heads_are_rejected_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match=r"test_resnet has no auxiliary heads \(only inception_v3"):
        build_with_auxiliary("test_resnet", size=32)


def test_a_fingerprint_changes_with_the_weights(network: Network) -> None:
    before = fingerprint(network.trunk)
    with torch.no_grad():
        next(network.trunk.parameters())[0, 0, 0, 0] += 1
    assert fingerprint(network.trunk) != before
