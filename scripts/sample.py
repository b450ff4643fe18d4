"""make sample: render the embedded competition."""

from typing import Annotated

import typer

import console
from distracted.paths import Workspace


def main(
    subjects: Annotated[int, typer.Option(help="Training subjects.")] = 12,
    test_subjects: Annotated[int, typer.Option(help="Test subjects, other people.")] = 8,
    frames: Annotated[int, typer.Option(help="Frames of each subject and class.")] = 5,
    size: Annotated[int, typer.Option(help="Width of the pictures in pixels.")] = 320,
    seed: int = 0,
    root: console.Root = console.HERE,
) -> None:
    """Render driver scenes into input/sample, in the competition's layout."""
    from distracted.sample import render_sample

    folder = Workspace(root).input("sample")
    people = {"num_subjects": subjects, "num_test_subjects": test_subjects}
    render_sample(folder, **people, num_frames=frames, width=size, seed=seed, progress=console.progress)
    total = (subjects + test_subjects) * 10 * frames
    console.say(f"{folder}: {subjects} training and {test_subjects} test subjects, {total} images")


if __name__ == "__main__":
    console.run(main)
