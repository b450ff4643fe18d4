"""How much cross-fitted scores still flatter, measured on base models trained on shuffled labels.

    OMP_NUM_THREADS=1 PYTHONPATH=scripts python bench/shuffled.py --data <competition> --root <folder>

Nothing can be learned from shuffled labels, so an honest score on held-out rows equals the score on new
people. Each repeat draws half of a competition's subjects for training and keeps the rest as new people,
shuffles the labels, trains logistic heads on frozen features over five folds by subject, and applies every
blender and step to their out-of-fold predictions. The table shows the cross-fitted log loss minus the log
loss of the same fold's models on the new people; it is negative if a score flatters. Out-of-fold predictions
of shuffled labels are anti-correlated with them (if a fold holds more of a class, its training side holds
less), which negative weights can exploit: for comparison, the table includes a log-linear pool that may have
them. Results are kept below --root, one file per repeat, and not computed again.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy.optimize import minimize

import console
from distracted.ensemble.blenders import ALL_BLENDERS, BLENDERS, Blender
from distracted.ensemble.members import step_source
from distracted.ensemble.pools import pool_geometric
from distracted.ensemble.sources import ChosenSource, FittedSource, ScoredRows, Source, StoredSource
from distracted.files import write_json
from distracted.metrics import log_loss, log_losses
from distracted.models.linear import fit_logistic, linear_log_probs
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.neighbours import MAX_NEIGHBOURS
from distracted.postprocess.smooth import METHODS, Smooth
from distracted.postprocess.step import Labels, Runs, Subset, normalised
from distracted.progress import silent
from heads import NUM_FOLDS, Floats, Ints, People, fit_heads, fold_people, labelled_people, some_columns
from markdown_table import say_header, say_row

#: Members: inverse strength of the penalty, and the number of random features (None: all).
HEADS = ((0.01, None), (0.1, 128), (1.0, 128), (1.0, 64), (100.0, 64), (100.0, 32))
_MAX_ITER = 200


def _fit_free_signs(log_probs: Runs, labels: Labels) -> Floats:
    """Weights of the log-linear pool that may be negative."""
    floored = np.maximum(np.stack(list(log_probs)), -15.0).astype(np.float64)
    targets = np.eye(floored.shape[2])[labels]

    def objective(weights: Floats) -> tuple[float, Floats]:
        pooled = normalised(np.tensordot(weights, floored, axes=1))
        gradient = ((np.exp(pooled) - targets) * floored).sum(axis=2).sum(axis=1) / len(labels)
        return float(-(pooled * targets).sum() / len(labels)), gradient

    start = np.full(len(floored), 1 / len(floored))
    weights: Floats = minimize(objective, start, jac=True, method="L-BFGS-B").x
    return weights


#: A pool that the project does not offer, for comparison.
FREE_SIGNS = Blender("log-linear pool, free signs", _fit_free_signs, pool_geometric)


def main(
    data: Annotated[str, typer.Option(help="A competition's folder.")],
    root: Annotated[Path, typer.Option(help="Where features and results are kept.")],
    repeats: Annotated[int, typer.Option(help="Shuffles of the labels.")] = 50,
    size: Annotated[int, typer.Option(help="Pictures' side in pixels.")] = 96,
) -> None:
    """Print a table: every blender and step, and by how much its cross-fitted score flatters."""
    torch.set_num_threads(1)
    people = labelled_people(data, root, size)
    results = []
    with console.progress("shuffles", total=repeats, unit="shuffle") as step:
        for repeat in range(repeats):
            path = root / "shuffled" / f"{repeat:03}.json"
            if not path.is_file():
                rng = np.random.default_rng([2, repeat])
                write_json(path, dict(_repeat(people, rng)))
            results.append(json.loads(path.read_text()))
            step()
    _show(results)


def _repeat(people: People, rng: np.random.Generator) -> Iterator[tuple[str, tuple[float, float]]]:
    """For each blender and step, the cross-fitted log loss and the log loss on new people."""
    drawn = rng.permutation(people.subjects.max() + 1)
    train, new = (_shuffled(people.of(half), rng) for half in np.array_split(drawn, 2))
    scored, answers = fold_people(train), new.labels
    members = [_member(train, new, scored, head, rng) for head in HEADS]
    sure = members[-1]
    calibrated = FittedSource(Calibrate(), [sure])
    sources: dict[str, Source] = {"one run": sure}
    for blender in (*ALL_BLENDERS, FREE_SIGNS):
        sources[blender.name] = FittedSource(blender, members)
    fits = [FittedSource(blender, members) for blender in BLENDERS]
    sources["the chosen blender"] = ChosenSource(fits)
    for part in ("prior", "temperature", "clip"):
        sources[f"calibration: {part}"] = FittedSource(Calibrate((part,)), [sure])
    sources["calibration"] = calibrated
    for name in ("neighbours", "diffusion"):  # a subject has too few images for clusters
        sources[f"smoothing by {name}"] = _smoothing(name, calibrated, train, new, scored)
    steps = [FittedSource(Calibrate(), [member]) for member in members]
    blend = [FittedSource(blender, steps) for blender in BLENDERS]
    sources["calibrated runs, the chosen blender"] = ChosenSource(blend)
    for own in (False, True):
        name = "pseudo-labels" + ", own fold too" * own
        sources[name] = _student(train, new, scored, sure, own=own)
    for name, source in sources.items():
        yield name, _losses(source, scored, answers)


def _shuffled(people: People, rng: np.random.Generator) -> People:
    return replace(people, labels=rng.permutation(people.labels))


def _member(
    train: People, new: People, scored: ScoredRows, head: tuple[float, int | None], rng: np.random.Generator
) -> StoredSource:
    """A run of logistic heads on some of the features."""
    columns = some_columns(train.features.shape[1], head[1], rng)
    oof, test = fit_heads(train, new, scored, columns, c=head[0], max_iter=_MAX_ITER)
    return StoredSource(f"head {head}", oof, scored, test)


def _student(
    train: People, new: People, scored: ScoredRows, teacher: StoredSource, *, own: bool
) -> StoredSource:
    """Heads that also learn from the new people, labelled with a teacher's most probable classes."""
    assert teacher.test is not None
    columns = slice(0, 64)
    oof, test = np.empty(teacher.oof.shape), []
    for fold in range(NUM_FOLDS):
        valid = scored.folds == fold
        pool = [(new.features, teacher.test[fold])]
        if own:
            pool.append((train.features[valid], teacher.oof[valid]))
        rows = np.concatenate([train.features[~valid], *(rows for rows, _ in pool)])[:, columns]
        targets = np.concatenate([train.labels[~valid], *(probs.argmax(axis=1) for _, probs in pool)])
        fit = fit_logistic(rows, targets, c=1.0, max_iter=_MAX_ITER)
        oof[valid] = linear_log_probs(train.features[valid][:, columns], *fit)
        test.append(linear_log_probs(new.features[:, columns], *fit))
    return StoredSource("student", oof, scored, np.stack(test))


def _smoothing(name: str, parent: Source, train: People, new: People, scored: ScoredRows) -> Source:
    method, indices = METHODS[name], {}
    for fold in range(NUM_FOLDS):
        indices[Subset(fold)] = method.index.build(train.features[scored.folds == fold], silent)
    of_new = method.index.build(new.features, silent)
    space: Any = SimpleNamespace(get=lambda index, subset: of_new if subset.test else indices[subset])
    smallest = int(np.bincount(scored.folds).min())
    candidates = method.candidates(["fixed"], {"k": min(MAX_NEIGHBOURS, smallest - 1)})
    return step_source(Smooth({"fixed": space}, candidates), [parent])


def _losses(source: Source, scored: ScoredRows, answers: Ints) -> tuple[float, float]:
    """Cross-fitted log loss, and the mean over folds of the log loss on new people."""
    losses, new = np.empty(len(scored.labels)), []
    for fold in range(NUM_FOLDS):
        rows, hidden = scored.folds == fold, frozenset({fold})
        losses[rows] = log_losses(source.predict(Subset(fold), hidden), scored.labels[rows])
        new.append(log_loss(source.predict(Subset(fold, test=True), hidden), answers))
    return float(losses.mean()), float(np.mean(new))


def _show(results: Sequence[dict[str, tuple[float, float]]]) -> None:
    columns = [
        "blender or step",
        "on new people",
        "cross-fitted minus that",
        "standard error",
        "errors from 0",
    ]
    say_header(columns)
    for name in results[0]:
        losses = np.array([repeat[name] for repeat in results])
        flattery, new = losses[:, 0] - losses[:, 1], losses[:, 1].mean()
        mean, error = flattery.mean(), flattery.std(ddof=1) / np.sqrt(len(flattery))
        say_row([name, f"{new:.3f}", f"{mean:+.5f}", f"{error:.5f}", f"{mean / error:+.1f}"])


if __name__ == "__main__":
    console.run(main)
