"""Frozen features of photographs a second: ours, computed and from the cache, against a plain loop.

    PYTHONPATH=scripts python bench/speed_features.py --out cache/bench/features.json

From JPEGs of 640 x 480 pixels to a matrix: the plain loop decodes with OpenCV and runs PyTorch as it comes,
in inference mode, in a process of its own.
"""

from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer

import console
from distracted.data.augment import Augmenter
from distracted.data.contents import digest_images
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.inference.device import keep_freed_memory
from distracted.inference.features import cached_features
from harness import Apart, save, say_rates, take_turns
from speed_loader import find_photographs
from speed_predict import make_network

MODELS = ("efficientnet_lite0", "resnet50")
BATCH = 32
PLAIN, OURS, KEPT = "plain loop", "ours, computed", "ours, from the cache"


def main(
    models: Annotated[str, typer.Option(help="Names in configs/models.")] = " ".join(MODELS),
    photographs: Annotated[int, typer.Option(help="How many.")] = 128,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 5,
    folder: Annotated[Path, typer.Option(help="For photographs and features.")] = Path("cache/bench"),
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Print a table for each network."""
    keep_freed_memory()
    paths = find_photographs(folder, photographs)
    figures: dict[str, Any] = {}
    for model in models.split():
        apart = Apart(make_plain, model, paths)
        ours = make_ours(model, paths, folder / "features")

        def computed(ours: Callable[[], int] = ours) -> int:
            rmtree(folder / "features", ignore_errors=True)
            return ours()

        figures[model] = take_turns(model, {PLAIN: apart, OURS: computed, KEPT: ours}, repeats=repeats)
        apart.close()
        say_rates(f"{model}: features", figures[model], unit="images", compared_with=[PLAIN])
    save(out, figures)


def make_plain(model: str, paths: list[Path]) -> Callable[[], int]:
    """A plain loop, as a user writes it who needs features once."""
    network, images = make_network(model)
    network = network.to(memory_format=torch.contiguous_format)
    size = images.shape[1]

    def read(path: Path) -> torch.Tensor:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(image).permute(2, 0, 1).float()

    def extract() -> int:
        parts = []
        for start in range(0, len(paths), BATCH):
            batch = torch.stack([read(path) for path in paths[start : start + BATCH]])
            with torch.inference_mode():
                parts.append(network.trunk((batch - network.mean) / network.std).flatten(1).numpy())
        return len(np.concatenate(parts))

    return extract


def make_ours(model: str, paths: list[Path], folder: Path) -> Callable[[], int]:
    network, images = make_network(model)
    size = images.shape[1]
    contents = digest_images(paths, root=paths[0].parents[2])

    def extract() -> int:
        augmenter = Augmenter((), size=size, crop=1.0, seed=0)
        loader = Loader(Files(paths), np.arange(len(paths)), augmenter, batch_size=BATCH, num_workers=0)
        features = cached_features(
            network,
            lambda: loader,
            contents=contents,
            size=size,
            crop=1.0,
            folder=folder,
            precision="fp32",
        )
        return len(np.asarray(features))

    return extract


if __name__ == "__main__":
    console.run(main)
