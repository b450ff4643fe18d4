"""The hours and disk space of docs/state_farm.md, computed from the figures in bench/state_farm_hours.csv.

    PYTHONPATH=scripts python bench/state_farm_hours.py

With a card a stage takes as long as its slower side: the networks' arithmetic, or the processor cores that
decode and augment; without one it takes both. Three rules stand in for figures that were not found:

- a network's speed on a card is ResNet50's there, times the two networks' ratio on an RTX 3090;
- training on a T4, and predicting on an A100, have the ratio to each other that they have on a V100;
- a part on several cores is that of one core, divided by their number.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import console
from markdown_table import say_header, say_row

TABLE = Path(__file__).with_suffix(".csv")
NUM_TRAIN, NUM_TEST, FOLDS, EPOCHS, VIEWS = 22_424, 79_726, 5, 4, 5
ALL = NUM_TRAIN + FOLDS * NUM_TEST  # each held-out picture by one network, each test picture by all
THREE = ("resnet50", "inception_v3", "vgg16")
#: Pixels of the input, crop, and features of a picture.
INPUTS = {"resnet50": (224, 0.95, 2048), "inception_v3": (299, 0.875, 2048), "vgg16": (224, 0.875, 512)}


@dataclass(frozen=True)
class Machine:
    """A machine, and what is trained on it.

    Attributes:
        card: As the rates are named.
        num_cards: Training uses all of them, the other stages one; 0: the networks run on the cores.
    """

    name: str
    card: str
    num_cards: int
    num_cores: int
    models: Sequence[str] = THREE


MACHINES = (
    Machine("two T4, 4 cores: three networks", "t4", 2, 4),
    Machine("one A100, 12 cores: three networks", "a100", 1, 12),
    Machine("two CPU cores: EfficientNet-Lite0, 128 pixels", "cpu2", 0, 2, ("efficientnet_lite0",)),
)


def main() -> None:
    """Print the tables of hours and of disk space, and where their inputs come from."""
    for line in [*hours_table(), "", *disk_table(), ""]:
        console.say(line)
    say_header(["figure", "value", "origin", "source"])
    with TABLE.open(newline="") as file:
        for row in csv.DictReader(file):
            say_row(row.values())


def hours_table() -> list[str]:
    """The lines of the page's table, in Markdown."""
    figures = read_figures()
    by_machine = [stage_hours(machine, figures) for machine in MACHINES]
    lines = ["| | " + " | ".join(machine.name for machine in MACHINES) + " |", "| --- " * 4 + "|"]
    for stage in by_machine[0]:
        lines.append(f"| {stage} | " + " | ".join(shown(hours[stage]) for hours in by_machine) + " |")
    sums = (shown(sum(hours.values())) for hours in by_machine)
    return [*lines, "| **all** | " + " | ".join(f"**{total}**" for total in sums) + " |"]


def stage_hours(machine: Machine, figures: dict[str, float]) -> dict[str, float]:
    """Hours of each stage for all of the machine's models."""
    decode = figures["decode_ms"] / 1e3 / machine.num_cores
    # a card makes the views itself
    views = 0 if machine.num_cards else VIEWS * figures["view_ms"] / 1e3 / machine.num_cores
    steps = EPOCHS * (FOLDS - 1) * NUM_TRAIN
    hours = dict.fromkeys(
        ["`make grid`: training", "`make grid`: predictions", "`make tta`", "`make smooth`: features"], 0.0
    )
    cards = max(1, machine.num_cards)
    slower: Callable[[float, float], float] = max if machine.num_cards else sum_of
    for model in machine.models:
        train, predict = (rate(machine.card, model, kind, figures) for kind in ("train", "predict"))
        augment = 0 if "cpu" in machine.card else steps / figures["augment_rate"] / machine.num_cores
        training = slower(steps / train / cards, augment) + NUM_TRAIN * decode
        # the base's features, the held-out pictures after each epoch, and at the end those and the test set
        predicting = slower(
            ((1 + EPOCHS) * NUM_TRAIN + ALL) / predict / cards, (NUM_TRAIN + NUM_TEST) * decode
        )
        viewing = slower(VIEWS * ALL / predict, (NUM_TRAIN + NUM_TEST) * (decode + views))
        for stage, seconds in zip(hours, (training, predicting, viewing, ALL / predict), strict=True):
            hours[stage] += seconds / 3600
    search = figures["search_seconds"] * 2 / machine.num_cores * FOLDS * len(machine.models)
    return {**hours, "`make smooth`: search": search / 3600}


def rate(card: str, model: str, kind: str, figures: dict[str, float]) -> float:
    """Images a second of a model on a card; `kind` is train or predict."""
    if (known := figures.get(f"{card}_{model}_{kind}")) is not None:
        return known
    if model != "resnet50":
        ratio = figures[f"rtx3090_{model}_{kind}"] / figures[f"rtx3090_resnet50_{kind}"]
        return rate(card, "resnet50", kind, figures) * ratio
    train, predict = figures["v100_resnet50_train"], figures["v100_resnet50_predict"]
    if kind == "train":
        return figures[f"{card}_resnet50_predict"] * train / predict
    return figures[f"{card}_resnet50_train"] * predict / train


def disk_table() -> list[str]:
    """The lines of the page's table of disk space, in Markdown."""
    photographs = (NUM_TRAIN + NUM_TEST) * 45e3 / 1e9
    lines = ["| | GB | may be deleted |", "| --- | --- | --- |"]
    lines.append(f"| the photographs, 45 kB each | {photographs:.1f} | no |")
    cut = {(round(size * 8 / 7), model) for model, (size, _, _) in INPUTS.items()}
    for side in sorted({side for side, _ in cut}):
        names = ", ".join(model for model in INPUTS if (side, model) in cut)
        pixels = side * round(side * 4 / 3)
        lines.append(row(f"training pack, {side} pixels: {names}", NUM_TRAIN * 3 * pixels))
    for model, (size, crop, _) in INPUTS.items():
        name = f"pack of the network's input, {size} pixels, crop {crop:g}: {model}"
        lines.append(row(name, (NUM_TRAIN + NUM_TEST) * 3 * size**2))
    for model, (_, _, width) in INPUTS.items():
        lines.append(row(f"features: {model}", 4 * width * (NUM_TRAIN + ALL)))
    views = sum(4 * VIEWS * 10 * ALL for _ in INPUTS)
    return [*lines, row("predictions of the views", views), "| networks, predictions, submission | 2 | no |"]


def row(name: str, size: float) -> str:
    """A row of something in the cache."""
    return f"| {name} | {size / 1e9:.1f} | yes |"


def sum_of(one: float, other: float) -> float:
    return one + other


def read_figures() -> dict[str, float]:
    with TABLE.open(newline="") as file:
        return {row["key"]: float(row["value"]) for row in csv.DictReader(file)}


def shown(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 0.95 else f"{hours * 60:.0f} min"


if __name__ == "__main__":
    console.run(main)
