"""Compares calibrations towards the class prior in folds of few subjects and on many new people.

    OMP_NUM_THREADS=1 PYTHONPATH=scripts python bench/prior.py --root <folder of bench/coverage.py>

On the competitions of bench/coverage.py, the pooled OOF loss of one network and its loss on the test
subjects' labels: with a temperature only, and with a bias fitted before it and always applied. One bias
brings each fold's mean to the prior; in the project's, a subject's own rows count for less.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import console
from distracted.ensemble.sources import FittedSource, StoredSource
from distracted.errors import ConfigError
from distracted.metrics import log_loss, prior_log_probs
from distracted.postprocess.calibrate import fit_temperature, floored, prior_bias, soften, subject_biases
from distracted.postprocess.step import Estimator, Examples, LogProbs, Rows, Subset, normalised
from heads import NUM_FOLDS, Floats, Ints, People, fold_people
from markdown_table import say_header, say_row

POPULATIONS = "sign-digits", "rendered"
HEADS = "plain", "sure", "few"
#: Maps log-probabilities, the prior and the rows' subjects to a term to add, (num_images, num_classes).
Bias = Callable[[LogProbs, Floats, Ints], Floats]


def main(
    root: Annotated[Path, typer.Option(help="The folder of bench/coverage.py's predictions.")],
    competitions: Annotated[int, typer.Option(help="Number of competitions of each population.")] = 50,
) -> None:
    """Print a table: each population and head, out-of-fold and true loss by way of calibration."""
    say_header(["people", "heads", *(f"{way}: {side}" for way in BIASES for side in ("OOF", "true"))])
    for population in POPULATIONS:
        paths = sorted((root / f"predictions_{population}").glob("*.npz"))[:competitions]
        if not paths:
            raise ConfigError(f"{root}: no predictions of {population}; run bench/coverage.py first")
        scores = []
        with console.progress(population, total=len(paths), unit="competition") as step:
            for path in paths:
                with np.load(path) as file:
                    scores.append([_scores(dict(file), head) for head in HEADS])
                step()
        for head, cells in zip(HEADS, np.mean(scores, axis=0), strict=True):
            say_row([population, head, *(f"{value:.4f}" for value in cells)])


@dataclass(frozen=True)
class Moved(Estimator):
    """A bias towards the prior, taken whatever it gains, and a temperature."""

    bias: Bias

    def fit(self, examples: Examples) -> tuple[Floats, float]:
        log_probs, labels = floored(examples.log_probs[0]), examples.labels
        prior = np.exp(prior_log_probs(labels, log_probs.shape[1]))
        for positions, rows in examples.by_fold():
            assert rows.subjects is not None
            log_probs[positions] += self.bias(log_probs[positions], prior, rows.subjects)
        return prior, fit_temperature(normalised(log_probs), labels)

    def predict(self, fitted: tuple[Floats, float], rows: Rows) -> Floats:
        prior, temperature = fitted
        plain = floored(rows.log_probs[0])
        many = np.arange(len(plain))  # as if each test row had a subject of its own
        subjects = many if rows.subjects is None else rows.subjects
        return soften(plain + self.bias(plain, prior, subjects), temperature)


def _none(log_probs: LogProbs, prior: Floats, subjects: Ints) -> Floats:
    return np.zeros(log_probs.shape)


def _by_fold(log_probs: LogProbs, prior: Floats, subjects: Ints) -> Floats:
    return np.tile(prior_bias(log_probs, prior), (len(log_probs), 1))


BIASES: dict[str, Bias] = {"temperature": _none, "by fold": _by_fold, "own rows less": subject_biases}


def _scores(arrays: dict[str, Any], head: str) -> list[float]:
    scored = fold_people(People(np.empty((0, 0), np.float32), arrays["labels"], arrays["subjects"]))
    stored = StoredSource(head, arrays[f"{head}_oof"], scored, arrays[f"{head}_test"])
    cells = []
    for bias in BIASES.values():
        source = FittedSource(Moved(bias), [stored])
        test = [source.predict(Subset(fold, test=True), frozenset({fold})) for fold in range(NUM_FOLDS)]
        cells.append(float(source.held_out_losses().mean()))
        cells.append(float(np.mean([log_loss(rows, arrays["test_labels"]) for rows in test])))
    return cells


if __name__ == "__main__":
    console.run(main)
