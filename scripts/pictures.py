"""make pictures: sheets of the data, of its regions and of the augmentation."""

from pathlib import Path
from typing import Annotated

import typer

import console
from distracted.data.competition import load_competition
from distracted.paths import Workspace


def main(
    folder: Annotated[
        Path | None, typer.Option(help="Where they go: docs/images for the sample, else runs/<data>.")
    ] = None,
    data: console.Data = "sample",
    set: console.Set = "",
    root: console.Root = console.HERE,
) -> None:
    """Draw the data, the regions of model.regions, and what each augmentation policy makes of a picture."""
    from distracted.report.sheets import augmentation_grid, data_grid, region_grid, save_jpeg

    # Any model will do: the policies are the same for all of them.
    config = console.run_config("resnet50", data, set, root)
    cache = console.workspace(root, config.runtime).digests(config.data.folder)
    competition = load_competition(config.data, cache=cache, progress=console.progress)
    if folder is None:  # a competition's photographs may not be passed on: they stay out of the repository
        folder = Path("docs/images") if data == "sample" else Workspace(root).runs(competition.name)
    policies = config.augment.policies
    grids = {"data": data_grid(competition), "augmentation": augmentation_grid(competition, policies)}
    if config.data.regions:
        grids["regions"] = region_grid(competition, config.data.regions)
    for name, grid in grids.items():
        path, sheet = folder / f"{competition.name}_{name}.jpg", grid.sheet()
        save_jpeg(path, sheet)
        console.say(f"{path}: {sheet.shape[1]} x {sheet.shape[0]} pixels")


if __name__ == "__main__":
    console.run(main)
