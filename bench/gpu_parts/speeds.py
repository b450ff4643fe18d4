"""Parts `loader`, `steps` and `predictions`: images a second, at several sizes and precisions."""

from collections.abc import Callable, Iterator
from itertools import cycle

import torch

from distracted.cores import usable_cores, workers_for
from distracted.data.images import read_rgb
from distracted.data.loading import Batch
from distracted.inference.device import Precision, prefetch
from distracted.inference.device_views import DeviceViewer
from distracted.inference.forward import Forward
from distracted.inference.memory import is_out_of_memory
from distracted.inference.views import VIEWS, Viewer
from distracted.training.phase_training import PhaseTraining
from gpu_parts.clock import rate
from gpu_parts.place import Place
from gpu_parts.rows import Row, judged, measured, rates

_WAITS = 0.1  # share of the time that a GPU may wait for images
_ANY_NETWORK = ["model.backbone=test_resnet", "model.image_size=224"]  # where none runs


def _models(place: Place) -> dict[str, list[str]]:
    """Networks to time, with overrides."""
    if place.is_short:
        return {"efficientnet_lite0": ["model.image_size=64"]}
    return {"resnet50": ["model.image_size=224"], "efficientnet_lite0": ["model.image_size=128"]}


def _sizes(place: Place, *sizes: int) -> list[int]:
    return [4, 8] if place.is_short else list(sizes)


def _seconds(place: Place) -> float:
    return 0.3 if place.is_short else 1.0


def check_loader(place: Place) -> Iterator[Row]:
    """Augmented training images from the cache, by number of workers; and what a step waits for."""
    most = workers_for(usable_cores())
    counts = [0, 1] if place.is_short else [0, *(n for n in (1, 2, 4, 8) if n < most), most]
    found = {}
    for num_workers in counts:
        run = place.phase("resnet50", *_ANY_NETWORK, f"runtime.num_workers={num_workers}")
        batches = _endless(run)

        def load(batches: Iterator[Batch] = batches) -> int:
            return len(next(batches).images)

        found[str(num_workers)] = rate(load, "cpu", seconds=_seconds(place))
    yield rates("augmented images at 224, by number of workers", found)
    yield from _waiting(place)


def _endless(run: PhaseTraining) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from run.loader.epoch(epoch)
        epoch += 1


def _waiting(place: Place) -> Iterator[Row]:
    """The share of the time that the device waits for images, from rates with and without the loader."""
    for model, overrides in _models(place).items():
        run = place.phase(model, *overrides)
        batches = _endless(run)
        loaded = rate(
            _stepping(run, prefetch(batches, run.device)), place.device, seconds=2 * _seconds(place)
        )
        fixed = cycle([next(prefetch(batches, run.device))])
        alone = rate(_stepping(run, fixed), place.device, seconds=_seconds(place))
        share = max(0.0, 1 - loaded / alone)
        value = f"{share:.0%} ({loaded:.4g} with the loader, {alone:.4g} img/s without)"
        what = f"{model}: time that a step waits for images"
        if place.is_cuda:
            yield judged(what, value, f"at most {_WAITS:.0%}", share <= _WAITS, loaded=loaded, alone=alone)
        else:
            yield measured(what, value, loaded=loaded, alone=alone)


def _stepping(run: PhaseTraining, batches: Iterator[Batch]) -> Callable[[], int]:
    def work() -> int:
        batch = next(batches)
        run.step(batch)
        return len(batch.images)

    return work


def check_steps(place: Place) -> Iterator[Row]:
    """Training steps on a batch that lies on the device."""
    for model, overrides in _models(place).items():
        for precision in place.precisions()[: 1 if place.is_short else 2]:
            found = {}
            for size in _sizes(place, 16, 64, 256):
                settings = [*overrides, f"training.precision={precision}", f"training.batch_size={size}"]
                run = place.phase(model, *settings)
                try:
                    work = _stepping(run, cycle([_batch(run, size)]))
                    speed = rate(work, place.device, seconds=_seconds(place))
                    parts = f" in {run.micro_batches} parts" if run.micro_batches > 1 else ""
                    found[f"{size}{parts}"] = speed
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
            yield rates(f"{model}, {precision}, by batch size", found)


def _batch(run: PhaseTraining, size: int) -> Batch:
    side = run.context.config.model.image_size
    assert isinstance(side, int)
    images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8)
    return Batch(images.to(run.device), torch.arange(size) % len(run.context.folds.labels))


def check_predictions(place: Place) -> Iterator[Row]:
    """Predictions as they come and folded, and test-time views made on the device and on the CPU."""
    for model, overrides in _models(place).items():
        for precision in place.precisions()[: 1 if place.is_short else 2]:
            yield from _forwards(place, model, overrides, precision)
    yield _views(place)


@torch.no_grad()
def _forwards(place: Place, model: str, overrides: list[str], precision: Precision) -> Iterator[Row]:
    run = place.phase(model, *overrides)
    found: dict[str, dict[str, float]] = {}
    for way, num_images in {"as it comes": 1, "folded and cast": 100_000}.items():
        forward = Forward(run.network, "logits", num_images=num_images, precision=precision)
        found[way] = {}
        for size in _sizes(place, 32, 128, 512):
            images = _batch(run, size).images

            def work(forward: Forward = forward, images: torch.Tensor = images) -> int:
                forward(images)
                return len(images)

            found[way][str(size)] = rate(work, place.device, seconds=_seconds(place))
        yield rates(f"{model}, {precision}, {way}, by batch size", found[way])
    (_, before), (_, after) = [list(speeds.items())[-1] for speeds in found.values()]
    what, value = f"{model}, {precision}, folded and cast", f"{after / before:.2f} times as fast"
    yield (
        judged(what, value, "at least 0.95", after >= 0.95 * before, times=after / before)
        if place.is_cuda
        else measured(what, value, times=after / before)
    )


def _views(place: Place) -> Row:
    """Images a second whose five crops are made, of photographs that are decoded already."""
    paths = sorted((place.photographs / "imgs/test").glob("*.jpg"))[:16]
    images = [read_rgb(path) for path in paths]
    size = 64 if place.is_short else 224
    views = VIEWS["five_crops"]
    on_cpu = Viewer(views, size=size, crop=0.9)
    on_device = DeviceViewer(views, size=size, crop=0.9)

    def cpu() -> int:
        for image in images:
            on_cpu(image, epoch=0, index=0)
        return len(images)

    def device() -> int:
        on_device([torch.from_numpy(image).to(place.device) for image in images])
        return len(images)

    found = {
        "one core of the CPU": rate(cpu, "cpu", seconds=_seconds(place)),
        f"{place.device}, upload included": rate(device, place.device, seconds=_seconds(place)),
    }
    return rates("five crops of a photograph", found)
