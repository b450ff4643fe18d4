"""Log loss on unseen subjects by time: `make compete` beside fastai's `fine_tune` and AutoGluon MultiModal.

    pip install -r bench/requirements.txt -c requirements.lock
    python scripts/compete.py --data <folder> --root <workspace>/15 --hours 15m    # and 45, 90
    PYTHONPATH=scripts python bench/equal_hours.py --data <folder> --root <workspace> --minutes "15 45 90"

fastai has the same weights; each fold has an equal part of the time and as many epochs as fit into it, with
the rate of fastai's own finder, whose seconds do not count. The first call writes the table and the weights
that `autogluon_folds.py` needs. Every call prints what is there so far and draws it.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from matplotlib.figure import Figure
from safetensors.torch import save_file

import console
from distracted.compete.blending import BLENDS, read_blends
from distracted.config import load_config
from distracted.files import write_text
from distracted.metrics import CLIP, log_losses
from distracted.models.backbone import find_backbone
from distracted.models.network import build_network
from distracted.paths import Workspace
from distracted.predictions.store import Store
from distracted.training.resolve import Resolved, resolve
from equal_time import train_fastai
from harness import save_arrays
from markdown_table import say_header, say_row
from speed_quality import QUIET


def main(
    data: console.Data,
    root: console.Root,
    minutes: Annotated[str, typer.Option(help="Budgets; folders in which compete ran.")] = "15 45 90",
    model: Annotated[str, typer.Option(help="A name in configs/models.")] = "efficientnet_lite0",
    skip: Annotated[bool, typer.Option(help="Train nothing; show what is there.")] = False,
    set: console.Set = "",
) -> None:
    """Train fastai's networks, and show all three by time."""
    config = load_config(model=model, data=data, overrides=[*QUIET, *console.overrides(set)], root=root)
    store = console.open_store(config.data, root, config.runtime)
    resolved = resolve(config, num_folds=store.folds.num_folds)
    folder = root / "equal_hours"
    export(store, resolved, folder)
    scores: dict[str, dict[str, float]] = {"make compete": {}, "fastai": {}, "AutoGluon": {}}
    blends = dict[str, list[dict[str, Any]]]()
    for budget in minutes.split():
        blends[budget] = read_blends(Workspace(root / budget).compete(store.competition.name) / BLENDS)
        if blends[budget]:
            scores["make compete"][budget] = blends[budget][-1]["log_loss"]
        for fold in range(0 if skip else store.folds.num_folds):
            path = folder / f"fastai_{budget}" / f"{fold}.npz"
            if not path.is_file():
                seconds = 60 * float(budget) / store.folds.num_folds
                save_arrays(path, train_fastai(store, resolved, fold, seconds))
        for name in ("fastai", "AutoGluon"):
            if (loss := pooled(store, folder / f"{name.lower()}_{budget}")) is not None:
                scores[name][budget] = loss
    say_header(["", *(f"{budget} minutes" for budget in blends)])
    for name, by_budget in scores.items():
        say_row([name, *(f"{by_budget[b]:.3f}" if b in by_budget else "" for b in blends)])
    if any(scores.values()):
        draw(scores, blends, folder / "equal_hours.png", title=store.competition.name)
        console.say(f"{folder / 'equal_hours.png'}")


def export(store: Store, resolved: Resolved, folder: Path) -> None:
    """Write the table of images for AutoGluon, and the weights as Hugging Face's cache holds them."""
    folds, competition = store.folds, store.competition
    table = pd.DataFrame(
        {
            "image": [str(Path(path).absolute()) for path in competition.train_paths()],
            "label": folds.labels,
            "subject": folds.subject_names,
            "fold": folds.ids,
        }
    )
    write_text(folder / "table.csv", table[table["fold"] >= 0].to_csv(index=False))
    name = resolved.config.model.backbone
    cache = folder / f"hub/hub/models--timm--{name}.in1k"
    if (cache / "refs/main").is_file():
        return
    network = build_network(resolved.config.model, resolved.weights, num_classes=1000)
    weights = {key: value.contiguous() for key, value in network.trunk.state_dict().items()}
    (cache / "snapshots/local").mkdir(parents=True, exist_ok=True)
    save_file(weights, cache / "snapshots/local/model.safetensors")
    write_text(cache / "refs/main", "local")
    console.say(f"{cache}: weights of {find_backbone(name).name}")


def pooled(store: Store, folder: Path) -> float | None:
    """Pooled log loss of the folds in a folder; None if some are missing."""
    scored, labels = store.folds.scored, store.folds.labels
    log_probs = np.full((len(labels), store.competition.num_classes), np.nan)
    for path in folder.glob("*.npz"):
        with np.load(path) as file:
            fold = store.folds.valid(int(path.stem))
            found: Any = file["log_probs"] if "log_probs" in file else np.log(np.maximum(file["probs"], CLIP))
            log_probs[fold] = found
    if np.isnan(log_probs[scored]).any():
        return None
    return float(log_losses(log_probs[scored], labels[scored]).mean())


def draw(
    scores: dict[str, dict[str, float]], blends: dict[str, list[dict[str, Any]]], path: Path, *, title: str
) -> None:
    """Log loss by minutes, both on logarithmic axes: all blends of each budget, and the others at its end."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for shade, (budget, made) in zip(np.linspace(0.4, 1, len(blends)), blends.items(), strict=True):
        minutes = [*(blend["seconds"] / 60 for blend in made), float(budget)]
        losses = [blend["log_loss"] for blend in made]
        axes.step(
            minutes[: len(losses) + bool(losses)],
            [*losses, *losses[-1:]],
            where="post",
            color="C0",
            alpha=float(shade),
            label=f"make compete HOURS={budget}m",
        )
    for name, marker in (("fastai", "o--"), ("AutoGluon", "s:")):
        if by_budget := scores[name]:
            axes.plot([float(budget) for budget in by_budget], list(by_budget.values()), marker, label=name)
    axes.set(xlabel="minutes on two cores", ylabel="log loss on unseen subjects", title=title)
    axes.loglog()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    console.run(main)
