"""How often each picture is decoded for cv, tta and smooth of a model over five folds, at State Farm's size.

    PYTHONPATH=scripts python bench/state_farm_size.py --folder <folder> --out cache/bench/decodes.json

The competition is simulated (bench/simulated_state_farm.py; 5 GB), and the commands are those that users run,
with the default recipe on a tiny network of random weights. The number of decodes depends on the stages, not
on the network. Finished stages are skipped when the script runs again.

Another version of the project is measured by its own commands:

    PYTHONPATH=<version>/src:<version>/scripts python bench/state_farm_size.py --scripts <version>/scripts ...
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

import console
from distracted.errors import DistractedError
from distracted.files import atomic_path, write_json
from harness import cpu_of_children, save
from markdown_table import say_header, say_row
from simulated_state_farm import simulate

HERE = Path(__file__).parent
_QUIET = "runtime.tracking=none runtime.device=cpu runtime.num_workers=0"
#: The default recipe, on a tiny network of which the head alone learns, without augmentation.
_CHEAP = "augment.policy=none training.batch_size=128 phases.finetune.unfreeze=head"
_NETWORK = "model.backbone=test_resnet model.image_size={size} model.weights={weights} " + _CHEAP
#: Stages by name, as their scripts are called.
STAGES = {
    "cv": "train.py --model resnet50 --name net --set '" + f"{_QUIET} {_NETWORK}'",
    "tta": f"tta.py --run net --views five_crops --set '{_QUIET}'",
    "smooth": f"smooth.py --runs net_tta --spaces own --methods neighbours --set '{_QUIET}'",
}


def main(
    folder: Annotated[Path, typer.Option(help="For the photographs and the workspace.")],
    counts: Annotated[Path | None, typer.Option(help="CSV of training images: driver,c0,...,c9.")] = None,
    share: Annotated[float, typer.Option(help="Of State Farm's images; for a quick look.")] = 1.0,
    size: Annotated[int, typer.Option(help="Of the network's input.")] = 32,
    scripts: Annotated[Path, typer.Option(help="Another version's scripts.")] = HERE.parent / "scripts",
    name: Annotated[str, typer.Option(help="Name of the workspace: one for each version.")] = "workspace",
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Run the stages and print how often a training and a test picture is decoded in each."""
    folder = folder.absolute()
    data, root = folder / f"data_{share:g}", folder / f"{name}_{share:g}"
    simulate(data, counts=counts, share=share)
    root.mkdir(exist_ok=True)
    weights = folder / "weights.safetensors"
    if not weights.exists():
        write_weights(weights)
    kept = root / "stages.json"
    stages: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    for stage, command in STAGES.items():
        if stage not in stages:
            stages[stage] = run(stage, command.format(size=size, weights=weights), data, root, scripts)
            write_json(kept, stages)
    show(stages)
    save(out, {"share": share, "size": size, "stages": stages})


def write_weights(path: Path) -> None:
    """Random weights of the tiny network, to be taken as pretrained ones."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    with atomic_path(path) as temporary:
        save_file(timm.create_model("test_resnet").state_dict(), temporary)


def run(stage: str, command: str, data: Path, root: Path, scripts: Path) -> dict[str, float]:
    """Run a stage; its decodes by picture, and its seconds."""
    script, *arguments = shlex.split(command)
    counts = root / f"{stage}.u32"
    counted = [sys.executable, str(HERE / "counted.py"), str(counts), str(scripts / script)]
    console.say(f"{stage}: {script}")
    start, before = time.perf_counter(), cpu_of_children()
    done = subprocess.run([*counted, *arguments, "--data", f"{data}/", "--root", str(root)])
    if done.returncode:
        raise DistractedError(f"{stage}: exit code {done.returncode}, see above; run again to go on")
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_of_children() - before}
    return {**decodes(counts, data), **seconds}


def decodes(counts: Path, data: Path) -> dict[str, float]:
    """Mean, least and most decodes of a training picture and of a test picture."""
    by_number, figures = np.fromfile(counts, dtype=np.uint32), dict[str, float]()
    for part, name in (("train", "driver_imgs_list.csv"), ("test", "sample_submission.csv")):
        imgs = pd.read_csv(data / name)["img"].str.extract(r"(\d+)")[0].astype(int)
        of_part = by_number[imgs.to_numpy()]
        figures |= {f"{part}_mean": float(of_part.mean()), f"{part}_least": int(of_part.min())}
        figures[f"{part}_most"] = int(of_part.max())
    return figures


def show(stages: dict[str, dict[str, float]]) -> None:
    """Print a table of the stages, and their sum."""
    say_header(["stage", "decodes of a training picture", "of a test picture", "CPU minutes"])
    for stage, figures in stages.items():
        cells = [
            f"{figures[f'{part}_mean']:.2f} ({figures[f'{part}_least']} to {figures[f'{part}_most']})"
            for part in ("train", "test")
        ]
        say_row([stage, *cells, f"{figures['cpu_seconds'] / 60:.1f}"])
    sums = [sum(figures[f"{part}_mean"] for figures in stages.values()) for part in ("train", "test")]
    minutes = sum(figures["cpu_seconds"] for figures in stages.values()) / 60
    say_row(["all", *(f"{total:.2f}" for total in sums), f"{minutes:.1f}"])


if __name__ == "__main__":
    console.run(main)
