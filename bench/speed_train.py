"""Training steps a second: ours against a bare PyTorch loop on the same network, with and without the loader.

    PYTHONPATH=scripts python bench/speed_train.py --out cache/bench/train.json

The bare loop runs in a process of its own, as it comes: floats that lie in memory, contiguous, AdamW, nothing
else. It is timed with BatchNorm that learns, as PyTorch has it, and with BatchNorm frozen, as ours has it.
Ours takes uint8 images, clips gradients and does all else that a phase does. The loader decodes nothing: its
pictures come from the cache, and augmentation is the heavy policy. What ours leaves out is timed, too:
contiguous tensors, and a worker process for the loader next to the network's threads.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import console
from distracted.config import load_config, load_data_config
from distracted.data.augment import Augmenter
from distracted.data.contents import digest_images
from distracted.data.loading import Batch, Loader
from distracted.data.packs import cached_pictures
from distracted.data.picture_sets import Files
from distracted.inference.device import keep_freed_memory
from distracted.models.backbone import find_backbone
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights
from distracted.paths import Workspace
from distracted.predictions.store import open_store
from distracted.schema import ModelConfig, RunConfig, TrainPhase
from distracted.training.context import FoldContext
from distracted.training.loop import FoldTraining
from distracted.training.metrics_log import Tracker
from distracted.training.phase_training import PhaseTraining
from distracted.training.resolve import Resolved, with_input
from harness import Apart, save, say_rates, size_setting, take_turns
from speed_loader import find_photographs

MODELS = ("efficientnet_lite0", "resnet50", "inception_v3", "vgg16")
NUM_CLASSES = 10
BARE, BARE_FROZEN = "bare loop", "bare loop, BatchNorm frozen"
OURS, LOADED, HEAD = "ours", "ours, loader included", "ours, base frozen"
CONTIGUOUS, WORKER = "ours, contiguous", "ours, loader in a worker process"
CPU = torch.device("cpu")


def main(
    models: Annotated[str, typer.Option(help="Names in configs/models.")] = " ".join(MODELS),
    batch_size: Annotated[int, typer.Option(help="Images in a step.")] = 16,
    steps: Annotated[int, typer.Option(help="In a round.")] = 2,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 5,
    folder: Annotated[Path, typer.Option(help="For photographs and their cache.")] = Path("cache/bench"),
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Print a table for each network."""
    keep_freed_memory()
    figures: dict[str, Any] = {}
    for model in models.split():
        apart = [Apart(make_bare, model, batch_size, steps, frozen) for frozen in (False, True)]
        timings = take_turns(
            model,
            {
                BARE: apart[0],
                BARE_FROZEN: apart[1],
                OURS: make_ours(model, batch_size, steps, folder=folder),
                LOADED: make_ours(model, batch_size, steps, folder=folder, loaded=True),
                HEAD: make_ours(model, batch_size, steps, folder=folder, unfreeze="head"),
                CONTIGUOUS: make_ours(model, batch_size, steps, folder=folder, contiguous=True),
                WORKER: make_ours(model, batch_size, steps, folder=folder, loaded=True, workers=1),
            },
            repeats=repeats,
        )
        for process in apart:
            process.close()
        figures[model] = timings
        say_rates(f"{model}: training", timings, unit="images", compared_with=[BARE, BARE_FROZEN])
    save(out, figures)


def make_network(model: str) -> tuple[RunConfig, ModelConfig, Network]:
    config = load_config(
        model=model,
        data="sample",
        overrides=["model.head.auxiliary=0", "augment.size=null", size_setting(model)],
    )
    resolved = with_input(config.model, find_backbone(config.model.backbone))
    torch.manual_seed(0)
    return config, resolved, build_network(resolved, Weights("none"), num_classes=NUM_CLASSES)


def make_batch(resolved: ModelConfig, batch_size: int) -> Batch:
    assert isinstance(resolved.image_size, int)
    shape = batch_size, resolved.image_size, resolved.image_size, 3
    return Batch(torch.randint(0, 256, shape, dtype=torch.uint8), torch.arange(batch_size))


def make_bare(model: str, batch_size: int, steps: int, frozen: bool) -> Callable[[], int]:
    """The loop of PyTorch's own tutorials."""
    _, resolved, network = make_network(model)
    network = network.to(memory_format=torch.contiguous_format).train()
    if frozen:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    inputs = make_batch(resolved, batch_size).images.permute(0, 3, 1, 2).float()
    inputs = ((inputs - network.mean) / network.std).contiguous()
    labels = torch.arange(batch_size) % NUM_CLASSES
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)

    def train() -> int:
        for _ in range(steps):
            optimizer.zero_grad()
            logits = network.head(network.trunk(inputs).flatten(1))
            nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return steps * batch_size

    return train


def make_ours(
    model: str,
    batch_size: int,
    steps: int,
    *,
    folder: Path,
    unfreeze: str = "all",
    loaded: bool = False,
    workers: int = 0,
    contiguous: bool = False,
) -> Callable[[], int]:
    config, resolved, network = make_network(model)
    if contiguous:
        network = network.to(memory_format=torch.contiguous_format)
        network.trunk.register_forward_pre_hook(lambda _, given: given[0].contiguous())
    phase = config.phases["finetune"]
    assert isinstance(phase, TrainPhase)
    update = {"unfreeze": unfreeze, "lr": 1e-5, "head_lr": 1e-5, "epochs": 10**4}
    training = FoldTraining(make_context(config, resolved, folder))
    training.network = network
    run = PhaseTraining(training, "finetune", phase.model_copy(update=update))
    run.set_modes()
    fixed = make_batch(resolved, batch_size)
    batches = load(config, resolved, batch_size, folder, workers) if loaded else iter(lambda: fixed, None)

    def train() -> int:
        for _ in range(steps):
            run.step(next(batches))
        return steps * batch_size

    return train


def make_context(config: RunConfig, resolved: ModelConfig, folder: Path) -> FoldContext:
    """A fold of the rendered photographs, for the optimiser, the schedule and all else that a step needs."""
    find_photographs(folder, 160)
    data = load_data_config(str((folder / "photographs").absolute()))
    store = open_store(Workspace(folder / "work"), data, num_folds=2)
    training = config.training.model_copy(update={"precision": "fp32"})
    augment = config.augment.model_copy(update={"short_side": round(int(resolved.image_size) * 8 / 7)})
    config = config.model_copy(update={"model": resolved, "training": training, "augment": augment})
    return FoldContext(
        Resolved(config, Weights("none"), CPU),
        0,
        competition=store.competition,
        folds=store.folds,
        cache=folder / "work/cache",
        tracker=Tracker(),
    )


def load(
    config: RunConfig, resolved: ModelConfig, batch_size: int, folder: Path, workers: int
) -> Iterator[Batch]:
    """Batches without end, from the cache."""
    paths = find_photographs(folder, 160)
    size, crop = resolved.image_size, resolved.crop
    assert isinstance(size, int) and isinstance(crop, float)
    pictures = cached_pictures(
        Files(paths, short_side=round(size * 8 / 7)),
        digest_images(paths, root=folder),
        kind=str(round(size * 8 / 7)),
        folder=folder / "pictures",
        limit="auto",
        progress=console.progress,
    )
    augmenter = Augmenter(config.augment.policies["heavy"], size=size, crop=crop, seed=0)
    rows = np.arange(len(paths))
    loader = Loader(pictures, rows, augmenter, batch_size=batch_size, num_workers=workers, seed=0)
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


if __name__ == "__main__":
    console.run(main)
