"""make ensemble: blend what is in oof/."""

from typing import Annotated

import typer

import console
from distracted.config import load_data_config
from distracted.ensemble.blend import Ensemble, blend_runs
from distracted.paths import Workspace
from distracted.predictions.store import open_store


def main(
    runs: Annotated[
        str, typer.Option(help="Members, separated by spaces; by default all complete runs.")
    ] = "",
    name: Annotated[str, typer.Option(help="The blend's name.")] = "ensemble",
    leaky: console.Leaky = False,
    data: console.Data = "state_farm",
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Blend runs by log loss, cross-fitted by fold, and write the blend as a run like any other."""
    store = open_store(Workspace(root), load_data_config(data, root=root), progress=console.progress)
    show(blend_runs(store, runs=runs.split(), name=name, leaky=leaky, progress=console.progress))


def show(ensemble: Ensemble) -> None:
    """Print members, blenders, why one was taken, and the headline."""
    fit = ensemble.fit
    weights = dict(zip(ensemble.members, fit.overall_weights, strict=True))
    rows = [[run, f"{score:.4f}", f"{weights[run]:.3f}"] for run, score in ensemble.scores.items()]
    console.table("members", ["run", "OOF log loss", f"weight ({fit.overall.name}, all folds)"], rows)
    chosen = [blender.name for blender in fit.chosen]
    rows = []
    for verdict in fit.verdicts:
        if verdict.difference == 0:
            why = "best"
        elif verdict.as_good:
            why = f"as good: {verdict.difference:.4f} above the best, standard error {verdict.error:.4f}"
        else:
            why = f"worse: {verdict.difference:.4f} above the best, standard error {verdict.error:.4f}"
        why += "; the simplest as good: taken" if verdict.name == fit.overall.name else ""
        folds = " ".join(str(fold) for fold, name in enumerate(chosen) if name == verdict.name)
        rows.append(
            [verdict.name, f"{verdict.in_sample:.4f}", f"{verdict.cross_fitted:.4f}", folds or "none", why]
        )
    columns = ["blender", "in-sample", "cross-fitted", "chosen for folds", "on all folds"]
    console.table("blenders, from the simplest on (log loss)", columns, rows)
    interval = ensemble.interval
    console.say(
        f"{ensemble.name}: cross-fitted log loss {interval.mean:.4f}, the choice of the blender included "
        f"(95% over subjects {interval.low:.4f} to {interval.high:.4f}; class prior {ensemble.prior:.4f})"
    )
    console.say(f"{ensemble.name}: pooled OOF {console.scores(ensemble.pooled)}")


if __name__ == "__main__":
    console.run(main)
