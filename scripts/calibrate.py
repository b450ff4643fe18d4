"""make calibrate: a run's probabilities, calibrated on the other folds, as a run of its own."""

from typing import Annotated

import typer

import console
import derive
from distracted.postprocess.calibrate import CALIBRATIONS


def main(
    runs: Annotated[str, typer.Option(help="Complete runs, separated by spaces.")],
    parts: Annotated[str, typer.Option(help="What is fitted, separated by spaces.")] = " ".join(CALIBRATIONS),
    name: Annotated[str, typer.Option(help="Name of the new run; by default <run>_calibrated.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Fit class bias, temperature and clip of each fold on the other folds, and write the result as a run."""
    derive.main("calibrate", runs, how=parts, name=name, data=data, set=set, force=force, root=root)


if __name__ == "__main__":
    console.run(main)
