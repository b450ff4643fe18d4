"""Averages of weights have known answers, and BatchNorm statistics that moved are measured again."""

import numpy as np
import pytest
import torch
from torch import nn

from conftest import model_config
from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.models.network import Network, build_network
from distracted.models.weights import StateDict, Weights
from distracted.training.averaging import Ema, average, copy_state

CPU = torch.device("cpu")


@pytest.fixture
def loader(competition: Competition) -> Loader:
    paths = competition.train_paths()
    augmenter = Augmenter((), size=32, crop=1.0, seed=0)
    return Loader(Files(paths), np.arange(len(paths)), augmenter, batch_size=18, num_workers=0, seed=0)


def average_with(network: Network, others: list[StateDict], share: float, loader: Loader) -> None:
    average(network, others, share=share, batches=loader.epoch(), precision="fp32")


def shifted(state: StateDict, by: float) -> StateDict:
    """All parameters plus `by`; BatchNorm's statistics unchanged."""
    return {name: tensor if "running" in name else tensor + by for name, tensor in state.items()}


def test_the_moving_average_follows_its_definition(network: Network) -> None:
    nn.init.zeros_(network.head.classifier.bias)
    ema = Ema(network, decay=0.5)
    with torch.no_grad():
        network.head.classifier.bias.fill_(1.0)
    expected = 0.0
    for step in (1, 2, 3):
        ema.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * 1.0
    torch.testing.assert_close(ema.network.head.classifier.bias, torch.full((3,), expected))


def test_the_moving_average_follows_a_resumed_network(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading a state changes tensors in place; a step asks for no state_dict, which takes milliseconds."""
    ema, state = Ema(network, decay=0.9), network.state_dict()
    network.load_state_dict({n: t + 1 if t.is_floating_point() else t + 7 for n, t in state.items()})
    ema.load_state_dict(ema.state_dict())
    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, "state_dict", None)
        for _ in range(100):
            ema.update()
    for name, tensor in ema.network.state_dict().items():
        torch.testing.assert_close(tensor, network.state_dict()[name], atol=1e-3, rtol=0)


def test_an_average_of_known_states(network: Network, loader: Loader) -> None:
    own = copy_state(network)
    average_with(network, [shifted(own, 3.0), shifted(own, 6.0)], 1 / 3, loader)
    for name, tensor in network.state_dict().items():
        moved = tensor.is_floating_point() and "running" not in name
        torch.testing.assert_close(tensor, own[name] + 3.0 if moved else own[name])


def test_the_share_is_the_weight_of_the_other_state(network: Network, loader: Loader) -> None:
    own = copy_state(network)
    average_with(network, [shifted(own, 1.0)], 0.2, loader)
    bias = network.head.classifier.bias
    torch.testing.assert_close(bias, own["head.classifier.bias"] + 0.2)


def test_tensors_that_are_equal_in_all_states_keep_their_bytes(network: Network, loader: Loader) -> None:
    own = copy_state(network)
    average_with(network, [own, own], 1 / 3, loader)
    assert all(tensor.equal(own[name]) for name, tensor in network.state_dict().items())


def test_a_copied_state_does_not_follow_the_network(network: Network) -> None:
    state = copy_state(network)
    with torch.no_grad():
        network.head.classifier.bias += 1
    assert not state["head.classifier.bias"].equal(network.head.classifier.bias)


def test_statistics_that_moved_are_measured_under_the_averaged_weights(
    network: Network, loader: Loader
) -> None:
    """Checked at the first BatchNorm: its mean is that of its inputs under the averaged weights."""
    own = copy_state(network)
    moved = {name: t + 5.0 if "running" in name else t * 0.9 for name, t in own.items()}
    average_with(network, [moved], 0.5, loader)
    name, norm = next((n, m) for n, m in network.trunk.named_modules() if isinstance(m, nn.BatchNorm2d))
    means: list[torch.Tensor] = []
    hook = norm.register_forward_pre_hook(lambda module, inputs: means.append(inputs[0].mean((0, 2, 3))))
    with torch.no_grad():
        for batch in loader.epoch(0):
            network(batch.images)
    hook.remove()
    assert norm.running_mean is not None and not network.training and norm.momentum == 0.1
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    halfway = own[f"trunk.{name}.running_mean"] + 2.5  # the average of the two states' statistics
    assert (norm.running_mean - halfway).abs().min() > 0.1


def test_networks_without_batchnorm_need_no_images(loader: Loader) -> None:
    network = build_network(model_config("test_vit", 32), Weights("none"), num_classes=3)
    batches = loader.epoch()
    average(network, [shifted(copy_state(network), 1.0)], 0.5, batches=batches, precision="fp32")
    assert len(list(batches)) == len(loader)  # none has been read
