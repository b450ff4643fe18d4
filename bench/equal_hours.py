"""Log loss on unseen subjects by time: `make compete` beside fastai's `fine_tune` and AutoGluon MultiModal.

    pip install -r bench/requirements.txt -c requirements.lock
    PYTHONPATH=scripts python bench/equal_hours.py --data <folder> --root <workspace> --minutes "15 45 90"

`<workspace>` is one in which `make compete` ran: its folds are taken, and the log loss of its blend by time.
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
from distracted.predictions.store import Store
from distracted.training.resolve import Resolved, resolve
from equal_time import train_fastai
from harness import save_arrays
from markdown_table import say_header, say_row
from speed_quality import QUIET


def main(
    data: console.Data,
    root: console.Root,
    minutes: Annotated[str, typer.Option(help="Budgets.")] = "15 45 90",
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
    budgets = [float(text) for text in minutes.split()]
    scores = {"fastai": dict[float, float](), "AutoGluon": dict[float, float]()}
    for budget in budgets:
        if not skip:
            for fold in range(store.folds.num_folds):
                path = folder / f"fastai_{budget:g}" / f"{fold}.npz"
                if not path.is_file():
                    seconds = 60 * budget / store.folds.num_folds
                    save_arrays(path, train_fastai(store, resolved, fold, seconds))
        for name, by_budget in scores.items():
            if (loss := pooled(store, folder / f"{name.lower()}_{budget:g}")) is not None:
                by_budget[budget] = loss
    blends = read_blends(store.workspace.compete(store.competition.name) / BLENDS)
    show(scores, blends, budgets)
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


def show(scores: dict[str, dict[float, float]], blends: list[dict[str, Any]], budgets: list[float]) -> None:
    """Print the log loss of each at each budget; of make compete the last blend until then."""
    say_header(["", *(f"{budget:g} minutes" for budget in budgets)])
    until = {b: [blend["log_loss"] for blend in blends if blend["seconds"] <= 60 * b] for b in budgets}
    say_row(["make compete", *(f"{until[b][-1]:.3f}" if until[b] else "" for b in budgets)])
    for name, by_budget in scores.items():
        say_row([name, *(f"{by_budget[b]:.3f}" if b in by_budget else "" for b in budgets)])


def draw(
    scores: dict[str, dict[float, float]], blends: list[dict[str, Any]], path: Path, *, title: str
) -> None:
    """Log loss by minutes, both on logarithmic axes."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    minutes = [blend["seconds"] / 60 for blend in blends]
    axes.step(
        minutes, [blend["log_loss"] for blend in blends], where="post", label="make compete, cross-fitted"
    )
    for name, by_budget in scores.items():
        if by_budget:
            axes.plot(list(by_budget), list(by_budget.values()), "o--", label=name)
    axes.set(xlabel="minutes on two cores", ylabel="log loss on unseen subjects", title=title)
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    console.run(main)
