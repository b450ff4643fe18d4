"""make submit: check and write the submission; SEND=1 sends it."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

import console
from distracted.data.audit import never_scored
from distracted.submission.answers import add_answer, answer_to
from distracted.submission.expect import Expected, OutOfFold
from distracted.submission.submit import write_submission


def main(
    name: Annotated[str, typer.Option(help="A run; by default the best current blend.")] = "",
    partial: Annotated[bool, typer.Option("--partial", help="Submit although folds are missing.")] = False,
    send: Annotated[bool, typer.Option("--send", help="Send it to Kaggle.")] = False,
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Write submissions/<data>/<run>.csv and its provenance, checked as the competition checks it."""
    runtime = console.runtime(set)
    store = console.open_store(data, root, runtime, images=False)
    written = write_submission(store, name=name, partial=partial, force=force)
    expected = written.expected
    checked = "checked" if written.is_new else "as it was checked"
    console.say(f"{written.path}: {checked}\nexpected log loss {describe(expected)}")
    forecast = expected if written.judged is None else None  # of another score there is none
    if written.judged:
        console.say(describe_score(written.judged))
    if unscored := never_scored(store.competition, store.folds.table):
        console.warn(unscored)
    if send and not force and (kept := answer_to(written.path)) is not None:
        console.say(f"sent already (FORCE=1 sends it again); Kaggle answered: {_compared(forecast, kept)}")
    elif send:
        from distracted.submission.send import send_submission

        kaggle, message = store.competition.config.kaggle, f"{written.run}: expected {expected.mean:.4f}"
        scores = send_submission(
            written.path,
            competition=kaggle,
            message=message,
            checked=written.sha256,
            force=force,
            progress=console.progress,
        )
        if scores:  # without any, the next command asks again
            add_answer(written.provenance, written.sha256, forecast, scores)
        console.say(f"Kaggle answers: {_compared(forecast, scores)}")
    if (written.is_new or send) and runtime.tracking != "none":
        from distracted.tracking.log import track_submission

        track_submission(store, written.path, runtime)


def describe(expected: Expected) -> str:
    """The forecast, its terms, and the numbers of people that it holds for."""
    about = "" if expected.counted == "stated" else "about "
    people = f"{expected.num_subjects} training and {about}{expected.num_test_subjects} test subjects"
    parts = (
        f"OOF {expected.oof:.4f}, one network on the test images {expected.single:.4f}, "
        f"mean over folds {expected.bagging:+.4f}, {people}"
    )
    if expected.low is None:
        return f"{expected.mean:.4f}; no interval: subjects are too few ({parts})"
    ends = f"95% of such competitions {expected.low:.4f} to {expected.high:.4f}"
    if expected.public_low is not None:
        ends += f", the public part {expected.public_low:.4f} to {expected.public_high:.4f}"
    warning = (
        f"\nthe upper end is above {expected.prior:.4f}, the log loss of predicting the classes' shares: "
        "the training subjects do not rule out that the networks are confidently wrong on new ones, and "
        "worse than no network"
        if expected.may_lose_to_prior
        else ""
    )
    return f"{expected.mean:.4f}, {ends} ({parts}){warning}"


def describe_score(judged: OutOfFold) -> str:
    """The competition's score out of fold, and what it is not."""
    return (
        f"{judged.title} out of fold {judged.value:.4f}, 95% over training subjects {judged.low:.4f} to "
        f"{judged.high:.4f}; no forecast: that is made of the log loss alone (docs/metrics.md)"
    )


def _compared(expected: Expected | None, scores: Mapping[str, Any]) -> str:
    shown = [
        f"{part} {compare(expected, scores[part], public=part == 'public')}"
        for part in ("public", "private")
        if part in scores
    ]
    return "; ".join(shown) or "no score"


def compare(expected: Expected | None, score: float, *, public: bool = False) -> str:
    """A score from Kaggle (of the public part, or not) compared with the forecast, if there is one."""
    off = None if expected is None else expected.errors_off(score, public=public)
    if expected is None or off is None:
        return f"{score:.4f}"
    where = "within" if expected.holds(score, public=public) else "outside of"
    return f"{score:.4f}, {off:+.1f} standard errors, {where} the 95% interval"


if __name__ == "__main__":
    console.run(main)
