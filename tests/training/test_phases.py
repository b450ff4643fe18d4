"""One phase: what thaws when, and what it does about the score that it watches."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.loading import Loader
from distracted.models.blocks import Block
from distracted.models.network import Network
from distracted.progress import silent
from distracted.schema import TrainingConfig, TrainPhase
from distracted.training.phases import Clock, run_phase
from distracted.training.tracking import FileTracker

CPU = torch.device("cpu")
TRAINING = TrainingConfig(
    seed=0, batch_size=9, num_folds=3, holdout=0.0, leaky=False, ema=0.0, grad_clip=1.0, precision="fp32"
)


@pytest.fixture
def run(network: Network, competition: Competition, tmp_path: Path) -> Callable[..., list[dict[str, object]]]:
    """Train the small network through one phase; returns what was tracked of each epoch."""

    def run(
        after_epoch: Callable[[Network], dict[str, float]] = lambda network: {},
        training: TrainingConfig = TRAINING,
        **settings: object,
    ) -> list[dict[str, object]]:
        phase = TrainPhase.model_validate(
            {"kind": "train", "unfreeze": "all", "lr": 0.01, "schedule": "constant", "optimizer": "sgd"}
            | settings
        )
        rows = np.arange(len(competition.train))
        augmenter = Augmenter((), size=32, crop=1.0, seed=0)
        with FileTracker(tmp_path) as tracker:
            run_phase(
                network,
                "finetune",
                phase,
                loader=Loader(
                    competition.train_paths(), rows, augmenter, batch_size=9, num_workers=0, seed=0
                ),
                labels=torch.tensor(competition.train["label"].to_numpy()),
                training=training,
                device=CPU,
                precision="fp32",
                clock=Clock(),
                tracker=tracker,
                progress=silent,
                label="",
                after_epoch=after_epoch,
                watched="holdout/log_loss",
            )
        return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    return run


def scripted(
    scores: list[float], seen: list[dict[str, torch.Tensor]]
) -> Callable[[Network], dict[str, float]]:
    """Scores as if they had been measured after each epoch, and the weights of that moment."""
    remaining: Iterator[float] = iter(scores)

    def after_epoch(network: Network) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"holdout/log_loss": next(remaining)}

    return after_epoch


def same(network: Network, state: dict[str, torch.Tensor]) -> bool:
    return all(tensor.equal(state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop"])
def test_gradual_thaws_one_block_after_another(
    run: Callable[..., list[dict[str, object]]], network: Network, optimizer: str
) -> None:
    with torch.no_grad():  # some norms start at zero, and what lies before them gets no gradient
        for parameter in network.trunk.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    first = {name: tensor.clone() for name, tensor in network.trunk.state_dict().items()}
    moved: list[list[str]] = []

    def look(network: Network) -> dict[str, float]:
        state = network.trunk.state_dict()

        def has_moved(block: Block) -> bool:
            return all(not state[name].equal(first[name]) for name in block.parameters)

        moved.append([block.name for block in network.blocks if has_moved(block)])
        return {}

    run(look, unfreeze="gradual", epochs=len(network.blocks), optimizer=optimizer)
    names = [block.name for block in network.blocks]
    assert moved == [names[-number:] for number in range(1, len(names) + 1)]


def test_patience_stops_and_best_goes_on(
    run: Callable[..., list[dict[str, object]]], network: Network
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    lines = run(scripted([3, 2, 2.5, 2.1, 1], seen), epochs=9, patience=2, keep="best")
    assert len(lines) == 4
    assert same(network, seen[1]) and not same(network, seen[3])


def test_without_best_the_last_epoch_goes_on(
    run: Callable[..., list[dict[str, object]]], network: Network
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    lines = run(scripted([3, 2, 2.5, 2.1], seen), epochs=4, patience=3)
    assert len(lines) == 4
    assert same(network, seen[3])


def test_plateau_lowers_the_rate_each_time_it_waits_in_vain(
    run: Callable[..., list[dict[str, object]]],
) -> None:
    scores = [3, 4, 4, 4, 4, 1, 2, 2]
    settings = {"schedule": "plateau", "reduce_after": 2, "reduce_to": 0.5, "epochs": 8}
    lines = run(scripted(scores, []), **settings)
    rates = [line["train/lr"] for line in lines]
    # the rate of an epoch was settled by the epochs before it
    np.testing.assert_allclose(rates, [0.01] * 3 + [0.005] * 2 + [0.0025] * 3)


def test_the_moving_average_is_what_is_watched_and_kept(
    run: Callable[..., list[dict[str, object]]], network: Network
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    run(
        scripted([1, 2], seen),
        training=TRAINING.model_copy(update={"ema": 0.9}),
        epochs=2,
        keep="best",
    )
    assert not same(network, seen[0])  # the network itself went on
