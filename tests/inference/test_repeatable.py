"""Operations that a device cannot repeat are found on a copy of the network, which stays as it is."""

import pytest
import torch
from torch import Tensor

from distracted.inference.repeatable import allow_unrepeatable
from distracted.models.network import Network
from distracted.training.averaging import copy_state
from unrepeatable import Unrepeatable, only_deterministic

IMAGES = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)


def loss(network: Network) -> Tensor:
    return torch.stack([logits.sum() for _, logits in network.weighted_logits(IMAGES)]).sum()


def is_allowed() -> bool:
    return torch.is_deterministic_algorithms_warn_only_enabled()


def test_the_network_and_the_random_generators_stay_as_they_are(network: Network) -> None:
    network.freeze_first(2)
    network.train_learning(batchnorm=True)
    state, generator = copy_state(network), torch.get_rng_state()
    learning = [p.requires_grad for p in network.parameters()]
    modes = [m.training for m in network.modules()]
    with only_deterministic():
        allow_unrepeatable(network, lambda copied: loss(copied) * torch.rand(()))
        assert not is_allowed()
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == learning
    assert [m.training for m in network.modules()] == modes


def test_an_operation_among_frozen_layers_is_found_and_named_once(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    """They may learn later in the phase."""
    first = network.trunk.get_submodule(network.blocks[0].output)
    first.register_forward_hook(lambda module, inputs, output: Unrepeatable.apply(output))
    network.freeze_first(sum(len(block.layers) for block in network.blocks))
    network.train_learning(batchnorm=True)
    with only_deterministic():
        loss(network).backward()  # type: ignore[no-untyped-call]  # not met yet
        for _ in range(2):
            allow_unrepeatable(network, loss)
            assert is_allowed()
    assert caplog.text.count("put_ has no deterministic implementation on CUDA") == 1


def test_an_operation_of_the_loss_is_found(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    with only_deterministic():
        allow_unrepeatable(network, lambda copied: Unrepeatable.apply(loss(copied)))
    assert "put_ has no deterministic implementation" in caplog.text


def test_other_errors_are_raised_and_exhausted_memory_is_said(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(copied: Network) -> Tensor:
        raise RuntimeError("the shapes do not fit")

    def exhaust(copied: Network) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with only_deterministic():
        with pytest.raises(RuntimeError, match="shapes"):
            allow_unrepeatable(network, fail)
        allow_unrepeatable(network, exhaust)
        assert not is_allowed()
    assert "too little memory to look for operations" in caplog.text and "(CUDA out of" in caplog.text


def test_nothing_is_tried_where_every_operation_is_allowed(network: Network) -> None:
    def fail(copied: Network) -> Tensor:
        raise AssertionError("tried")

    allow_unrepeatable(network, fail)
