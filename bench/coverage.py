"""How often the 95% interval of the expected score holds the true score, on competitions with known labels.

    OMP_NUM_THREADS=1 PYTHONPATH=scripts python bench/coverage.py --root <folder> \\
        [--data <competition> [--runs "<run> ..."] | --simulated]

With --simulated the competitions are those of populations.py.

With --runs they are draws from the out-of-fold rows of stored runs in the workspace --root: three in five
subjects are the training subjects, the others the test set, and each row is predicted by its one network.

Else they show photographs, and have 26 training and 52 other test subjects. With --data they are drawn from
the competition's labelled subjects, so that draws share people. Without it, the sample's renderer makes 50
groups of 78 subjects, each group with its own nuisance strengths (camera, light and habits, each 0.4 to 2
times the default), and each competition splits a group's subjects at random.

The runs on photographs are logistic heads on EfficientNet-Lite0's features over five folds by subject: three
heads from well calibrated to over-confident, one of them after `make calibrate`, and cross-fitted blends of
the three and of the three calibrated heads. The truth is the log loss of the mean over folds on the test
subjects' labels. Features, predictions and scores are kept below --root and not computed again.

The interval score is the width plus 2 / 0.05 times the distance by which the truth is missed, on the natural
logarithm of the log loss (Gneiting and Raftery, Strictly proper scoring rules, 2007); lower is better.
"""

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

import console
from distracted.data.augment import resize_and_crop
from distracted.ensemble.crossfit import cross_fit
from distracted.ensemble.sources import FittedSource, StoredSource
from distracted.errors import ConfigError
from distracted.files import write_json
from distracted.metrics import CLIP, log_loss, log_losses, subject_bootstrap
from distracted.models.network import Network, build_network
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.step import LogProbs, Subset
from distracted.predictions.store import Store
from distracted.sample import Nuisance, render_subject
from distracted.submission.bag import Bag
from distracted.submission.expect import MIN_SUBJECTS, expect_score
from harness import save_arrays
from heads import (
    NUM_FOLDS,
    Floats,
    People,
    fit_heads,
    fold_people,
    labelled_people,
    resolve_features,
    some_columns,
)
from markdown_table import say_header, say_row
from populations import POPULATIONS, simulate

NUM_TRAIN, NUM_TEST = 26, 52
TRAIN_SHARE = 0.6  # of a stored run's subjects
NUM_GROUPS = 50  # rendered
RENDERED_WIDTH, RENDERED_SIZE, LABELLED_SIZE = 96, 64, 96  # pixels
STRENGTHS = 0.4, 2.0
#: Heads: inverse strength of the penalty, and the number of features (None: all).
HEADS: dict[str, tuple[float, int | None]] = {"plain": (0.03, None), "sure": (100.0, None), "few": (3.0, 128)}
METHODS = "expected", "OOF bootstrap"
#: Seed of the simulated competitions. Seed 1 was used to choose the method.
SIMULATED_SEED = 2
MISS = 2 / 0.05  # factor of the interval score

_MAX_ITER = 300

Arrays = dict[str, NDArray[Any]]


def main(
    root: Annotated[Path, typer.Option(help="Where features, predictions and results are kept.")],
    data: Annotated[str, typer.Option(help="A competition's folder; by default subjects are rendered.")] = "",
    competitions: Annotated[int, typer.Option(help="How many are drawn.")] = 200,
    runs: Annotated[str, typer.Option(help="Stored runs of --data, separated by spaces.")] = "",
    simulated: Annotated[bool, typer.Option("--simulated", help="Take those of populations.py.")] = False,
) -> None:
    """Print a table: for each kind of run, the forecast and the plain bootstrap of the OOF loss."""
    torch.set_num_threads(1)
    if simulated:
        _show(_simulated(root, competitions))
    elif runs:
        store = console.open_store(data, root, console.runtime(""), images=False)
        _show([row for run in runs.split() for row in _of_stored_run(store, run, competitions)])
    else:
        _show(_photographed(root, data, competitions))


def _photographed(root: Path, data: str, competitions: int) -> list[dict[str, Any]]:
    name = Path(data).name if data else "rendered"
    groups = (
        [labelled_people(data, root, LABELLED_SIZE)]
        if data
        else [_rendered(root, group) for group in _groups()]
    )
    rows = []
    with console.progress("competitions", total=competitions, unit="competition") as step:
        for number in range(competitions):
            path = root / f"predictions_{name}" / f"{number:03}.npz"
            if not path.is_file():
                rng = np.random.default_rng([1, number])
                save_arrays(path, _compete(groups[number % len(groups)], rng))
            scores = root / f"scores_{name}" / f"{number:03}.json"
            if not scores.is_file():
                write_json(scores, _score(_load(path)))
            rows += json.loads(scores.read_text())
            step()
    return rows


def _simulated(root: Path, competitions: int) -> list[dict[str, Any]]:
    rows = []
    with console.progress("competitions", total=competitions * len(POPULATIONS), unit="competition") as step:
        for name, population in POPULATIONS.items():
            for number in range(competitions):
                scores = root / "scores_simulated" / name.replace(" ", "_") / f"{number:03}.json"
                if not scores.is_file():
                    rng = np.random.default_rng([SIMULATED_SEED, number, zlib.crc32(name.encode())])
                    drawn = simulate(population, rng)
                    people = drawn.labels, drawn.subjects
                    write_json(
                        scores,
                        _judge(
                            name,
                            drawn.oof,
                            *people,
                            drawn.test,
                            drawn.test_labels,
                            population.num_test_subjects,
                        ),
                    )
                rows += json.loads(scores.read_text())
                step()
    return rows


def _of_stored_run(store: Store, name: str, competitions: int) -> list[dict[str, Any]]:
    scored = store.folds.scored
    oof, labels = store.read_run(name).oof[scored], store.folds.labels[scored]
    subjects = np.unique(store.folds.subjects[scored], return_inverse=True)[1]
    num_subjects, rows = int(subjects.max()) + 1, []
    num_train = round(TRAIN_SHARE * num_subjects)
    if num_train < MIN_SUBJECTS:
        raise ConfigError(f"--runs: {name} has {num_subjects} subjects, too few for an interval")
    for number in range(competitions):
        order = np.random.default_rng([3, number]).permutation(num_subjects)
        is_train = np.isin(subjects, order[:num_train])
        train = oof[is_train], labels[is_train], subjects[is_train]
        test = oof[None, ~is_train], labels[~is_train]
        rows += _judge(name, *train, *test, num_subjects - num_train)
    return rows


# Features


def _groups() -> Iterator[int]:
    with console.progress("rendering groups of subjects", total=NUM_GROUPS, unit="group") as step:
        for group in range(NUM_GROUPS):
            yield group
            step()


def _rendered(root: Path, group: int) -> People:
    """Features of a group's subjects, a third of whom have twice as many images as the others."""
    path = root / "rendered" / f"{group:03}.npz"
    if not path.is_file():
        resolved = resolve_features("sample", RENDERED_SIZE)
        network = build_network(resolved.config.model, resolved.weights, num_classes=10).eval()
        crop = resolved.config.model.crop
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
        save_arrays(path, {"features": features, "labels": np.array(labels), "subjects": np.array(subjects)})
    kept = _load(path)
    return People(kept["features"].astype(np.float32), kept["labels"], kept["subjects"])


@torch.no_grad()
def _features(network: Network, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    batches = np.array_split(images, -(-len(images) // 32))
    return np.concatenate([network.features(torch.from_numpy(batch)).numpy() for batch in batches])


# A competition


def _compete(people: People, rng: np.random.Generator) -> Arrays:
    """Draw a competition and predict it; returns the heads' predictions and the true labels."""
    drawn = rng.permutation(people.subjects.max() + 1)[: NUM_TRAIN + NUM_TEST]
    train, test = (people.of(part) for part in np.split(drawn, [NUM_TRAIN]))
    scored, runs = fold_people(train), []
    for c, num_features in HEADS.values():
        columns = some_columns(people.features.shape[1], num_features, rng)
        runs.append(fit_heads(train, test, scored, columns, c=c, max_iter=_MAX_ITER))
    arrays: Arrays = {"labels": train.labels, "subjects": train.subjects, "test_labels": test.labels}
    for name, (oof, of_test) in zip(HEADS, runs, strict=True):
        arrays |= {f"{name}_oof": oof.astype(np.float32), f"{name}_test": of_test.astype(np.float32)}
    return arrays


def _derived(arrays: Arrays) -> Iterator[tuple[str, tuple[LogProbs, Floats]]]:
    """Predictions fitted on the heads': a calibrated run, a blend, and a blend of calibrated runs."""
    scored = fold_people(People(np.empty((0, 0), np.float32), arrays["labels"], arrays["subjects"]))
    heads = [StoredSource(name, arrays[f"{name}_oof"], scored, arrays[f"{name}_test"]) for name in HEADS]
    calibrated = [FittedSource(Calibrate(), [head]) for head in heads]
    blend = cross_fit(heads).source
    better = cross_fit(calibrated).source
    for name, source in (
        (f"{heads[1].name}, calibrated", calibrated[1]),
        ("blend", blend),
        ("blend of calibrated", better),
    ):
        test = [source.predict(Subset(fold, test=True), frozenset({fold})) for fold in range(NUM_FOLDS)]
        yield name, (source.held_out_log_probs(), np.stack(test))


def _score(arrays: Arrays) -> list[dict[str, Any]]:
    """Forecasts and true score of each run."""
    labels, subjects, rows = arrays["labels"], arrays["subjects"], []
    runs = {name: (arrays[f"{name}_oof"], arrays[f"{name}_test"]) for name in HEADS}
    for name, (oof, test) in (runs | dict(_derived(arrays))).items():
        rows += _judge(name, oof, labels, subjects, test, arrays["test_labels"], NUM_TEST)
    return rows


def _judge(
    name: str,
    oof: LogProbs,
    labels: NDArray[np.int64],
    subjects: NDArray[np.int64],
    test: Floats,
    test_labels: NDArray[np.int64],
    num_test: int,
) -> list[dict[str, Any]]:
    """Forecasts and true score of one run; one row for each method."""
    truth = log_loss(Bag.of(test).pooled, test_labels)
    ours = expect_score(oof, labels, subjects, test, num_test_subjects=num_test)
    plain = subject_bootstrap(log_losses(oof, labels), subjects)
    ends = (ours.mean, ours.low, ours.high), (plain.mean, plain.low, plain.high)
    return [
        {"run": name, "method": method, "truth": truth, "mean": mean, "low": low, "high": high}
        for method, (mean, low, high) in zip(METHODS, ends, strict=True)
    ]


def _interval_score(truth: float, low: float, high: float) -> float:
    """Width plus the penalty of a miss, on the logarithm; bounded below as probabilities are."""
    true, first, last = (math.log(max(loss, CLIP)) for loss in (truth, low, high))
    return last - first + MISS * (max(first - true, 0) + max(true - last, 0))


def _show(rows: list[dict[str, Any]]) -> None:
    say_header(
        [
            *("runs", "true", "forecast by", "covered", "truth below", "above", "mean signed error"),
            *("mean width", "interval score"),
        ]
    )
    for name in (*dict.fromkeys(row["run"] for row in rows), "all"):
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
                    f"{np.mean([_interval_score(*ends) for ends in zip(truth, low, high, strict=True)]):.2f}",
                ]
            )


def _load(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


if __name__ == "__main__":
    console.run(main)
