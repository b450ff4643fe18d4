"""Feature spaces: neighbours or clusters of each subset's images, computed once and kept in files."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from distracted.errors import StoreError
from distracted.files import atomic_path
from distracted.postprocess.step import Subset
from distracted.predictions.run import Run, StoredRun
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RuntimeConfig

if TYPE_CHECKING:
    from distracted.training.resolve import Resolved

Arrays = Mapping[str, NDArray[np.generic]]
Features = Iterable[tuple[Subset, NDArray[np.float32]]]

#: The space of the networks that made the predictions: each fold's rows in its own network's features.
OWN = "own"
#: All held-out rows at once, as if they were one fold of many drivers: for a comparison, not for predictions.
ALL_DRIVERS = Subset(-1)


class Kept(Protocol):
    """What is kept of a subset in a file.

    Attributes:
        kind: In manifests and in the key of the file.
    """

    kind: ClassVar[str]

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self: ...

    def arrays(self) -> Arrays: ...


class Index(Kept, Protocol):
    """What is kept of a subset's features: `Neighbours` or `Clusters`.

    Attributes:
        key: All settings that change the result; in the key of the file.
        of_all_drivers: Whether it is computed for `ALL_DRIVERS`, too.
    """

    key: ClassVar[str]
    of_all_drivers: ClassVar[bool]

    @classmethod
    def build(cls, features: NDArray[np.float32], progress: Progress) -> Self: ...


T = TypeVar("T", bound=Kept)
Indices = Sequence[type[Index]]


@dataclass(frozen=True, eq=False)
class Space:
    """A feature space: the files that hold its indices.

    Attributes:
        keys: File of each subset, by the kind of index.
        num_images: Images in each subset.
        description: What the space is, as JSON values.
        seconds: Time that it took to make.
    """

    folder: Path
    keys: Mapping[str, Mapping[Subset, str]]
    num_images: Mapping[Subset, int]
    description: object
    seconds: float = 0.0
    _loaded: dict[str, Any] = field(default_factory=dict)

    def get(self, index: type[T], subset: Subset) -> T:
        """What is kept of a subset, such as its neighbours.

        Raises:
            StoreError: the file is gone, damaged, or for other images.
        """
        key = self.keys[index.kind][subset]
        if key in self._loaded:
            loaded: T = self._loaded[key]
            return loaded
        path = self.folder / f"{key}.npz"
        arrays = _load(path)
        if any(array.ndim and len(array) != self.num_images[subset] for array in arrays.values()):
            raise StoreError(
                f"{path}: of other images: expected {self.num_images[subset]} rows; remove it, and the same "
                "command makes it again"
            )
        loaded = index.from_arrays(arrays)
        if not subset.test:  # fits read the others again and again; test sets are large and read once
            self._loaded[key] = loaded
        return loaded

    def search_of(self, kind: str, subset: Subset) -> str:
        """How neighbours were searched, if not exactly; "" if the file is gone, which `get` reports."""
        path = self.folder / f"{self.keys[kind][subset]}.npz"
        if not path.is_file():
            return ""
        with np.load(path, allow_pickle=False) as file:
            return str(file["search"]) if "search" in file.files else ""

    def keys_of_fold(self, kind: str, fold: int) -> dict[str, str]:
        """The files of a fold's two subsets, as a manifest holds them."""
        return {"valid": self.keys[kind][Subset(fold)], "test": self.keys[kind][Subset(fold, test=True)]}


def stored_spaces(store: Store, run: StoredRun) -> dict[str, Space]:
    """The spaces that a smoothed run was made in, by name."""
    described: Mapping[str, Mapping[str, object]] = run.manifests[0].config["step"]["spaces"]
    keys: dict[str, dict[str, dict[Subset, str]]] = {}
    for manifest in run.manifests:
        for kind, by_name in manifest.details["spaces"].items():
            for name, files in by_name.items():
                subsets = keys.setdefault(name, {}).setdefault(kind, {})
                subsets[Subset(manifest.fold)] = files["valid"]
                subsets[Subset(manifest.fold, test=True)] = files["test"]
    folder, sizes = store.workspace.spaces(store.competition.name), num_images(store)
    descriptions = {name: text for by_name in described.values() for name, text in by_name.items()}
    return {name: Space(folder, keys[name], sizes, text) for name, text in descriptions.items()}


def make_space(
    store: Store, indices: Indices, features: Features, *, description: object, progress: Progress = silent
) -> Space:
    """Index some features; what a file holds already is not computed again.

    Args:
        features: Each subset's, (num_images, num_features), in the order of the predictions.
    """
    folder = store.workspace.spaces(store.competition.name)
    start = time.perf_counter()
    keys: dict[str, dict[Subset, str]] = {index.kind: {} for index in indices}
    test: NDArray[np.float32] | None = None
    of_test: dict[str, str] = {}
    for subset, rows in features:
        if subset.test and rows is test:  # one network for all folds sees one test set
            made = of_test
        else:
            wanted = [index for index in indices if subset != ALL_DRIVERS or index.of_all_drivers]
            made = {index.kind: _ensure_file(folder, index, rows, progress) for index in wanted}
        if subset.test:
            test, of_test = rows, made
        for kind, key in made.items():
            keys[kind][subset] = key
    return Space(folder, keys, num_images(store), description, time.perf_counter() - start)


def pretrained_space(
    store: Store, indices: Indices, resolved: "Resolved", *, progress: Progress = silent
) -> Space:
    """The space of one pretrained network, the same for every fold.

    Raises:
        StoreError: the network has no pretrained weights, so that its distances mean nothing.
    """
    from distracted.data.picture_sets import Images
    from distracted.training.feed import pretrained_features

    config, competition = resolved.config, store.competition
    if not resolved.weights.pretrained:
        raise StoreError(
            f"SPACES: {config.model.backbone} has no pretrained weights here, and random features say little "
            f"about which images are alike; expected a network that has, or {OWN}"
        )

    def features() -> Iterator[tuple[Subset, NDArray[np.float32]]]:
        sets = [Images.to_train(competition), Images.to_test(competition)]
        cache = store.workspace.cache(competition.name)
        train, test = pretrained_features(resolved, sets, cache, progress)
        yield ALL_DRIVERS, train[store.folds.scored]
        for fold in range(store.folds.num_folds):
            yield Subset(fold), train[store.folds.valid(fold)]
            yield Subset(fold, test=True), test

    boxes = {name: list(box) for name, box in config.data.regions.items()}
    description = {**config.model.model_dump(mode="json"), "boxes": boxes}
    return make_space(store, indices, features(), description=description, progress=progress)


def own_space(
    store: Store, indices: Indices, run: Run, *, runtime: RuntimeConfig, progress: Progress = silent
) -> Space:
    """The space of the networks that made a run: fold k's rows and the test set in fold k's features.

    Raises:
        StoreError: the run was made by several networks a fold.
        WeightsError: a network is gone, or not the one that predicted.
    """
    from distracted.data.picture_sets import Images
    from distracted.postprocess.networks import load_trained

    trained_run = _trained_run(store, run)
    train, test = Images.to_train(store.competition), Images.to_test(store.competition)

    def features() -> Iterator[tuple[Subset, NDArray[np.float32]]]:
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

    return make_space(store, indices, features(), description=trained_run.name, progress=progress)


def _trained_run(store: Store, run: Run) -> Run:
    """The trained run at the start of a chain of steps."""
    while run.kind == "derived" and len(run.manifests[0].parents) == 1:
        run = store.read_run(run.manifests[0].parents[0].run)
    if run.kind != "model":
        raise StoreError(
            f"SPACES={OWN}: {run.name} has several networks a fold, and no space of its own; expected the "
            "name of a pretrained network, such as SPACES=resnet50"
        )
    return run


def num_images(store: Store) -> dict[Subset, int]:
    """Images in each subset."""
    sizes = {ALL_DRIVERS: len(store.folds.scored)}
    for fold in range(store.folds.num_folds):
        sizes[Subset(fold)] = len(store.folds.valid(fold))
        sizes[Subset(fold, test=True)] = len(store.competition.test)
    return sizes


def _ensure_file(folder: Path, index: type[Index], features: NDArray[np.float32], progress: Progress) -> str:
    """Build an index unless its file exists; returns the file's key."""
    features = np.ascontiguousarray(features)
    digest = sha256(f"{index.kind} {index.key} {features.shape}".encode())
    digest.update(features.data)
    key = digest.hexdigest()[:32]
    if not (folder / f"{key}.npz").is_file():
        keep(folder, key, index.build(features, progress))
    return key


def keep(folder: Path, key: str, kept: Kept) -> None:
    """Write the file from which `Space.get` reads."""
    with atomic_path(folder / f"{key}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **kept.arrays())  # type: ignore[arg-type]


def _load(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise StoreError(
            f"{path}: gone or damaged; remove it, and the command that made the run makes it again"
        ) from error
