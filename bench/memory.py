"""Peak memory of each stage on a competition of State Farm's size: no stage holds the images in memory.

    PYTHONPATH=scripts python bench/memory.py --folder <folder> --out cache/bench/memory.json

22,424 training and 79,726 test photographs of 640 x 480 pixels are copies of a few hundred rendered ones,
each with its own JPEG comment, so that no two files are the same (5 GB). The stages run as users run them,
one after another, on EfficientNet-Lite0; the memory of each process and its children is read ten times a
second. `own` is memory that a process wrote; `mapped` are pages of files, such as the decoded images, which
the system reclaims when it needs memory. Results are kept, and finished stages are skipped.
"""

import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

import console
from distracted.errors import DistractedError
from harness import cpu_of_children, save
from markdown_table import say_header, say_row
from speed_loader import find_photographs

NUM_TRAIN, NUM_TEST, NUM_SUBJECTS, NUM_CLASSES = 22_424, 79_726, 26, 10
_QUIET = "runtime.tracking=none runtime.validate_every_epoch=false"
_SMALL = f"{_QUIET} model.image_size=64"
_LARGE = f"{_QUIET} model.image_size=128 augment.policy=light phases.finetune={{epochs: 1, unfreeze: head}}"
_TRAIN = "train.py --model efficientnet_lite0"
#: Stages by name, as their scripts are called.
STAGES = {
    "folds": "folds.py",
    "features, all folds": f"{_TRAIN} --name features --set '{_SMALL} recipe=features'",
    "training, one fold": f"{_TRAIN} --name tuned --fold 0 --set '{_LARGE}'",
    "calibrate": "calibrate.py --runs features",
    "smooth": "smooth.py --runs features --spaces own --methods neighbours",
    "ensemble": "ensemble.py --runs 'features features_calibrated'",
    "submit": "submit.py",
    "people": f"people.py --model efficientnet_lite0 --set '{_SMALL}'",
    "audit": f"audit.py --model efficientnet_lite0 --set '{_SMALL}'",
    "report": "report.py --no-heat",
    "status": "status.py",
}


@dataclass
class Peak:
    """A stage's peak memory in MB, summed over its processes, its duration, and its CPU seconds."""

    own: float
    mapped: float
    seconds: float
    cpu_seconds: float = 0.0


def main(
    folder: Annotated[Path, typer.Option(help="For the photographs and the workspace; 20 GB.")],
    train: Annotated[int, typer.Option(help="Training photographs.")] = NUM_TRAIN,
    test: Annotated[int, typer.Option(help="Test photographs.")] = NUM_TEST,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Run the stages and print the peak memory of each."""
    folder = folder.absolute()
    images = train + test
    data = folder / f"simulated_{train}_{test}"
    if not data.exists():
        simulate(data, find_photographs(folder, 400), train, test)
    kept = folder / "memory.json"
    stored = json.loads(kept.read_text()) if kept.exists() else {}
    peaks = {name: Peak(**peak) for name, peak in stored.items()}
    for name, command in STAGES.items():
        if name in peaks:
            continue
        script, *arguments = shlex.split(command)
        path = Path(__file__).parents[1] / "scripts" / script
        where = ["--data", f"{data}/", "--root", str(folder)]
        console.say(f"{name}: {script}")
        peaks[name] = watch([sys.executable, str(path), *arguments, *where])
        kept.write_text(json.dumps({name: asdict(peak) for name, peak in peaks.items()}))
    say_header(["stage", "own, GB", "mapped, GB", "minutes"])
    for name, peak in peaks.items():
        say_row([name, f"{peak.own / 1e3:.2f}", f"{peak.mapped / 1e3:.2f}", f"{peak.seconds / 60:.1f}"])
    console.say(f"\nthe photographs, decoded: {images * 640 * 480 * 3 / 1e9:.0f} GB")
    save(out, {"train": train, "test": test, "stages": peaks})


def simulate(folder: Path, photographs: list[Path], train: int, test: int) -> None:
    """Write a competition that consists of copies of some photographs."""
    rng = np.random.default_rng(0)
    pixels = [path.read_bytes() for path in photographs]
    whole = folder.with_name(f"{folder.name}.part")
    classes = [f"c{number}" for number in range(NUM_CLASSES)]
    for name in classes:
        (whole / "imgs/train" / name).mkdir(parents=True, exist_ok=True)
    (whole / "imgs/test").mkdir(parents=True, exist_ok=True)

    def write(path: Path, number: int) -> None:
        comment = f"{path.name}".encode()
        data = pixels[number % len(pixels)]
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        path.write_bytes(data[:2] + segment + data[2:])

    rows = []
    with console.progress("making photographs", total=train + test, unit="img") as step:
        for number, label in enumerate(rng.integers(0, NUM_CLASSES, train)):
            img = f"img_{number}.jpg"
            write(whole / "imgs/train" / classes[label] / img, number)
            rows.append((f"p{number % NUM_SUBJECTS:03}", classes[label], img))
            step()
        imgs = [f"img_{train + number}.jpg" for number in range(test)]
        for number, img in enumerate(imgs):
            write(whole / "imgs/test" / img, number)
            step()
    pd.DataFrame(rows, columns=["subject", "classname", "img"]).to_csv(
        whole / "driver_imgs_list.csv", index=False
    )
    sample = pd.DataFrame({"img": imgs} | {name: 1 / NUM_CLASSES for name in classes})
    sample.to_csv(whole / "sample_submission.csv", index=False)
    whole.rename(folder)


def watch(command: list[str]) -> Peak:
    """Run a command and measure the peak memory of its processes."""
    start, before, own, mapped = time.perf_counter(), cpu_of_children(), 0.0, 0.0
    process = subprocess.Popen(command)
    while process.poll() is None:
        held = [_held(pid) for pid in _family(process.pid)]
        own, mapped = max(own, sum(h[0] for h in held)), max(mapped, max((h[1] for h in held), default=0.0))
        time.sleep(0.1)
    if process.returncode:
        raise DistractedError(f"{shlex.join(command)}: exit code {process.returncode}")
    return Peak(own, mapped, time.perf_counter() - start, cpu_of_children() - before)


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _held(pid: int) -> tuple[float, float]:
    """MB that a process wrote (including shared memory), and MB of mapped files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    pairs = (line.split(":", 1) for line in lines if line.startswith("Rss"))
    kb = {key: float(value.split()[0]) for key, value in pairs}
    return (kb.get("RssAnon", 0) + kb.get("RssShmem", 0)) / 1e3, kb.get("RssFile", 0) / 1e3


if __name__ == "__main__":
    console.run(main)
