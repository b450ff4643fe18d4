"""make submit prints its forecast in one line and Kaggle's answer in another."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import a_forecast
import console
import submit
from distracted.errors import SubmissionError
from distracted.files import sha256_bytes
from distracted.predictions.store import Store
from distracted.submission import send
from distracted.submission.submit import write_submission
from kaggle_stand_in import Answer, KaggleServer, Request, signed_in

EXPECTED = replace(
    a_forecast.EXPECTED,
    mean=0.43,
    low=0.3,
    high=0.66,
    oof=0.47,
    single=0.47,
    bagging=-0.04,
    public_low=None,
    public_high=None,
    num_subjects=26,
    num_test_subjects=79,
    counted="assumed",
    unsure_half=0.42,
    sure_half=0.44,
)


def test_the_forecast_is_one_line() -> None:
    assert submit.describe(EXPECTED) == (
        "0.4300, 95% of such competitions 0.3000 to 0.6600 "
        "(OOF 0.4700, one network on the test images 0.4700, mean over folds -0.0400, "
        "26 training and about 79 test subjects)"
    )


def test_the_public_part_has_an_interval_of_its_own() -> None:
    expected = replace(EXPECTED, public_low=0.25, public_high=0.75)
    assert "0.3000 to 0.6600, the public part 0.2500 to 0.7500 (" in submit.describe(expected)
    assert submit.compare(expected, 0.7, public=True).endswith("within the 95% interval")
    assert submit.compare(expected, 0.7).endswith("outside of the 95% interval")


def test_an_upper_end_above_the_class_prior_is_said_to_be_so() -> None:
    first, second = submit.describe(replace(EXPECTED, prior=0.5)).splitlines()
    assert first == submit.describe(EXPECTED)
    assert second.startswith(
        "the upper end is above 0.5000, the log loss of predicting the classes' shares: "
    )


def test_without_an_interval_the_forecast_says_why() -> None:
    few = replace(EXPECTED, low=None, high=None, num_subjects=2, num_test_subjects=50, counted="stated")
    assert submit.describe(few) == (
        "0.4300; no interval: subjects are too few (OOF 0.4700, one network on the test images 0.4700, "
        "mean over folds -0.0400, 2 training and 50 test subjects)"
    )
    assert submit.compare(few, 0.5) == "0.5000"


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.66, "0.6600, +2.0 standard errors, within the 95% interval"),
        (0.2, "0.2000, -4.2 standard errors, outside of the 95% interval"),
    ],
)
def test_a_score_is_compared_with_the_forecast(score: float, text: str) -> None:
    assert submit.compare(EXPECTED, score) == text


@pytest.mark.slow
def test_kaggles_answer_is_printed_and_stored(
    store: Store,
    write_run: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_run("a", skill=2.0)
    sent = []
    monkeypatch.setattr(send, "send_submission", lambda path, **_: sent.append(path) or {"public": 0.75})
    data = str(store.competition.config.folder)
    submit.main(name="a", send=True, data=data, root=store.workspace.root)
    submit.main(name="a", data=data, root=store.workspace.root)
    lines = capsys.readouterr().out.splitlines()
    content = json.loads((store.workspace.submissions("tiny") / "a.json").read_text())
    (answer,) = content["answers"]
    assert (answer["sha256"], answer["public"]) == (content["sha256"], 0.75)
    off = answer["standard_errors_off"]["public"]
    [number] = [number for number, line in enumerate(lines) if line.startswith("Kaggle answers: ")]
    assert lines[number].startswith(f"Kaggle answers: public 0.7500, {off:+.1f} standard errors, ")
    submit.main(name="a", send=True, data=data, root=store.workspace.root)
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith("sent already (FORCE=1 sends it again); Kaggle answered: public 0.7500, ")
    assert len(sent) == 1
    submit.main(name="a", send=True, force=True, data=data, root=store.workspace.root)
    assert len(sent) == 2
    assert lines[0].endswith("a.csv: checked")
    assert lines[number + 1 :] == [lines[0].replace("checked", "as it was checked"), *lines[1:number]]


@pytest.fixture
def on_kaggle(
    store: Store, write_run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[Store, KaggleServer]]:
    """A store of a competition on Kaggle, with a run, which commands open; and a server."""
    write_run("a", skill=2.0)
    config = store.competition.config.model_copy(update={"kaggle": "state-farm"})
    opened = Store(store.workspace, replace(store.competition, config=config), store.folds)
    monkeypatch.setattr(console, "open_store", lambda *_, **__: opened)
    with signed_in(monkeypatch, tmp_path / "home") as kaggle:
        yield opened, kaggle


def answers(store: Store) -> list[dict[str, object]]:
    content = json.loads((store.workspace.submissions("tiny") / "a.json").read_text())
    return list(content["answers"])


@pytest.mark.slow
def test_a_score_that_was_not_awaited_is_stored_by_the_next_command(
    on_kaggle: tuple[Store, KaggleServer], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a server: the file is sent once, by four commands."""
    store, kaggle = on_kaggle
    kaggle.refuse("ListSubmissions", 401)
    with pytest.raises(SubmissionError, match=r"a\.csv was sent \(submission 77\), but its score"):
        submit.main(name="a", send=True)
    scored = {"ref": 77, "status": "COMPLETE", "publicScore": "", "privateScore": ""}
    kaggle.answers["ListSubmissions"] = Answer({"submissions": [scored]})
    submit.main(name="a", send=True)
    assert answers(store) == []
    kaggle.answers.clear()
    for _ in range(2):
        submit.main(name="a", send=True)
    assert len(kaggle.submissions) == 1
    none, first, second = [line for line in capsys.readouterr().out.splitlines() if "answer" in line]
    assert none == "Kaggle answers: no score"
    assert first.startswith("Kaggle answers: public 0.2500, ")
    assert second.startswith("sent already (FORCE=1 sends it again); Kaggle answered: public 0.2500, ")
    (answer,) = answers(store)
    assert (answer["public"], answer["private"]) == (0.25, 0.5)


@pytest.mark.slow
def test_a_score_belongs_to_the_file_that_was_sent(
    on_kaggle: tuple[Store, KaggleServer], write_run: Callable[..., None]
) -> None:
    """Another process writes the submission again while the score is awaited; the new file is sent, too."""
    store, kaggle = on_kaggle

    def replace_it(request: Request) -> None:
        if request.name == "ListSubmissions" and len(kaggle.submissions) == 1:
            write_run("a", skill=1.0, seed=1)
            write_submission(store, name="a")

    kaggle.on_request = replace_it
    submit.main(name="a", send=True)
    kaggle.score = "0.125"
    submit.main(name="a", send=True)
    sent = [sha256_bytes(kaggle.uploads[item["token"]]) for item in kaggle.submissions]
    assert len(set(sent)) == 2
    assert [(answer["sha256"], answer["public"]) for answer in answers(store)] == [
        (sent[0], 0.25),
        (sent[1], 0.125),
    ]
