"""make status: which folds are done, running, failed or missing, which runs are stale, what to do next."""

from collections.abc import Sequence

import console
from distracted.data.audit import never_scored
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.store import Store
from distracted.report.inputs import stale_pages
from distracted.report.status import FoldStatus, RunStatus, next_steps, run_statuses
from distracted.submission.expect import expect_run, judge_run
from submit import describe, describe_score

_SHOWN = ("log_loss", "accuracy")  # and the competition's score; the report has the others


def main(data: console.Data = "state_farm", set: console.Set = "", root: console.Root = console.HERE) -> None:
    """Show all runs and folds, the default blend, and what to run next."""
    store = console.open_store(data, root, console.runtime(set), images=False)
    catalogue = Catalogue(store)
    meant = catalogue.meant_blend
    statuses = run_statuses(catalogue)
    if shown := [status for status in statuses if not status.left_by]:
        _grid(store, shown)
        _say_trouble(shown)
    for command in dict.fromkeys(status.left_by for status in statuses if status.left_by):
        runs = [status.entry.name for status in statuses if status.left_by == command]
        console.say(f"tried and left by `{command}`, which may go on with them: {', '.join(runs)}")
    if meant is not None:
        for reason in meant.passed_over:
            console.warn(f"passed over: {reason}")
        console.say(meant.why)
        judged = judge_run(store, meant.predictions)
        loss = "log loss " if judged else ""
        console.say(f"{meant.run}: expected {loss}{describe(expect_run(store, meant.predictions))}")
        if judged:
            console.say(f"{meant.run}: {describe_score(judged)}")
        if unscored := never_scored(store.competition, store.folds.table):
            console.warn(unscored)
    elif any(entry.kind == "blend" for entry in catalogue.entries()):
        console.warn(f"no blend can be the default: {catalogue.why_no_blend()}")
    steps = [*next_steps(catalogue, statuses), *stale_pages(store)]
    given = console.data_variable(data)
    where = f" (add{given})" if given else ""
    left = "\n      ".join(steps) or "nothing is left to do; `make report` shows it"
    console.say(f"next{where}: {left}")


def _grid(store: Store, statuses: Sequence[RunStatus]) -> None:
    rows, metric = [], store.competition.metric
    titles = {metric.name: metric.title, **{key: console.SCORES[key] for key in _SHOWN}}
    for status in statuses:
        folds = [cell(fold) for fold in status.folds]
        entry = status.entry
        pooled = [f"{entry.pooled[key]:.4f}" if entry.is_complete else "--" for key in titles]
        state = "broken" if entry.problem else "stale" if entry.stale else ""
        kind = ", ".join(part for part in (entry.kind, "leaky" if entry.leaky else "", state) if part)
        rows.append([entry.name, kind, *folds, *pooled, f"{entry.seconds:.0f} s", entry.origin])
    numbers = [f"fold {fold}" for fold in range(store.folds.num_folds)]
    columns = ["run", "kind", *numbers, *titles.values(), "time", "weights"]
    console.table(f"{store.competition.name}: log loss by fold, and pooled scores", columns, rows)


def cell(fold: FoldStatus) -> str:
    """A fold's state in a word or two."""
    if fold.state == "done":
        again = fold.retraining or fold.redo
        return f"{fold.score:.4f}" + (f" (retraining {fold.share:.0%})" if again else "")
    return {"missing": "--"}.get(fold.state, f"{fold.state} {fold.share:.0%}")


def _say_trouble(statuses: Sequence[RunStatus]) -> None:
    """Each failure with its reason, in a line."""
    for status in statuses:
        for number, fold in enumerate(status.folds):
            where = f"{status.entry.name}, fold {number} {fold.state} at {fold.share:.0%}"
            if fold.state == "failed":
                console.say(f"{where}: {fold.reason}")
            elif fold.state == "stopped":
                console.say(f"{where} ({fold.reason or 'Ctrl-C'}); the same command goes on")


if __name__ == "__main__":
    console.run(main)
