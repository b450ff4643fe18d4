"""Seconds to reach a log loss on unseen people: the default recipe, fastai, a linear probe, the textbook.

    pip install -r bench/requirements.txt -c requirements.lock
    PYTHONPATH=scripts python bench/speed_quality.py --data <folder> --root <workspace> --out quality.json

One fold, the same network and ImageNet weights, the same image and batch size. Each contender is scored every
few steps, with its clock stopped, and at the end. fastai: `fine_tune` with the learning rate of its own
finder (whose seconds do not count) or with `--rates`, and with BatchNorm frozen while the base is frozen
(`train_bn=False` and `BnFreeze`). Linear probe: scikit-learn's logistic regression with default settings on
features by eager PyTorch, each penalty timed as if it were the only one. Textbook: the recipe
`tutorial_rmsprop` on our loader.
"""

import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from sklearn.linear_model import LogisticRegression

import console
from distracted.config import load_config
from distracted.data.augment import resize_and_crop
from distracted.data.images import read_rgb
from distracted.data.picture_sets import Images
from distracted.metrics import log_loss
from distracted.models.backbone import find_backbone
from distracted.models.network import build_network
from distracted.models.weights import load_weights
from distracted.paths import Workspace
from distracted.predictions.store import Store, open_store
from distracted.progress import silent
from distracted.training.checkpoints import Checkpoints, State
from distracted.training.context import FoldContext
from distracted.training.feed import Feed
from distracted.training.loop import train_fold
from distracted.training.metrics_log import FileTracker
from distracted.training.resolve import Resolved, resolve
from harness import save, size_setting
from markdown_table import say_header, say_row

LEVELS = (0.3, 0.1, 0.05)
EVERY = 10  # steps between scores
PENALTIES = (0.01, 0.03, 0.1, 1.0, 10.0)  # of the probe, inverse; scikit-learn's default is 1
QUIET = ["runtime.tracking=none", "runtime.validate_every_epoch=false", "runtime.num_workers=0"]
OURS, PROBE, TEXTBOOK = "ours (recipe full)", "linear probe", "textbook (tutorial_rmsprop)"


@dataclass
class Curve:
    """Log loss of one contender by seconds; its clock is stopped while it is scored."""

    points: list[tuple[float, float]] = field(default_factory=list)
    _spent: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

    @contextmanager
    def looking(self) -> Iterator[float]:
        """Stop the clock during this block; yields the seconds so far."""
        self._spent += time.perf_counter() - self._since
        yield self._spent
        self._since = time.perf_counter()

    def seconds_to(self, level: float) -> float | None:
        return min((seconds for seconds, loss in self.points if loss <= level), default=None)

    @property
    def last(self) -> tuple[float, float]:
        return self.points[-1]


def main(
    data: console.Data,
    root: console.Root,
    model: Annotated[str, typer.Option(help="A name in configs/models.")] = "efficientnet_lite0",
    fold: Annotated[int, typer.Option(help="The fold.")] = 0,
    epochs: Annotated[str, typer.Option(help="Of fine_tune, for each of its runs.")] = "4 12",
    rates: Annotated[str, typer.Option(help="Of fine_tune: numbers, or 0 for the finder's.")] = "0",
    repeats: Annotated[int, typer.Option(help="How often all of them run, one after another.")] = 1,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the curves.")] = None,
) -> None:
    """Print seconds to each log loss, and where each contender ends."""
    always = [*QUIET, size_setting(model)]
    config = load_config(model=model, data=data, overrides=always, root=root)
    store = open_store(Workspace(root), config.data, num_folds=config.training.num_folds)

    def ours(*overrides: str) -> Callable[[], Curve]:
        settings = [*always, *overrides]
        chosen = resolve(
            load_config(model=model, data=data, overrides=settings, root=root),
            num_folds=store.folds.num_folds,
        )
        return lambda: train_ours(store, chosen, fold)

    plain = resolve(config, num_folds=store.folds.num_folds)
    contenders: dict[str, Callable[[], Curve]] = {
        OURS: ours(),
        PROBE: lambda: fit_probe(store, plain, fold),
        TEXTBOOK: ours("recipe=tutorial_rmsprop", "phases.head.epochs=4", "phases.top.epochs=8"),
    }
    if fastai_version() is None:
        console.warn("fastai is not installed (bench/requirements.txt): left out")
    else:
        for number, rate in itertools.product(map(int, epochs.split()), map(float, rates.split())):
            name = f"fastai, fine_tune({number}), {f'rate {rate:g}' if rate else 'rate of its finder'}"
            contenders[name] = partial(train_fastai, store, plain, fold, epochs=number, rate=rate)
    curves: dict[str, list[Curve]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            curves[name].append(contender())
            seconds, loss = curves[name][-1].last
            console.say(f"{name}: {loss:.4f} after {seconds:.0f} s")
            save(
                out,
                {"curves": curves, "fastai": fastai_version(), "data": store.competition.name, "fold": fold},
            )
    show(curves)


def fastai_version() -> str | None:
    return version("fastai") if importlib.util.find_spec("fastai") else None


def show(curves: dict[str, list[Curve]]) -> None:
    """A table of the medians over the repeats."""
    console.say("")
    say_header(["", *(f"seconds to {level:g}" for level in LEVELS), "ends at", "after seconds"])
    for name, runs in curves.items():
        cells = []
        for level in LEVELS:
            reached = [seconds for run in runs if (seconds := run.seconds_to(level)) is not None]
            cells.append(f"{statistics.median(reached):.0f}" if len(reached) == len(runs) else "never")
        ends = statistics.median(run.last[1] for run in runs), statistics.median(run.last[0] for run in runs)
        say_row([name, *cells, f"{ends[0]:.3f}", f"{ends[1]:.0f}"])
    best = min(run.last[1] for name, runs in curves.items() if name != OURS for run in runs)
    theirs = next(run for name, runs in curves.items() if name != OURS for run in runs if run.last[1] == best)
    own = [run.seconds_to(best) for run in curves[OURS]]
    shown = ", ".join("never" if seconds is None else f"{seconds:.0f} s" for seconds in own)
    console.say(
        f"\nthe best of the others' ends, {best:.4f} after {theirs.last[0]:.0f} s, ours reaches in {shown}"
    )


class Looks(Checkpoints):
    """Scores the network every `EVERY` steps; keeps no state."""

    def __init__(self, folder: Path, curve: Curve, look: Callable[[State], float]) -> None:
        super().__init__(folder, {})
        self._curve, self._look, self._seen = curve, look, -1

    def after_step(self, state_dict: Callable[[], State], *, boundary: bool = False) -> None:
        with self._curve.looking() as seconds:
            state = state_dict()
            step = int(state["clock"]["step"])
            if state["predicted"] or (step == self._seen and not boundary):
                return
            if boundary or step % EVERY == 0:
                self._seen = step
                self._curve.points.append((seconds, self._look(state["network"])))


def train_ours(store: Store, resolved: Resolved, fold: int) -> Curve:
    """Train one fold with empty caches."""
    looked = build_network(resolved.config.model, resolved.weights, num_classes=store.competition.num_classes)
    train, rows = Images.to_train(store.competition), store.folds.valid(fold)
    labels = store.folds.labels[rows]
    with TemporaryDirectory() as folder, FileTracker(Path(folder)) as tracker:
        feed = Feed(resolved, Path(folder), silent)

        def look(state: State) -> float:
            looked.load_state_dict(state)
            return log_loss(feed.log_probs(looked, train, rows, "looking"), labels)

        curve = Curve()
        context = FoldContext(
            resolved,
            fold,
            competition=store.competition,
            folds=store.folds,
            cache=Path(folder),
            tracker=tracker,
            checkpoints=Looks(Path(folder), curve, look),
            label=resolved.config.recipe,
            progress=console.progress,
        )
        train_fold(context)
    return curve


def fit_probe(store: Store, resolved: Resolved, fold: int) -> Curve:
    """Features by the network as PyTorch comes, then logistic regression; the best penalty on the fold itself
    comes last, which favours it."""
    rows, held_out = store.folds.train(fold), store.folds.valid(fold)
    labels = store.folds.labels
    paths = store.competition.train_paths()
    config = resolved.config.model
    network = build_network(config, resolved.weights, num_classes=2).to(memory_format=torch.contiguous_format)
    assert isinstance(config.image_size, int) and isinstance(config.crop, float)
    size, crop = config.image_size, config.crop

    def features(chosen: np.ndarray) -> np.ndarray:
        batches = []
        for batch in np.array_split(chosen, -(-len(chosen) // 32)):
            images = np.stack([resize_and_crop(read_rgb(paths[row]), size=size, crop=crop) for row in batch])
            with torch.inference_mode():
                inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float()
                inputs = (inputs - network.mean) / network.std
                batches.append(network.trunk(inputs.contiguous()).flatten(1).numpy())
        return np.concatenate(batches)

    curve = Curve()
    network.eval()
    own = features(rows)
    with curve.looking() as seconds:
        others = features(held_out)
        for c in PENALTIES:
            start = time.perf_counter()
            probe = LogisticRegression(C=c, max_iter=1000).fit(own, labels[rows])
            after = seconds + time.perf_counter() - start
            curve.points.append((after, log_loss(probe.predict_log_proba(others), labels[held_out])))
        curve.points.sort(key=lambda point: -point[1])
    return curve


def fastai_learners(store: Store, resolved: Resolved, fold: int) -> Callable[[], Any]:
    """Makes fastai's `vision_learner` on timm's network with the same weights, for a fold."""
    from fastai.vision import all as fastai

    config, competition = resolved.config, store.competition
    backbone = find_backbone(config.model.backbone)
    table = pd.DataFrame({"path": competition.train_paths(), "label": store.folds.labels})
    table["is_valid"] = False
    table.loc[store.folds.valid(fold), "is_valid"] = True
    table = table.loc[np.sort(np.concatenate([store.folds.train(fold), store.folds.valid(fold)]))]
    loaders = fastai.DataBlock(
        blocks=(fastai.ImageBlock, fastai.CategoryBlock(vocab=list(range(competition.num_classes)))),
        get_x=lambda row: row["path"],
        get_y=lambda row: row["label"],
        splitter=fastai.ColSplitter(),
        item_tfms=fastai.Resize(config.model.image_size, method=fastai.ResizeMethod.Squish),
        batch_tfms=[
            *fastai.aug_transforms(do_flip=False),
            fastai.Normalize.from_stats(backbone.mean, backbone.std),
        ],
    ).dataloaders(table.reset_index(drop=True), bs=config.training.batch_size, num_workers=0)

    def make() -> Any:
        torch.manual_seed(0)
        learner = fastai.vision_learner(
            loaders,
            config.model.backbone,
            pretrained=False,
            normalize=False,
            train_bn=False,
            cbs=[fastai.BnFreeze()],
        )
        load_weights(learner.model[0].model, resolved.weights, config.model.backbone, auxiliary=())
        return learner

    return make


def find_rate(make_learner: Callable[[], Any]) -> float:
    """The learning rate of fastai's own finder."""
    finder = make_learner()
    finder.freeze()
    with finder.no_bar():
        rate = float(finder.lr_find(show_plot=False).valley)
    console.say(f"fastai's finder chose a rate of {rate:.2g}")
    return rate


def fastai_log_probs(learner: Any) -> np.ndarray:
    """Log-probabilities of the validation rows, in their order."""
    copied = deepcopy(learner.model).eval()
    with torch.no_grad():
        return np.concatenate([copied(inputs).log_softmax(1).numpy() for inputs, _ in learner.dls.valid])


def train_fastai(store: Store, resolved: Resolved, fold: int, *, epochs: int, rate: float) -> Curve:
    """fastai's `fine_tune`; rate 0: by its finder."""
    from fastai.vision import all as fastai

    curve = Curve()
    make_learner = fastai_learners(store, resolved, fold)
    labels = store.folds.labels[store.folds.valid(fold)]
    if not rate:
        with curve.looking():
            rate = find_rate(make_learner)
    learner = make_learner()
    steps = 0

    class Watch(fastai.Callback):  # type: ignore[misc]
        def after_batch(self) -> None:
            nonlocal steps
            if self.training:
                steps += 1
                if steps % EVERY == 0:
                    with curve.looking() as seconds:
                        curve.points.append((seconds, log_loss(fastai_log_probs(self.learn), labels)))

        def before_validate(self) -> None:
            raise fastai.CancelValidException  # its own validation would cost it time

    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs, base_lr=rate, cbs=[Watch()])
    with curve.looking() as seconds:
        curve.points.append((seconds, log_loss(fastai_log_probs(learner), labels)))
    return curve


if __name__ == "__main__":
    console.run(main)
