"""Feature spaces: what lies near what in each part of a run's predictions, found once and kept in files."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from distracted.errors import StoreError
from distracted.files import atomic_path
from distracted.models.network import build_network
from distracted.postprocess.networks import load_trained
from distracted.postprocess.step import Subset
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RuntimeConfig
from distracted.training.feed import Feed, Images
from distracted.training.resolve import Settled

T = TypeVar("T")
Arrays = Mapping[str, NDArray[np.generic]]

#: The space of the networks that made the predictions: each fold's rows in its own network's features.
OWN = "own"
#: All rows that some fold holds out, as if they were one fold of many drivers: to be compared with, alone.
ALL_DRIVERS = Subset(-1)


@dataclass(frozen=True)
class Layout(Generic[T]):
    """What is kept of a part's features: how it is found, and what the arrays in its file mean.

    Attributes:
        settings: All that changes what is found, besides the features: part of the file's key.
        compared: Whether all drivers at once are to be compared with.
    """

    name: str
    settings: str
    compared: bool
    find: Callable[[NDArray[np.float32], Progress], Arrays]
    read: Callable[[Arrays], T]


@dataclass(frozen=True, eq=False)
class Space(Generic[T]):
    """A feature space: of each part the key of its file.

    Attributes:
        num_images: In each part.
        describes: What the space is, as plain JSON values.
        seconds: That it took to make.
    """

    folder: Path
    layout: Layout[T]
    keys: Mapping[Subset, str]
    num_images: Mapping[Subset, int]
    describes: object
    seconds: float = 0.0
    _known: dict[str, T] = field(default_factory=dict)

    def __call__(self, part: Subset) -> T:
        key = self.keys[part]
        if key in self._known:
            return self._known[key]
        path = self.folder / f"{key}.npz"
        arrays = _load(path)
        if any(len(array) != self.num_images[part] for array in arrays.values()):
            raise StoreError(
                f"{path}: of other images: expected {self.num_images[part]} rows; remove it, and `make "
                "smooth` finds anew what is near what"
            )
        found = self.layout.read(arrays)
        if not part.test:  # fits ask for the others again and again; test sets are large, and asked for once
            self._known[key] = found
        return found

    def of_fold(self, fold: int) -> dict[str, str]:
        """The keys of a fold's two parts, as a manifest holds them."""
        return {"valid": self.keys[Subset(fold)], "test": self.keys[Subset(fold, test=True)]}


def stored_space(
    store: Store, layout: Layout[T], keys: Mapping[int, Mapping[str, str]], describes: object
) -> Space[T]:
    """A space that was made before, from `Space.of_fold` of each fold."""
    parts = {Subset(fold): found["valid"] for fold, found in keys.items()}
    parts |= {Subset(fold, test=True): found["test"] for fold, found in keys.items()}
    folder = store.workspace.spaces(store.competition.name)
    return Space(folder, layout, parts, _num_images(store), describes)


def make_spaces(
    store: Store,
    layouts: Sequence[Layout[Any]],
    features: Iterable[tuple[Subset, NDArray[np.float32]]],
    *,
    describes: object,
    progress: Progress = silent,
) -> dict[str, Space[Any]]:
    """A space of some features in each of several layouts, by their names.

    What a layout keeps of a part is found, or taken from its file where it was found before.

    Args:
        features: Of each part, (num_images, num_features), in the order of the predictions.
    """
    folder = store.workspace.spaces(store.competition.name)
    start = time.perf_counter()
    keys: dict[str, dict[Subset, str]] = {layout.name: {} for layout in layouts}
    test: NDArray[np.float32] | None = None
    of_test: dict[str, str] = {}
    for part, rows in features:
        if part.test and rows is test:  # a fixed network's are the same for every fold
            found = of_test
        else:
            kept = [layout for layout in layouts if part != ALL_DRIVERS or layout.compared]
            found = {layout.name: _keep(folder, layout, rows, progress) for layout in kept}
        if part.test:
            test, of_test = rows, found
        for name, key in found.items():
            keys[name][part] = key
    sizes, seconds = _num_images(store), (time.perf_counter() - start) / len(layouts)
    return {
        layout.name: Space(folder, layout, keys[layout.name], sizes, describes, seconds) for layout in layouts
    }


def _num_images(store: Store) -> dict[Subset, int]:
    sizes = {ALL_DRIVERS: len(store.folds.scored)}
    for fold in range(store.folds.num_folds):
        sizes[Subset(fold)] = len(store.folds.valid(fold))
        sizes[Subset(fold, test=True)] = len(store.competition.test)
    return sizes


def fixed_spaces(
    store: Store, layouts: Sequence[Layout[Any]], settled: Settled, *, progress: Progress = silent
) -> dict[str, Space[Any]]:
    """The space of one pretrained network, the same for every fold, in some layouts.

    Raises:
        StoreError: the network has no pretrained weights: what is near in it would mean nothing.
    """
    config = settled.config
    if not settled.weights.pretrained:
        raise StoreError(
            f"SPACES: {config.model.backbone} has no pretrained weights here, and random features say little "
            f"about what is alike; expected a network that has, or {OWN}"
        )
    num_classes = store.competition.num_classes
    network = build_network(config.model, settled.weights, num_classes=num_classes).to(settled.device)
    feed = Feed(settled, store.workspace.cache(store.competition.name), progress)

    def parts() -> Iterator[tuple[Subset, NDArray[np.float32]]]:
        train = feed.features(network, Images.to_train(store.competition))
        test = feed.features(network, Images.to_test(store.competition))
        yield ALL_DRIVERS, train[store.folds.scored]
        for fold in range(store.folds.num_folds):
            yield Subset(fold), train[store.folds.valid(fold)]
            yield Subset(fold, test=True), test

    seen = {name: list(box) for name, box in config.data.regions.items()}
    describes = {**config.model.model_dump(mode="json"), "boxes": seen}
    return make_spaces(store, layouts, parts(), describes=describes, progress=progress)


def own_spaces(
    store: Store,
    layouts: Sequence[Layout[Any]],
    run: Run,
    *,
    runtime: RuntimeConfig,
    progress: Progress = silent,
) -> dict[str, Space[Any]]:
    """The space of the networks that made a run: fold k's rows and the test set in fold k's features.

    Raises:
        StoreError: the run was made of several networks a fold.
        WeightsError: a network is gone, or not the one that predicted.
    """
    trained_run = _trained(store, run)
    train, test = Images.to_train(store.competition), Images.to_test(store.competition)

    def parts() -> Iterator[tuple[Subset, NDArray[np.float32]]]:
        for fold in range(store.folds.num_folds):
            trained = load_trained(store, trained_run, fold, runtime=runtime, progress=progress)
            if trained.network.taken[1]:
                raise StoreError(
                    f"SPACES={OWN}: the head of {trained_run.name} takes the un-pooled map, too large to "
                    "search in; expected the name of a pretrained network, such as SPACES=resnet50"
                )
            valid = train.take(store.folds.valid(fold))
            yield Subset(fold), trained.feed.features(trained.network, valid)
            yield Subset(fold, test=True), trained.feed.features(trained.network, test)

    return make_spaces(store, layouts, parts(), describes=trained_run.name, progress=progress)


def _trained(store: Store, run: Run) -> Run:
    """The run that was trained, at the end of a chain of steps."""
    while run.kind == "derived" and len(run.manifests[0].parents) == 1:
        run = store.read_run(run.manifests[0].parents[0].run)
    if run.kind != "model":
        raise StoreError(
            f"SPACES={OWN}: {run.name} has several networks a fold, and no space of its own; expected the "
            "name of a pretrained network, such as SPACES=resnet50"
        )
    return run


def _keep(folder: Path, layout: Layout[T], features: NDArray[np.float32], progress: Progress) -> str:
    """Find what the layout keeps of some features, unless its file is there; returns the file's key."""
    features = np.ascontiguousarray(features)
    digest = sha256(f"{layout.name} {layout.settings} {features.shape}".encode())
    digest.update(features.data)
    key = digest.hexdigest()[:32]
    path = folder / f"{key}.npz"
    if not path.is_file():
        found = layout.find(features, progress)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **found)  # type: ignore[arg-type]
    return key


def _load(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise StoreError(
            f"{path}: gone or damaged; remove it, and `make smooth` finds anew what is near what"
        ) from error
