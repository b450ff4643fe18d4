"""One phase of gradient descent: gradual unfreezing, early stopping, keep=best, soup, plateau and EMA."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distracted.models.blocks import Block
from distracted.models.network import Network
from distracted.predictions.store import Store
from distracted.schema import RunConfig, TrainPhase
from distracted.training.context import FoldContext
from distracted.training.loop import FoldTraining
from distracted.training.metrics_log import FileTracker
from distracted.training.phase_training import PhaseTraining
from distracted.training.resolve import resolve


@dataclass
class Outcome:
    """Metrics that a phase logged, and the network that predicts after it."""

    metrics: list[dict[str, Any]]
    predictor: Network

    @property
    def epochs(self) -> list[dict[str, Any]]:
        return [line for line in self.metrics if "train/epoch_loss" in line]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [line for line in self.metrics if "train/lr" in line]


Run = Callable[..., Outcome]
Evaluate = Callable[[Network], dict[str, float]]


class Scripted(FoldTraining):
    """A fold's training whose scores come from a function."""

    def __init__(self, context: FoldContext, network: Network, evaluate: Evaluate) -> None:
        super().__init__(context)
        self.network, self.evaluate = network, evaluate  # type: ignore[method-assign]


@pytest.fixture
def run(network: Network, store: Store, configure: Callable[..., RunConfig], tmp_path: Path) -> Run:
    """Train the small network through one phase on fold 0's 36 images, in batches of nine."""

    def run(evaluate: Evaluate = lambda network: {}, ema: float = 0.0, **settings: object) -> Outcome:
        given = {"kind": "train", "unfreeze": "all", "lr": 0.01, "schedule": "constant", "optimizer": "sgd"}
        phase = TrainPhase.model_validate(given | settings)
        config = configure("training.batch_size=9", f"training.ema={ema}", "augment.policy=none")
        with FileTracker(tmp_path) as tracker:
            tracker.rewind(0)
            context = FoldContext(
                resolve(config, num_folds=3),
                0,
                competition=store.competition,
                folds=store.folds,
                cache=tmp_path / "cache",
                tracker=tracker,
            )
            predictor = PhaseTraining(Scripted(context, network, evaluate), "finetune", phase).run()
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        return Outcome([json.loads(line) for line in lines], predictor)

    return run


def scripted(
    scores: list[float], seen: list[dict[str, torch.Tensor]]
) -> Callable[[Network], dict[str, float]]:
    """An `evaluate` that returns these scores, the first for the start, and appends the weights to `seen`."""
    remaining: Iterator[float] = iter(scores)

    def evaluate(network: Network) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"holdout/log_loss": next(remaining)}

    return evaluate


def same(network: Network, state: dict[str, torch.Tensor]) -> bool:
    return all(tensor.equal(state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop"])
def test_gradual_unfreezes_one_block_after_another(run: Run, network: Network, optimizer: str) -> None:
    with torch.no_grad():  # some norms start at zero, and layers before them would get no gradient
        for parameter in network.trunk.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    first = {name: tensor.clone() for name, tensor in network.trunk.state_dict().items()}
    moved: list[list[str]] = []

    def record_moved(network: Network) -> dict[str, float]:
        state = network.trunk.state_dict()

        def has_moved(block: Block) -> bool:
            return all(not state[name].equal(first[name]) for name in block.parameters)

        moved.append([block.name for block in network.blocks if has_moved(block)])
        return {}

    run(record_moved, unfreeze="gradual", epochs=len(network.blocks), optimizer=optimizer)
    names = [block.name for block in network.blocks]
    assert moved == [names[-number:] for number in range(1, len(names) + 1)]


def test_patience_stops_and_the_best_epoch_is_kept(run: Run, network: Network) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    outcome = run(scripted([9, 3, 2, 2.5, 2.1, 1], seen), epochs=9, patience=2, keep="best")
    assert len(outcome.epochs) == 4
    assert same(network, seen[2]) and not same(network, seen[4])


def test_without_keep_best_the_last_epoch_is_kept(run: Run, network: Network) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    outcome = run(scripted([9, 3, 2, 2.5, 2.1], seen), epochs=4, patience=3)
    assert len(outcome.epochs) == 4
    assert same(network, seen[4])


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_soup_is_the_mean_over_the_last_epochs(run: Run, ema: float) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    outcome = run(scripted([1, 1, 1, 1], seen), ema=ema, epochs=4, soup=3)
    assert len(seen) == 4 and not same(outcome.predictor, seen[3])
    for name, tensor in outcome.predictor.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, sum(state[name] for state in seen[1:]) / 3)
        assert "running" not in name or tensor.equal(seen[0][name])


def test_a_soup_after_an_early_stop_averages_the_epochs_so_far(run: Run) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    outcome = run(scripted([9, 9, 9], seen), epochs=8, soup=4, patience=2)
    assert len(outcome.epochs) == 2
    bias = "head.classifier.bias"
    torch.testing.assert_close(outcome.predictor.state_dict()[bias], (seen[1][bias] + seen[2][bias]) / 2)


def test_a_soup_measures_batchnorm_statistics_that_moved(run: Run) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    outcome = run(scripted([1, 1], seen), epochs=2, soup=2, batchnorm="train")
    state = outcome.predictor.state_dict()
    [first, *_] = [name for name in state if "running_mean" in name]
    assert not state[first].equal(seen[1][first])
    assert not torch.allclose(state[first], (seen[0][first] + seen[1][first]) / 2)


def test_the_network_before_the_phase_may_be_the_best(run: Run, network: Network) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    run(scripted([1, 3, 2], seen), epochs=2, keep="best")
    assert same(network, seen[0])


def test_patience_does_not_count_during_warmup(run: Run) -> None:
    settings = {"schedule": "one_cycle", "warmup": 0.5, "epochs": 8, "patience": 2}
    outcome = run(scripted([1, *[2] * 8], []), **settings)
    assert len(outcome.epochs) == 5  # epochs 4 and 5 are the first after the warm-up


def test_plateau_lowers_the_rate_after_epochs_without_improvement(run: Run) -> None:
    scores = [9, 3, 4, 4, 4, 4, 1, 2, 2]
    settings = {"schedule": "plateau", "reduce_after": 2, "reduce_to": 0.5, "epochs": 8}
    outcome = run(scripted(scores, []), **settings)
    rates = [line["train/lr"] for line in outcome.steps]
    # an epoch's rate follows from the epochs before it
    np.testing.assert_allclose(rates, [0.01] * 3 + [0.005] * 2 + [0.0025] * 3)


def test_the_moving_average_is_scored_and_kept(run: Run, network: Network) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    outcome = run(scripted([9, 1, 2], seen), ema=0.9, epochs=2, keep="best")
    assert same(outcome.predictor, seen[1])
    assert not same(network, seen[1]) and not same(network, seen[2])  # the network itself trained on
