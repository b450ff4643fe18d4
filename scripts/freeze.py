"""make freeze: a network's blocks, and what each phase of a run trains of them."""

from typing import TYPE_CHECKING, Annotated

import typer

import console
from distracted.errors import ConfigError
from distracted.imports import importing
from distracted.schema import TrainPhase

if TYPE_CHECKING:
    from distracted.training.plan import BlockRow

_CLASSES = 10


def main(
    model: Annotated[str, typer.Option(help="A name in configs/models.")],
    data: console.Data = "state_farm",
    set: console.Set = "",
    root: console.Root = console.HERE,
) -> None:
    """Show a network's blocks from the input on, and what learns in each phase, at which rate."""
    with importing():
        from distracted.training.plan import plan_run

    if not model:
        raise ConfigError("MODEL= is missing: a name in configs/models")
    config = console.run_config(model, data, set, root)
    plan = plan_run(config, num_classes=_CLASSES)
    columns = ["block", "layers", "parameters", *plan.phases]
    rows = [
        [row.name, str(row.layers), f"{row.parameters:,}", *(_cell(row, name) for name in plan.phases)]
        for row in plan.rows
    ]
    weights = "pretrained weights" if plan.pretrained else "random weights"
    title = f"{model} ({config.model.backbone}), {plan.image_size} pixels, recipe {config.recipe}, {weights}"
    console.table(title, columns, rows)
    total = sum(row.parameters for row in plan.rows)
    console.say(f"{total:,} parameters, with a head for {_CLASSES} classes")
    for name, phase in plan.phases.items():
        if isinstance(phase, TrainPhase):
            statistics = "move" if phase.batchnorm == "train" else "frozen"
            soup = f", the last {phase.soup} epochs averaged" if phase.soup > 1 else ""
            text = f"{phase.epochs} epochs, {phase.optimizer}, {phase.schedule}"
            console.say(f"{name}: {text}, BatchNorm's statistics {statistics}{soup}")
    if plan.pretrained:
        console.say("with random weights nothing is frozen: SET='model.weights=none' shows it")


def _cell(row: "BlockRow", phase: str) -> str:
    share = row.phases[phase]
    if share is None:
        return "frozen"
    learns = "learns" if share.layers == row.layers else f"last {share.layers} learn"
    start = f" from {share.start:.0%} of it on" if share.start else ""
    return f"{learns}{start}, " + ("fitted" if share.lr is None else f"{share.lr:.2g}")


if __name__ == "__main__":
    console.run(main)
