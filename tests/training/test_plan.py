"""The plan that `make freeze` shows agrees with what training does."""

from itertools import pairwise

import pytest

from distracted.config import load_config
from distracted.models.blocks import count_layers
from distracted.models.network import Network
from distracted.schema import RunConfig, TrainPhase
from distracted.training.optim import make_optimizer
from distracted.training.plan import BlockRow, Share, plan_phases, plan_run


def config_of(model: str, *overrides: str) -> RunConfig:
    return load_config(model=model, data="sample", overrides=overrides)


def rows_of(model: str, *overrides: str) -> dict[str, BlockRow]:
    return {row.name: row for row in plan_run(config_of(model, *overrides), num_classes=10).rows}


def train_phase(**settings: object) -> TrainPhase:
    return TrainPhase.model_validate({"kind": "train", "epochs": 1, "lr": 0.1, "head_lr": 0.5, **settings})


def test_vgg16_freezes_its_first_ten_layers() -> None:
    rows = rows_of("vgg16", "recipe=freeze_first_k")
    assert [row.phases["finetune"] is not None for row in rows.values()] == [False] * 4 + [True, True]
    assert rows["block5"].phases["finetune"] == Share(3, 1e-4)
    assert (rows["block5"].layers, rows["block5"].parameters) == (3, 3 * (512 * 512 * 9 + 512))
    assert rows["head"].parameters == 512 * 10 + 10
    assert rows["head"].phases == {"features": Share(1, None), "finetune": Share(1, 1e-3)}


def test_a_block_may_be_frozen_in_part() -> None:
    rows = rows_of("resnet50", "phases.finetune.unfreeze={layers: 4}")
    share = rows["layer4"].phases["finetune"]
    assert share is not None and (share.layers, rows["layer4"].layers) == (4, 10)


def test_each_region_widens_the_head_and_nothing_else() -> None:
    plain, joined = (rows_of("resnet50", *more) for more in ((), ("model.regions=[hands, head]",)))
    assert joined["head"].parameters == 3 * 2048 * 10 + 10
    assert {**joined, "head": None} == {**plain, "head": None}


def test_gradual_unfreezing_gives_each_block_its_start() -> None:
    rows = rows_of("googlenet", "recipe=gradual")
    starts = [row.phases["finetune"].start for row in rows.values() if row.phases["finetune"] is not None]
    blocks = starts[: len(rows) - 3]
    assert blocks == pytest.approx([(len(blocks) - 1 - i) / len(blocks) for i in range(len(blocks))])
    assert rows["auxiliary (inception4a)"].phases == rows["inception4a"].phases | {
        "finetune": Share(3, 1e-3, rows["inception4a"].phases["finetune"].start)
    }


def test_random_weights_have_one_phase_in_which_everything_learns() -> None:
    plan = plan_run(config_of("resnet50", "model.weights=none"), num_classes=10)
    assert not plan.pretrained and list(plan.phases) == ["scratch"]
    assert all(row.phases["scratch"] for row in plan.rows)


@pytest.mark.parametrize(
    "settings",
    [
        {"unfreeze": "all", "depth_decay": 0.1},
        {"unfreeze": "gradual"},
        {"unfreeze": {"blocks": 2}},
        {"freeze": {"layers": 5}, "depth_decay": 0.5},
        {"unfreeze": "head"},
    ],
)
def test_the_optimiser_has_the_layers_and_rates_of_the_plan(
    network: Network, settings: dict[str, object]
) -> None:
    phase = train_phase(**settings)
    rows = plan_phases(network, {"phase": phase})
    optimizer = make_optimizer(network, phase)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(network.trunk.named_parameters())
    for block, row in zip(network.blocks, rows, strict=False):
        share = row.phases["phase"]
        learning = [layer for layer in block.layers if id(parameters[layer[0]]) in rates]
        assert len(learning) == (share.layers if share else 0)
        for layer in learning:
            assert share is not None
            assert {rates[id(parameters[name])] for name in layer} == {share.lr}
    assert {rates[id(p)] for p in network.head.parameters()} == {0.5}


def test_depth_decay_lowers_the_rate_by_the_same_factor_per_block(network: Network) -> None:
    rows = plan_phases(network, {"phase": train_phase(unfreeze="all", depth_decay=0.1)})
    rates = [row.phases["phase"].lr for row in rows[:-1]]
    assert rates[0] == pytest.approx(0.01) and rates[-1] == pytest.approx(0.1)
    factors = [after / before for before, after in pairwise(rates)]
    assert factors == pytest.approx([factors[0]] * len(factors))
    assert count_layers(network.blocks) == sum(row.layers for row in rows[:-1])
