"""Parts `repeat` and `models`: the same training gives the same bytes, in another process too.

`repeat` trains whole folds by the product's own code, in two processes that run side by side. `models` takes
three steps of every network in configs/models, twice, and looks which operation has no deterministic
implementation.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from distracted.data.loading import Batch
from distracted.errors import DistractedError, first_line
from distracted.files import sha256_file
from distracted.models.network import fingerprint
from distracted.paths import CONFIGS
from gpu_parts.apart import Apart
from gpu_parts.place import Place, fresh, logged
from gpu_parts.rows import Row, judged

#: Networks of `repeat`: model and overrides. GoogLeNet's heads pool adaptively, which CUDA cannot repeat.
NETWORKS: dict[str, tuple[str, list[str]]] = {
    "resnet50": ("resnet50", []),
    "efficientnet_lite0": ("efficientnet_lite0", ["model.weights=auto", "phases.finetune.epochs=1"]),
    "vit_tiny": ("resnet50", ["model.backbone=vit_tiny_patch16_224"]),
    "googlenet with auxiliary heads": ("googlenet", ["model.head.auxiliary=0.3"]),
}
#: Models of configs/models that CUDA cannot repeat; docs/gpu.md names them, and a test compares.
UNREPEATABLE = ("googlenet",)
_NAMED = "has no deterministic implementation"
_SIZE = 112  # pixels
_SECONDS = 200.0


@dataclass(frozen=True)
class Trained:
    """One training: hashes of its files, and the logged line about an operation that cannot repeat."""

    name: str
    precision: str
    hashes: tuple[str, ...]
    named: str


def check_repeat(place: Place) -> Iterator[Row]:
    """Whole folds, in two processes, byte by byte."""
    for name in ("repeat1", "repeat2"):
        fresh(place.folder / name)
    both = [Apart(train_all, place, name) for name in ("repeat1", "repeat2")]
    ones, others = (list(process.results(_SECONDS)) for process in both)
    for one, other in zip(ones, others, strict=True):
        yield compare(one, other, is_cuda=place.is_cuda)


def train_all(place: Place, name: str) -> Iterator[Trained]:
    """Train each network in each precision in a workspace."""
    size = 64 if place.is_short else _SIZE
    settings = [f"model.image_size={size}", f"phases.scratch.epochs={1 if place.is_short else 2}"]
    for network, (model, overrides) in NETWORKS.items():
        for precision in place.precisions() if network == "vit_tiny" or not place.is_short else ["fp32"]:
            run = f"{network.split()[0]}_{precision}"
            own = [*settings, *overrides, f"training.precision={precision}"]
            _, lines = place.train(name, model, *own, run=run)
            store = place.store(name)
            folder = store.workspace.fold(store.competition.name, run, 0)
            files = [folder / "valid.parquet", folder / "test.parquet"]
            network_of_run = store.workspace.network(store.competition.name, run, 0)
            hashes = (*map(sha256_file, files), sha256_file(network_of_run))
            named = next((line for line in lines if _NAMED in line), "")
            yield Trained(network, precision, hashes, named)


def compare(one: Trained, other: Trained, *, is_cuda: bool) -> Row:
    """Same bytes are expected, except of a network that CUDA cannot repeat: of it, a line that says so."""
    differ = [part for part, a, b in zip(PARTS, one.hashes, other.hashes, strict=True) if a != b]
    value = f"{' and '.join(differ)} differ" if differ else "the same bytes"
    value += f"; said: {one.named}" if one.named else ""
    what = f"{one.name}, {one.precision}"
    if is_cuda and one.name.startswith(UNREPEATABLE):
        return judged(what, value, "a line that names the operation", bool(one.named), same=not differ)
    return judged(what, value, "the same bytes", not differ and not one.named, same=not differ)


PARTS = ("valid.parquet", "test.parquet", "network")


def check_models(place: Place) -> Iterator[Row]:
    """Three steps of every model, twice in one process."""
    names = sorted(path.stem for path in (CONFIGS / "models").glob("*.yaml"))
    names.remove("majority")  # no network
    if place.is_short:
        names = ["cnn", "googlenet", "mobilenet_v2"]
    precision = place.precisions()[1:2] or ["fp32"]
    for name in names:
        settings = ["recipe=full", f"training.precision={precision[0]}"]
        settings += [f"model.image_size={_SIZE}"] if place.is_short else []
        try:
            with logged() as lines:
                digests = {_three_steps(place, name, settings) for _ in range(2)}
        except (DistractedError, RuntimeError) as error:
            yield judged(name, first_line(error), "three steps, twice", False)
            continue
        named = next((line for line in lines if _NAMED in line), "")
        same = len(digests) == 1
        value = f"{'the same bytes' if same else 'the weights differ'}{f'; said: {named}' if named else ''}"
        if place.is_cuda and name in UNREPEATABLE:
            yield judged(name, value, "a line that names the operation", bool(named), same=same)
        else:
            yield judged(name, value, "the same bytes", same and not named, same=same)


def _three_steps(place: Place, model: str, settings: list[str]) -> str:
    run = place.phase(model, *settings)
    torch.manual_seed(0)
    size = run.context.config.model.image_size
    assert isinstance(size, int)
    images = torch.randint(0, 256, (4, size, size, 3), dtype=torch.uint8)
    batch = Batch(images.to(run.device), torch.arange(4))
    for _ in range(3):
        run.step(batch)
    return fingerprint(run.network)
