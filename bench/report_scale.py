"""The report, the audit and W&B's files at State Farm's size: seconds and megabytes.

    OMP_NUM_THREADS=1 WANDB_MODE=offline PYTHONPATH=scripts python bench/report_scale.py --root <folder>

A competition of 22,424 training images of 26 subjects and 79,726 test images, each a small JPEG drawn at
random; 15 runs with made-up predictions over five folds (12 trained, with metrics of four epochs; two
derived, a blend of all), a submission. Grad-CAM is left out: there are no networks.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pandas as pd
import typer

import console
import report
from distracted.audit.copies import check_exact
from distracted.audit.duplicates import check_near
from distracted.audit.mistakes import score_rows
from distracted.audit.odd_images import check_pictures
from distracted.audit.scan import scan_images
from distracted.config import load_runtime_config
from distracted.ensemble.blend import blend_runs
from distracted.ensemble.derive import derive_run
from distracted.postprocess.calibrate import Calibrate
from distracted.predictions.store import Store
from distracted.submission.submit import write_submission
from distracted.tracking.client import WandbRun
from distracted.tracking.log import log_predictions, track_run, track_submission
from distracted.tracking.panels import confusion_chart, worst_table
from markdown_table import say_header, say_row

NUM_TRAIN, NUM_TEST, NUM_SUBJECTS, NUM_TRAINED, NUM_FOLDS = 22_424, 79_726, 26, 12, 5
CLASSES = [f"c{number}" for number in range(10)]


def main(
    root: Annotated[Path, typer.Option(help="Where the competition and its runs go; kept from run to run.")],
) -> None:
    """Print a table: what was made, how large it is, how long it took."""
    folder = root / "large"
    if not (folder / "sample_submission.csv").is_file():
        draw(folder)
    store = console.open_store(str(folder), root, console.runtime(""), num_folds=NUM_FOLDS)
    if "ensemble" not in store.runs():
        _predict(store)
    say_header(["what", "size", "seconds"])
    start = time.perf_counter()
    report.main(data=str(folder), root=root, heat=False)
    page = store.workspace.report("large")
    _say("report", page.stat().st_size, start)
    _audit(store, root)
    _track(store, root)


def _say(what: str, size: float, start: float) -> None:
    say_row([what, f"{size / 1e6:.1f} MB", f"{time.perf_counter() - start:.0f}"])


def draw(folder: Path, size: tuple[int, int] = (160, 120)) -> None:
    """Write a competition of State Farm's size, each image a JPEG of that width and height."""
    rng = np.random.default_rng(0)
    names = [f"img_{number}.jpg" for number in range(NUM_TRAIN + NUM_TEST)]
    labels, subjects = rng.integers(0, 10, NUM_TRAIN), rng.integers(0, NUM_SUBJECTS, NUM_TRAIN)
    with console.progress("drawing", total=len(names), unit="img") as step:
        for number, name in enumerate(names):
            part = f"train/{CLASSES[labels[number]]}" if number < NUM_TRAIN else "test"
            path = folder / "imgs" / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            cv2.imwrite(str(path), cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))
            step()
    table = pd.DataFrame(
        {"subject": [f"p{s:03}" for s in subjects], "classname": [CLASSES[n] for n in labels]}
    )
    table.assign(img=names[:NUM_TRAIN]).to_csv(folder / "driver_imgs_list.csv", index=False)
    sample = pd.DataFrame({"img": names[NUM_TRAIN:]} | dict.fromkeys(CLASSES, 0.1))
    sample.to_csv(folder / "sample_submission.csv", index=False)


def _predict(store: Store) -> None:
    rng = np.random.default_rng(1)
    for number in range(NUM_TRAINED):
        for fold in range(NUM_FOLDS):
            rows = store.folds.valid(fold)
            scores = rng.normal(size=(len(rows), 10)) * 2
            scores[np.arange(len(rows)), store.folds.labels[rows]] += 4 + 0.1 * number
            test = rng.normal(size=(NUM_TEST, 10)) * 3
            valid, test = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (scores, test))
            config = {"run": number}
            store.write_fold(f"net{number:02}", fold, kind="model", config=config, valid=valid, test=test)
            path = store.workspace.metrics("large", f"net{number:02}", fold)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(line) + "\n" for line in _metrics(rng)))
    for run in ("net00", "net01"):
        derive_run(store, Calibrate(), [run])
    blend_runs(store, progress=console.progress)
    write_submission(store)


def _metrics(rng: np.random.Generator) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for step in range(10, 5601, 10):
        metrics = {"train/loss": rng.random(), "train/lr": 1e-3, "train/grad_norm": rng.random()}
        lines.append({"step": step, "phase": "finetune", "train/epoch": step / 1400, **metrics})
        if step % 1400 == 0:
            losses = {"train/epoch_loss": rng.random(), "valid/log_loss": rng.random()}
            lines.append({"step": step, "phase": "finetune", "epoch": step // 1400, **losses})
    return lines


def _audit(store: Store, root: Path) -> None:
    start, competition = time.perf_counter(), store.competition
    cache = root / "scan.parquet"
    cache.unlink(missing_ok=True)
    paths = competition.train_paths() + competition.test_paths()
    contents = [*competition.train["content"], *competition.test["content"]]
    scanned = scan_images(paths, contents, cache=cache, progress=console.progress)
    _say("audit: looking at the images", cache.stat().st_size, start)
    start = time.perf_counter()
    check_pictures(store, scanned)
    check_exact(store)
    check_near(store, scanned, progress=console.progress)
    _say("audit: odd ones and duplicates", 0, start)


def _track(store: Store, root: Path) -> None:
    """W&B's offline files of every fold, run, blend and submission, as the stages write them."""
    runtime, start = load_runtime_config(), time.perf_counter()
    for name in store.runs():
        manifests = store.manifests(name)
        for manifest in manifests if manifests[0].kind == "model" else ():
            folder = store.workspace.scratch("large", name, manifest.fold)
            group = f"large/{name}"
            with WandbRun(
                folder, runtime=runtime, group=group, name=name, job_type="train", config={}
            ) as run:
                lines = store.workspace.metrics("large", name, manifest.fold).read_text().splitlines()
                for line in map(json.loads, lines):
                    run.log({"train/step": line.pop("step"), **line})
                scored = score_rows(store, store.read_run(name), store.folds.valid(manifest.fold))
                run.log({"confusion": confusion_chart(scored), "worst_images": worst_table(store, scored)})
                log_predictions(run, store, manifest)
        track_run(store, name, runtime)
    track_submission(store, store.workspace.submissions("large") / "ensemble.csv", runtime)
    recorded = [path for path in root.joinpath("runs").rglob("*") if path.is_file() and "wandb" in str(path)]
    num_runs = len({path for path in recorded if path.suffix == ".wandb"})
    _say(f"W&B: {num_runs} runs", sum(path.stat().st_size for path in recorded), start)
    sent = sum(p.stat().st_size for p in store.workspace.oof("large").rglob("valid.parquet"))
    sent += sum(p.stat().st_size for p in store.workspace.submissions("large").iterdir())
    _say("W&B: artifacts, sent from where they lie", sent, time.perf_counter())


if __name__ == "__main__":
    console.run(main)
