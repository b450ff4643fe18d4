"""make submit: check and write the submission; SEND=1 sends it."""

from typing import Annotated

import typer

import console
from distracted.config import load_data_config
from distracted.paths import Workspace
from distracted.predictions.store import open_store
from distracted.submission.send import send_submission
from distracted.submission.submit import write_submission


def main(
    name: Annotated[str, typer.Option(help="A run; by default the newest blend.")] = "",
    partial: Annotated[bool, typer.Option("--partial", help="Submit although folds are missing.")] = False,
    send: Annotated[bool, typer.Option("--send", help="Send it to Kaggle.")] = False,
    data: console.Data = "state_farm",
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Write submissions/<data>/<run>.csv and its provenance, checked as the competition checks it."""
    config = load_data_config(data, root=root)
    store = open_store(Workspace(root), config, progress=console.progress)
    written = write_submission(store, name=name, partial=partial)
    score = written.score
    console.say(
        f"{written.path}: checked; expected log loss {score.mean:.4f} (95% over subjects {score.low:.4f} "
        f"to {score.high:.4f})"
    )
    if send:
        message = f"{written.run}: expected {score.mean:.4f}"
        answer = send_submission(
            written.path, competition=config.kaggle, message=message, progress=console.progress
        )
        console.say(
            f"Kaggle answers: public {answer.public or 'none'}, private {answer.private or 'not shown'}"
        )


if __name__ == "__main__":
    console.run(main)
