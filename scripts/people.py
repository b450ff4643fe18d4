"""make people: estimate from clusters how many people the test set shows; the expected score uses it."""

from typing import Annotated

import typer

import console
from distracted.config import load_config
from distracted.paths import Workspace
from distracted.predictions.store import open_store

DEFAULT = "efficientnet_lite0"  # its weights come with the project


def main(
    model: Annotated[
        str, typer.Option(help="The pretrained network whose features are clustered.")
    ] = DEFAULT,
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Cluster the test images at the height that tells the training subjects apart."""
    from distracted.postprocess.people import count_test_people
    from distracted.training.resolve import settle

    config = load_config(model=model, data=data, overrides=console.overrides(set), root=root)
    store = open_store(Workspace(root), config.data, progress=console.progress)
    found = count_test_people(
        store, settle(config, num_folds=store.folds.num_folds), force=force, progress=console.progress
    )
    checks = ", ".join(f"{ratio:.2f}" for ratio in found.ratios)
    known = (
        f"known people, taught by a third of them: counted as {checks} times the truth, agreement "
        f"{found.agreement:.2f}"
    )
    if found.trusted:
        console.say(f"about {found.people} people in the test set ({known}); make submit takes it from here")
    else:
        console.say(
            f"clusters do not tell people apart here ({known}): make submit assumes as many images each as a "
            "training subject has, unless data.num_test_subjects in configs/data/ says"
        )


if __name__ == "__main__":
    console.run(main)
