"""make ensemble: blend what is in oof/."""

from typing import Annotated

import typer

import console
from distracted.ensemble.blend import Ensemble, blend_runs
from distracted.ensemble.blenders import BLENDERS, find_blenders
from distracted.ensemble.contributions import Contribution
from distracted.ensemble.crossfit import CrossFit, Verdict
from distracted.metrics import as_good


def main(
    runs: Annotated[
        str, typer.Option(help="Members; by default all complete, current runs that no blend is part of.")
    ] = "",
    name: Annotated[str, typer.Option(help="The blend's name.")] = "ensemble",
    blenders: Annotated[
        str, typer.Option(help="To choose from, e.g. linear_pool; flexible ones only where they are named.")
    ] = "",
    force: console.Force = False,
    leaky: console.Leaky = False,
    data: console.Data = "state_farm",
    set: console.Set = "",
    root: console.Root = console.HERE,
) -> None:
    """Blend runs, cross-fitted by fold, and write the blend as a run like any other."""
    runtime = console.runtime(set)
    store = console.open_store(data, root, runtime, images=False)
    ensemble = blend_runs(
        store,
        runs=runs.split(),
        name=name,
        blenders=find_blenders(blenders.split()) if blenders else BLENDERS,
        leaky=leaky,
        force=force,
        progress=console.progress,
    )
    if ensemble.fit is not None:
        console.track(store, runtime, name)
    show(ensemble)


def show(ensemble: Ensemble) -> None:
    """Print members, blenders, why one was taken, and the headline."""
    title = ensemble.metric.title
    rows = [
        [run, f"{score:.4f}", f"{ensemble.weights[run]:.3f}", _describe(ensemble.contributions.get(run))]
        for run, score in ensemble.scores.items()
    ]
    weight = f"weight ({ensemble.blender}, all folds)"
    console.table("members", ["run", f"OOF {title}", weight, "lost without it (standard error)"], rows)
    if ensemble.fit is not None:
        _show_blenders(ensemble.fit, title)
    interval = ensemble.interval
    console.say(
        f"{ensemble.name}: cross-fitted {title} {interval.mean:.4f}, the choice among "
        f"{ensemble.num_candidates} included "
        f"(95% over subjects {interval.low:.4f} to {interval.high:.4f}; class prior {ensemble.prior:.4f})"
    )
    console.say(f"{ensemble.name}: pooled OOF {console.scores(ensemble.pooled, ensemble.metric)}")
    difference, error = ensemble.above_best
    if not as_good(difference, error):
        best = ensemble.best_member
        console.say(
            f"{ensemble.name}: worse than its member {best} alone, by {difference:.4f} (standard error "
            f"{error:.4f}); `make submit NAME={best}` submits that"
        )


def _describe(contribution: Contribution | None) -> str:
    if contribution is None:
        return "--"
    error = "" if contribution.error is None else f" ({contribution.error:.4f})"
    return f"{contribution.loss:+.4f}{error}"


def _show_blenders(fit: CrossFit, title: str) -> None:
    chosen = [blender.name for blender in fit.chosen]
    rows = []
    for verdict in fit.verdicts:
        interval = verdict.interval
        folds = " ".join(str(fold) for fold, name in enumerate(chosen) if name == verdict.blender.name)
        crossfit = f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"
        why = _why(verdict, taken=verdict.blender is fit.overall)
        rows.append([verdict.blender.name, f"{verdict.in_sample:.4f}", crossfit, folds or "none", why])
    columns = ["blender", "in-sample", "cross-fitted (95% over subjects)", "chosen for folds", "on all folds"]
    console.table(f"blenders, from the simplest on ({title})", columns, rows)
    if set(chosen) != {fit.overall.name}:
        console.say(
            "each fold's networks are blended by what the other folds chose, in oof/ and in the test set; "
            f"all folds together would choose {fit.overall.name}, for information"
        )


def _why(verdict: Verdict, *, taken: bool) -> str:
    """A blender compared with the best candidate over all folds."""
    compared = f"{verdict.difference:+.4f}, standard error {verdict.error:.4f}"
    if not verdict.chosen_from:
        return f"{compared}; {verdict.blender.caution or 'not named'}: not chosen from"
    why = "best" if verdict.difference == 0 else f"{'as good' if verdict.as_good else 'worse'}: {compared}"
    return why + "; the simplest as good: taken" * taken


if __name__ == "__main__":
    console.run(main)
