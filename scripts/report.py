"""make report: everything about the competition on one page that works offline."""

import time
from typing import Annotated

import typer

import console
from distracted.imports import importing


def main(
    run: Annotated[str, typer.Option(help="Show this run's mistakes; by default the best blend's.")] = "",
    heat: Annotated[bool, typer.Option(help="Lay Grad-CAM over the worst mistakes.")] = True,
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Write runs/<data>/report.html: leaderboard, curves, mistakes, data, audit, ladder, submissions."""
    with importing():
        from distracted.report.write import write_report

    start = time.perf_counter()
    # Any model will do: the policies and how to run networks here are the same for all of them.
    config = console.run_config("resnet50", data, set, root)
    store = console.open_store(config.data, root, config.runtime)
    path = write_report(
        store,
        policies=config.augment.policies,
        runtime=config.runtime if heat else None,
        run=run,
        force=force,
        progress=console.progress,
    )
    size, seconds = path.stat().st_size / 1e6, time.perf_counter() - start
    console.say(f"{path}: {size:.1f} MB, {seconds:.0f} s; open it in a browser")


if __name__ == "__main__":
    console.run(main)
