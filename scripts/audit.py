"""make audit: what is wrong with the data before it costs a night; after training, with its labels, too."""

from typing import TYPE_CHECKING, Annotated

import typer

import console
from distracted.errors import DataError, ImagesError
from distracted.imports import importing

if TYPE_CHECKING:
    from distracted.audit.findings import Audit


def main(
    model: Annotated[
        str, typer.Option(help="A pretrained network; its features are compared between subjects.")
    ] = console.COMPARING,
    run: Annotated[str, typer.Option(help="Judge labels by this run; by default by the best blend.")] = "",
    drops: Annotated[
        bool, typer.Option("--drops", help="Also judge labels for each fold by networks blind to it.")
    ] = False,
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Look for unreadable, odd and duplicate images, subjects that look alike, and wrong labels."""
    with importing():
        from distracted.audit.findings import write_unreadable
        from distracted.audit.run import audit_competition
        from distracted.data.competition import read_lists

    config = console.run_config(model, data, console.comparing(model, set), root)
    workspace = console.workspace(root, config.runtime)
    num_folds = None if workspace.folds(config.data.name).exists() else config.training.num_folds
    try:
        store = console.open_store(config.data, root, config.runtime, num_folds=num_folds)
    except ImagesError as error:
        path = write_unreadable(workspace, read_lists(config.data), error.problems)
        raise DataError(f"{error}\n{path} names all {len(error.problems)}; fix them first") from error
    audit = audit_competition(store, config, run=run, drops=drops, force=force, progress=console.progress)
    show(audit)
    folder = store.workspace.audit(store.competition.name)
    console.say(f"{folder}: a CSV for each, and drop_candidates.csv; make report shows the pictures")


def show(audit: "Audit") -> None:
    """Print the number of findings of each check, with an example."""
    columns = ["img", "subject", "classname", "other", "other_subject", "other_classname", "note"]
    rows = []
    for check in audit.checks:
        num = len(check.findings)
        first = check.findings[columns].head(1).to_numpy().ravel()
        example = ", ".join(str(value) for value in first if value != "")
        rows.append([check.title, check.level if num else "", str(num), example])
    judged = f"; labels judged by {audit.run}" if audit.run else ""
    console.table(f"audit{judged}", ["check", "", "found", "first"], rows)


if __name__ == "__main__":
    console.run(main)
