"""One optimiser step: in micro-batches if memory runs out, and shared by the processes of a team."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from distracted.data.loading import Batch
from distracted.errors import TrainingError
from distracted.models.network import Network
from distracted.predictions.store import Store
from distracted.schema import RunConfig, TrainPhase
from distracted.training.averaging import copy_state
from distracted.training.context import FoldContext
from distracted.training.distributed import Team, data_parallel
from distracted.training.loop import FoldTraining, train_fold
from distracted.training.metrics_log import Tracker
from distracted.training.phase_training import PhaseTraining
from distracted.training.resolve import resolve
from unrepeatable import Unrepeatable, only_deterministic

PHASE = TrainPhase.model_validate(
    {"kind": "train", "epochs": 1, "unfreeze": "all", "lr": 0.1, "optimizer": "sgd"}
)
NUM_CLASSES = 3


class FixedInputs:
    """A training set whose targets and weights depend only on the position in the batch."""

    def __init__(self, weights: torch.Tensor | None) -> None:
        self.weights = weights

    def inputs(
        self, batch: Batch, *, epoch: int, number: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        weights = None if self.weights is None else self.weights[batch.indices]
        return batch.images, batch.indices % NUM_CLASSES, weights


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(9))


@pytest.fixture
def small_memory(network: Network, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Limits how many images fit on the device; the list that it returns records the sizes that did."""

    def limit(max_images: int) -> list[int]:
        fitted: list[int] = []
        whole = Network.weighted_logits

        def limited(self: Network, images: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
            if len(images) > max_images:
                raise torch.OutOfMemoryError("CUDA out of memory")
            fitted.append(len(images))
            return whole(self, images)

        monkeypatch.setattr(Network, "weighted_logits", limited)
        return fitted

    return limit


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """torch's process group, with this process alone."""
    where = (tmp_path / "processes").as_uri()
    torch.distributed.init_process_group("gloo", init_method=where, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


Make = Callable[..., PhaseTraining]


@pytest.fixture
def context_of(
    store: Store, configure: Callable[..., RunConfig], tmp_path: Path
) -> Callable[..., FoldContext]:
    """Makes the context of fold 0 from overrides of the config."""

    def make(*overrides: str) -> FoldContext:
        return FoldContext(
            resolve(configure(*overrides), num_folds=3),
            0,
            competition=store.competition,
            folds=store.folds,
            cache=tmp_path / "cache",
            tracker=Tracker(),
        )

    return make


@pytest.fixture
def make(network: Network, context_of: Callable[..., FoldContext]) -> Make:
    """Makes a phase that trains the small network without dropout on 36 images in batches of nine."""

    def make(weights: torch.Tensor | None = None) -> PhaseTraining:
        training = FoldTraining(context_of("training.batch_size=9", "training.ema=0", "augment.policy=none"))
        training.network = network
        phase = PhaseTraining(training, "finetune", PHASE)
        phase.training_set = FixedInputs(weights)  # type: ignore[assignment]
        phase.set_modes()
        network.head.dropout.p = 0.0
        return phase

    return make


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_in_micro_batches_is_the_same_step(
    network: Network,
    make: Make,
    batch: Batch,
    small_memory: Callable[[int], list[int]],
    caplog: pytest.LogCaptureFixture,
    weighted: bool,
) -> None:
    weights = torch.linspace(0.5, 1.5, 9) if weighted else None
    start = copy_state(network)
    whole = make(weights).step(batch)
    expected = copy_state(network)
    network.load_state_dict(start)
    fitted = small_memory(4)
    phase = make(weights)
    with caplog.at_level(logging.WARNING):
        in_parts = phase.step(batch)
    # of two micro-batches, the second had 5 images
    assert phase.micro_batches == 4 and fitted == [4, 2, 2, 2, 3]
    assert "each batch of 9 is computed in 4 micro-batches" in caplog.text
    torch.testing.assert_close(in_parts, whole)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    caplog.clear()
    phase.step(batch)
    assert fitted[5:] == [2, 2, 2, 3] and not caplog.records  # the next step starts with the smaller size
    resumed = make(weights)
    resumed.load_state_dict(phase.state_dict())
    assert resumed.micro_batches == 4  # and so does a resumed training


def test_too_little_memory_for_one_image_is_an_error(
    make: Make, batch: Batch, small_memory: Callable[[int], list[int]]
) -> None:
    small_memory(0)
    with pytest.raises(TrainingError, match=r"does not hold 1 images at a time; .* model.image_size"):
        make().step(batch)


def test_the_gradients_of_a_failed_try_are_freed(
    network: Network, make: Make, batch: Batch, small_memory: Callable[[int], list[int]]
) -> None:
    """They are gone when the allocator returns its memory, before the next try."""
    small_memory(4)  # of two micro-batches, the first fits
    phase, held = make(), []
    halve = phase._halve_micro_batches

    def look(num_here: int, num_images: int) -> None:
        before = [p.grad is not None for p in phase.parameters]
        halve(num_here, num_images)
        held.append((any(before), any(p.grad is not None for p in phase.parameters)))

    phase._halve_micro_batches = look  # type: ignore[method-assign]
    phase.step(batch)
    assert held == [(False, False), (True, False)]


def test_gradients_that_overflow_in_every_fp16_step_are_an_error(make: Make, batch: Batch) -> None:
    """The loss is finite, and the gradient scaler skips each step: nothing would be learned."""
    phase = make()
    phase.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**9)
    phase.network.head.classifier.weight.register_hook(lambda gradient: gradient * torch.inf)
    for _ in range(9):
        phase.unread.append(phase.step(batch))
    assert set(phase._read_losses(0.1)) == {"train/loss", "train/lr"}  # the scale is not too low yet
    phase.unread.append(phase.step(batch))
    with pytest.raises(TrainingError, match=r"gradients overflow in fp16 at every step.*precision=fp32"):
        phase._read_losses(0.1)


def test_memory_that_runs_out_in_the_optimisers_first_step_is_an_error(
    context_of: Callable[..., FoldContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller parts would not help: the state that it allocates does not depend on the batch."""

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", fail)
    with pytest.raises(TrainingError, match=r"memory ran out \(CUDA out of memory\).*optimizer: sgd"):
        train_fold(context_of())


@pytest.mark.parametrize("in_team", [False, True])
def test_an_operation_without_a_deterministic_implementation_is_named_and_allowed(
    network: Network,
    make: Make,
    batch: Batch,
    process_group: None,
    caplog: pytest.LogCaptureFixture,
    in_team: bool,
) -> None:
    """It fails in the backward pass, as GoogLeNet's adaptive pooling on CUDA does.

    A team's gradients are exchanged in that pass: it cannot be done twice.
    """
    start, plain = copy_state(network), make()
    expected = [plain.step(batch) for _ in range(2)]
    trained = copy_state(network)
    network.load_state_dict(start)
    middle = network.trunk.get_submodule(network.blocks[1].output)  # some gradients are exchanged before
    middle.register_forward_hook(lambda module, inputs, output: Unrepeatable.apply(output))
    phase = make()
    if in_team:
        phase.model = data_parallel(network, Team(), phase.device)
    with only_deterministic():
        for step in expected:
            torch.testing.assert_close(phase.step(batch), step, rtol=0, atol=0)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert caplog.text.count("put_ has no deterministic implementation") == 1
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, trained[name], rtol=0, atol=0)


def test_the_losses_of_a_team_add_up_to_that_of_the_batch(network: Network, make: Make, batch: Batch) -> None:
    """One process after the other computes its part of the batch."""
    start = copy_state(network)
    whole = make().step(batch)
    shares = []
    for part in (slice(0, 5), slice(5, 9)):
        network.load_state_dict(start)
        shares.append(make().step(Batch(batch.images[part], batch.indices[part]))[0])
    torch.testing.assert_close(sum(shares), whole[0])
