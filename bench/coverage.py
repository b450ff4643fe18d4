"""How often the expected score's 95% interval holds the truth: competitions drawn from labelled people.

    OMP_NUM_THREADS=1 PYTHONPATH=scripts python bench/coverage.py --root <folder> [--data <competition>]

Each competition has 26 training and 52 test subjects, nobody in both. With --data they are drawn from the
competition's labelled subjects, so that draws share people. Without, the sample's renderer makes 50 groups of
78 subjects, each group with nuisance strengths of its own (camera, light and habits, each 0.4 to 2 times the
usual), and each competition deals a group's subjects out anew.

A competition's runs are logistic heads on EfficientNet-Lite0's features over five folds by subject, three of
them from well calibrated to over-confident, and their cross-fitted blend. The truth is the log loss of the
mean over folds on the test subjects' labels. Features and predictions are kept below --root: what is there is
not made again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

import console
from distracted.config import load_config
from distracted.data.augment import resize_and_crop
from distracted.data.competition import load_competition
from distracted.data.sample import Nuisance, render_subject
from distracted.data.split import split_by_subject
from distracted.ensemble.crossfit import cross_fit
from distracted.files import atomic_path, write_json
from distracted.metrics import log_loss, log_losses, subject_bootstrap
from distracted.models.linear import fit_logistic, linear_log_probs
from distracted.models.network import Network, build_network
from distracted.submission.expect import Bag, expect_score
from distracted.training.feed import Feed, Images
from distracted.training.resolve import Settled, settle
from markdown_table import say_header, say_row

NUM_TRAIN, NUM_TEST, NUM_FOLDS = 26, 52, 5
NUM_GROUPS = 50  # rendered
RENDERED_WIDTH, RENDERED_SIZE, LABELLED_SIZE = 96, 64, 96  # pixels
STRENGTHS = 0.4, 2.0
#: Of the heads: inverse strength of the penalty, and how many of the features it sees (None: all).
HEADS: dict[str, tuple[float, int | None]] = {"plain": (0.03, None), "sure": (100.0, None), "few": (3.0, 128)}
BLEND = "blend"
METHODS = "expected", "OOF bootstrap"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class People:
    """Features of labelled images, shape (num_images, num_features), their labels and subjects."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    subjects: NDArray[np.int64]


def main(
    root: Annotated[Path, typer.Option(help="Where features, predictions and results are kept.")],
    data: Annotated[str, typer.Option(help="A competition's folder; by default subjects are rendered.")] = "",
    competitions: Annotated[int, typer.Option(help="How many are drawn.")] = 200,
    debug: console.Debug = False,
) -> None:
    """Print a table: each kind of run, the forecast beside the plain bootstrap of OOF."""
    torch.set_num_threads(1)
    name = Path(data).name if data else "rendered"
    groups = [_labelled(data, root)] if data else [_rendered(root, group) for group in _groups()]
    rows = []
    with console.progress("competitions", total=competitions, unit="competition") as step:
        for number in range(competitions):
            path = root / f"predictions_{name}" / f"{number:03}.npz"
            if not path.is_file():
                rng = np.random.default_rng([1, number])
                _save(path, _compete(groups[number % len(groups)], rng))
            rows += [{"competition": number, **row} for row in _score(_load(path))]
            step()
    write_json(root / f"coverage_{name}.json", rows)
    _show(rows)


# Features


def _labelled(data: str, root: Path) -> People:
    settled = _settle(data, LABELLED_SIZE)
    competition = load_competition(settled.config.data, cache=root / "cache", progress=console.progress)
    network = build_network(settled.config.model, settled.weights, num_classes=competition.num_classes)
    features = Feed(settled, root / "cache", console.progress).features(network, Images.to_train(competition))
    subjects = np.unique(competition.train["subject"].to_numpy(str), return_inverse=True)[1]
    return People(np.array(features), competition.train["label"].to_numpy(np.int64), subjects)


def _groups() -> Iterator[int]:
    with console.progress("rendering groups of subjects", total=NUM_GROUPS, unit="group") as step:
        for group in range(NUM_GROUPS):
            yield group
            step()


def _rendered(root: Path, group: int) -> People:
    """Features of a group's subjects, a third of whom have twice as many images as the others."""
    path = root / "rendered" / f"{group:03}.npz"
    if not path.is_file():
        settled = _settle("sample", RENDERED_SIZE)
        network = build_network(settled.config.model, settled.weights, num_classes=10).eval()
        crop = settled.config.model.crop
        assert isinstance(crop, float)
        rng = np.random.default_rng([7, group])
        low, high = np.log(STRENGTHS)
        nuisance = Nuisance(*np.exp(rng.uniform(low, high, 3)).tolist())
        images, labels, subjects = [], [], []
        for subject in range(NUM_TRAIN + NUM_TEST):
            num_frames = 1 + int(rng.random() < 1 / 3)
            for label, picture in render_subject(
                [7, group, subject], num_frames=num_frames, width=RENDERED_WIDTH, nuisance=nuisance
            ):
                images.append(resize_and_crop(picture, size=RENDERED_SIZE, crop=crop))
                labels.append(label)
                subjects.append(subject)
        features = _features(network, np.stack(images)).astype(np.float16)
        _save(path, {"features": features, "labels": np.array(labels), "subjects": np.array(subjects)})
    kept = _load(path)
    return People(kept["features"].astype(np.float32), kept["labels"], kept["subjects"])


def _settle(data: str, size: int) -> Settled:
    settings = [
        f"model.image_size={size}",
        "recipe=features",
        "runtime.tracking=none",
        "runtime.num_workers=0",
    ]
    return settle(load_config(model="efficientnet_lite0", data=data, overrides=settings), num_folds=NUM_FOLDS)


@torch.no_grad()
def _features(network: Network, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    batches = np.array_split(images, -(-len(images) // 32))
    return np.concatenate([network.features(torch.from_numpy(batch)).numpy() for batch in batches])


# A competition


def _compete(people: People, rng: np.random.Generator) -> Arrays:
    """Draw a competition and predict it: what a run's store would hold, and the truth."""
    drawn = rng.permutation(people.subjects.max() + 1)[: NUM_TRAIN + NUM_TEST]
    train, test = (np.isin(people.subjects, part) for part in np.split(drawn, [NUM_TRAIN]))
    labels = people.labels[train]
    subjects = np.unique(people.subjects[train], return_inverse=True)[1]
    folds = split_by_subject(labels, subjects, NUM_FOLDS)
    assert folds is not None
    oof, of_test = [], []
    for c, num_features in HEADS.values():
        total = people.features.shape[1]
        columns = np.arange(total) if num_features is None else rng.choice(total, num_features, replace=False)
        features = people.features[:, columns]
        out, networks = np.empty((len(labels), int(labels.max()) + 1)), []
        for fold in range(NUM_FOLDS):
            valid = folds == fold
            weight, bias = fit_logistic(features[train][~valid], labels[~valid], c=c, max_iter=300)
            out[valid] = linear_log_probs(features[train][valid], weight, bias)
            networks.append(linear_log_probs(features[test], weight, bias))
        oof.append(out)
        of_test.append(np.stack(networks))
    members, fit = np.stack(of_test), cross_fit(np.stack(oof), labels, folds, subjects)
    blended = [fit.chosen[f].pool(members[:, f], fit.weights[f]) for f in range(NUM_FOLDS)]
    found = {"labels": labels, "subjects": subjects, "test_labels": people.labels[test]}
    for name, of_oof, networks_of in zip(
        (*HEADS, BLEND), (*oof, fit.log_probs), (*of_test, np.stack(blended)), strict=True
    ):
        found |= {f"{name}_oof": of_oof.astype(np.float32), f"{name}_test": networks_of.astype(np.float32)}
    return found


def _score(found: Arrays) -> list[dict[str, Any]]:
    """Forecasts of each run beside its true score."""
    rows = []
    for name in (*HEADS, BLEND):
        oof, test = found[f"{name}_oof"], found[f"{name}_test"]
        labels, subjects = found["labels"], found["subjects"]
        truth = log_loss(Bag.of(test).pooled, found["test_labels"])
        ours = expect_score(oof, labels, subjects, test, num_test_subjects=NUM_TEST)
        plain = subject_bootstrap(log_losses(oof, labels), subjects)
        for method, forecast in zip(METHODS, (ours, plain), strict=True):
            ends = {"mean": forecast.mean, "low": forecast.low, "high": forecast.high}
            rows.append({"run": name, "method": method, "truth": truth, **ends})
    return rows


def _show(rows: list[dict[str, Any]]) -> None:
    say_header(
        ["runs", "true", "forecast by", "covered", "truth below", "above", "mean signed error", "mean width"]
    )
    for name in (*HEADS, BLEND, "all"):
        for method in METHODS:
            chosen = [row for row in rows if row["method"] == method and name in (row["run"], "all")]
            truth, mean, low, high = (
                np.array([row[key] for row in chosen]) for key in ("truth", "mean", "low", "high")
            )
            error = (mean - truth).mean()
            say_row(
                [
                    name,
                    f"{truth.mean():.3f}",
                    method,
                    f"{((truth >= low) & (truth <= high)).mean():.1%}",
                    f"{(truth < low).mean():.1%}",
                    f"{(truth > high).mean():.1%}",
                    f"{error:+.4f} ({error / truth.mean():+.1%})",
                    f"{(high - low).mean():.3f}",
                ]
            )


def _save(path: Path, arrays: Arrays) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _load(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


if __name__ == "__main__":
    console.run(main)
