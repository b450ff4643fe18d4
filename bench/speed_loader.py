"""Augmented training pictures a second: ours against common loaders, on the same photographs.

    PYTHONPATH=scripts python bench/speed_loader.py --out cache/bench/loader.json

Photographs of 640 x 480 pixels become batches of 32 pictures of 224. `plain` is OpenCV with albumentations,
to normalised float tensors, as its documentation shows it; it gets the same policy and, picture by picture,
the same draws as ours. The limit is that policy alone, on reduced pictures that lie in memory.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Any

import albumentations as A
import cv2
import numpy as np
import timm.data
import torch
import typer
from albumentations.pytorch import ToTensorV2
from PIL import Image as Pillow
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

import console
from distracted.config import load_config
from distracted.data.augment import Augmenter, Draws
from distracted.data.contents import digest_images
from distracted.data.loading import Loader
from distracted.data.packs import cached_pictures
from distracted.data.picture_sets import Files, Pictures
from distracted.sample import render_sample
from harness import Timing, save, say_rates, take_turns

SIZE, CROP, SHORT_SIDE, BATCH = 224, 0.95, 256, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OURS, UNKEPT, LIMIT = "ours, from the cache", "ours, decoded each time", "the limit: augmentation in memory"
PLAIN, PLAIN_BYTES = "plain OpenCV + albumentations", "plain, left as bytes"
TIMM, TIMM_BYTES, VISION = "timm, PIL + RandAugment", "timm, left as bytes", "torchvision v2"


def main(
    photographs: Annotated[int, typer.Option(help="How many different ones.")] = 320,
    passes: Annotated[int, typer.Option(help="Over all of them in a round and core.")] = 3,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 7,
    folder: Annotated[Path, typer.Option(help="For the photographs and the cache.")] = Path("cache/bench"),
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Print two tables: on one core, and on two."""
    paths = find_photographs(folder, photographs)
    size = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
    console.say(f"{len(paths)} JPEGs of 640 x 480 pixels, {size:.0f} kB each")
    rmtree(folder / "pictures", ignore_errors=True)
    kept = cached_pictures(
        Files(paths, short_side=SHORT_SIDE),
        digest_images(paths, root=folder),
        kind=str(SHORT_SIDE),
        folder=folder / "pictures",
        limit="auto",
        progress=console.progress,
    )
    figures: dict[str, list[Timing]] = {}
    cores = sorted(os.sched_getaffinity(0))
    for number in (1, 2):
        if number > len(cores):
            continue
        os.sched_setaffinity(0, cores[:number])
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        contenders = make_contenders(
            paths, kept, num_workers=0 if number == 1 else number, passes=passes * number
        )
        name = "one core" if number == 1 else f"{number} cores"
        timings = take_turns(name, contenders, repeats=repeats)
        figures[name] = timings
        say_rates(f"{name}: pictures", timings, unit="pictures", compared_with=[PLAIN, TIMM])
    save(out, figures)


def find_photographs(folder: Path, count: int) -> list[Path]:
    """Rendered driver scenes with a sensor's noise, as large as the competition's photographs on disk."""
    rendered = folder / "photographs"
    if not rendered.exists():
        render_sample(
            rendered, num_subjects=4, num_test_subjects=1, num_frames=10, width=640, progress=console.progress
        )
    return sorted((rendered / "imgs/train").rglob("*.jpg"))[:count]


def make_contenders(
    paths: list[Path], kept: Pictures, *, num_workers: int, passes: int
) -> dict[str, Callable[[], int]]:
    """Each passes over all photographs so many times; on one core without a worker process."""
    policy = load_config(model="resnet50", data="sample").augment.policies["heavy"]

    def ours(pictures: Pictures) -> Callable[[], int]:
        augmenter = Augmenter(policy, size=SIZE, crop=CROP, seed=0)
        rows = np.tile(np.arange(len(paths)), passes)
        loader = Loader(pictures, rows, augmenter, batch_size=BATCH, num_workers=num_workers, seed=0)
        return lambda: sum(len(batch.images) for batch in loader.epoch())

    def peer(dataset: Dataset[Any]) -> Callable[[], int]:
        workers: dict[str, Any] = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
        shuffled = RandomSampler(dataset, num_samples=passes * len(paths), replacement=True)  # type: ignore[arg-type]
        loader = DataLoader(dataset, batch_size=BATCH, sampler=shuffled, **workers)
        return lambda: sum(len(images) for images, _ in loader)

    contenders = {
        OURS: ours(kept),
        UNKEPT: ours(Files(paths, short_side=SHORT_SIDE)),
        PLAIN: peer(Plain(paths, policy, to_tensor=True)),
        PLAIN_BYTES: peer(Plain(paths, policy, to_tensor=False)),
        TIMM: peer(Timm(paths, to_tensor=True)),
        TIMM_BYTES: peer(Timm(paths, to_tensor=False)),
        VISION: peer(Vision(paths)),
    }
    if num_workers == 0:
        in_memory = [np.array(kept[index]) for index in range(len(paths))]
        augmenter = Augmenter(policy, size=SIZE, crop=CROP, seed=0)

        def limit() -> int:
            for _ in range(passes):
                for index, image in enumerate(in_memory):
                    augmenter(image, epoch=0, index=index)
            return passes * len(in_memory)

        contenders[LIMIT] = limit
    return contenders


class Plain(Dataset[tuple[Any, int]]):
    """As albumentations' documentation shows it, drawing as ours does."""

    def __init__(self, paths: Sequence[Path], policy: Any, *, to_tensor: bool) -> None:
        self._paths, self._draws = paths, Draws(seed=0)
        transforms = []
        for item in policy:
            for name, arguments in item.items():
                known = {k: tuple(v) if isinstance(v, list) else v for k, v in (arguments or {}).items()}
                size = {"size": (SIZE, SIZE)} if name == "RandomResizedCrop" else {}
                transforms.append(getattr(A, name)(**size, **known))
        to_floats = [A.Normalize(MEAN, STD), ToTensorV2()] if to_tensor else []
        self._transform = A.Compose([*transforms, *to_floats])
        self._transform.set_random_state(*self._draws.generators)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = cv2.cvtColor(cv2.imread(str(self._paths[index])), cv2.COLOR_BGR2RGB)
        self._draws.key(0, index)
        return self._transform(image=image)["image"], index


class Timm(Dataset[tuple[Any, int]]):
    """timm's training transform as its train.py makes it, which opens pictures with Pillow."""

    def __init__(self, paths: Sequence[Path], *, to_tensor: bool) -> None:
        self._paths = paths
        self._transform: Any = timm.data.create_transform(
            SIZE,
            is_training=True,
            auto_augment="rand-m9-mstd0.5",  # its inc1 asks Pillow 12 for what that refuses
            interpolation="random",
            use_prefetcher=not to_tensor,
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with Pillow.open(self._paths[index]) as image:
            return self._transform(image.convert("RGB")), index


class Vision(Dataset[tuple[Any, int]]):
    """torchvision's second transforms, on tensors of bytes: those that come nearest to the policy."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._transform = v2.Compose(
            [
                v2.RandomResizedCrop(SIZE, scale=(0.6, 1.0), ratio=(0.85, 1.18), antialias=True),
                v2.RandomApply([v2.RandomAffine(15, (0.08, 0.08), (0.85, 1.15), 8)], 0.8),
                v2.RandomPerspective(0.12, 0.2),
                v2.RandomApply([v2.ColorJitter((0.7, 1.3), (0.7, 1.3), (0.6, 1.4), (-0.05, 0.05))], 0.8),
                v2.RandomGrayscale(0.05),
                v2.RandomApply([v2.GaussianBlur(5, (0.2, 1.2))], 0.1),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
                v2.RandomErasing(0.4, (0.01, 0.06)),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = decode_image(str(self._paths[index]), ImageReadMode.RGB)
        return self._transform(image), index


if __name__ == "__main__":
    console.run(main)
