"""What calibration towards the class prior promises in folds of few subjects, and what it keeps among many.

    OMP_NUM_THREADS=1 PYTHONPATH=scripts python bench/prior.py --root <folder of bench/coverage.py>

On the competitions that bench/coverage.py has drawn and predicted: the pooled OOF loss of one network, and
its loss on the test subjects' labels; with a temperature alone, with the bias that brings each fold's mean to
the prior, and as the project calibrates, where a subject's own rows count for less.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import console
from distracted.ensemble.sources import Fitted, Scored, Stored, held_out_losses
from distracted.metrics import log_loss
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.step import Part
from heads import NUM_FOLDS, People, fold_people
from markdown_table import say_header, say_row

POPULATIONS = "sign-digits", "rendered"
HEADS = "plain", "sure", "few"


def main(
    root: Annotated[Path, typer.Option(help="Where bench/coverage.py kept its predictions.")],
    competitions: Annotated[int, typer.Option(help="Of each population.")] = 50,
    debug: console.Debug = False,
) -> None:
    """Print a table: each population and head, out-of-fold and true loss by way of calibration."""
    say_header(
        ["people", "heads", "temperature: OOF", "true", "by fold: OOF", "true", "calibrate: OOF", "true"]
    )
    for population in POPULATIONS:
        paths = sorted((root / f"predictions_{population}").glob("*.npz"))[:competitions]
        scores = []
        with console.progress(population, total=len(paths), unit="competition") as step:
            for path in paths:
                with np.load(path) as file:
                    scores.append([_scores(dict(file), head) for head in HEADS])
                step()
        for head, cells in zip(HEADS, np.mean(scores, axis=0), strict=True):
            say_row([population, head, *(f"{value:.4f}" for value in cells)])


def _scores(found: dict[str, np.ndarray], head: str) -> list[float]:
    scored = fold_people(People(np.empty((0, 0), np.float32), found["labels"], found["subjects"]))
    nobody = Scored(scored.labels, scored.folds, np.arange(len(scored.labels)))  # every row counts in full
    cells = []
    for parts, of in (
        (("temperature",), scored),
        (("prior", "temperature"), nobody),
        (("prior", "temperature"), scored),
    ):
        stored = Stored(head, found[f"{head}_oof"], of, found[f"{head}_test"])
        source = Fitted("calibrated", Calibrate(parts, of.subjects_by_fold()), [stored], of)
        test = [source.predict(Part(fold, test=True), frozenset({fold})) for fold in range(NUM_FOLDS)]
        cells.append(float(held_out_losses(source, of, frozenset()).mean()))
        cells.append(float(np.mean([log_loss(rows, found["test_labels"]) for rows in test])))
    return cells


if __name__ == "__main__":
    console.run(main)
