"""make people: estimate from clusters how many people the test set shows, for the expected score."""

from typing import Annotated

import typer

import console
from distracted.imports import importing


def main(
    model: Annotated[
        str, typer.Option(help="A pretrained network; its features are clustered.")
    ] = console.COMPARING,
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Cluster the test images at the height that separates the training subjects."""
    with importing():
        from distracted.postprocess.people import count_test_people
        from distracted.training.resolve import resolve

    config = console.run_config(model, data, console.comparing(model, set), root)
    store = console.open_store(config.data, root, config.runtime)
    resolved = resolve(config, num_folds=store.folds.num_folds)
    count = count_test_people(store, resolved, force=force, progress=console.progress)
    checks = ", ".join(f"{ratio:.2f}" for ratio in count.ratios)
    known = f"checked on known people: counted as {checks} times the truth, agreement {count.agreement:.2f}"
    if count.trusted:
        console.say(f"about {count.people} people in the test set ({known}); make submit takes it from here")
    else:
        console.say(
            f"clusters do not separate people here ({known}): make submit assumes that a test person has as "
            "many images as a training subject, unless data.num_test_subjects in configs/data/ is set"
        )


if __name__ == "__main__":
    console.run(main)
