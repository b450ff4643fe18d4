"""make submit prints its forecast in one line and Kaggle's answer in another."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import console
import submit
from distracted.errors import SubmissionError
from distracted.predictions.store import Store
from distracted.submission import send
from distracted.submission.expect import Expected
from kaggle_stand_in import TOKEN, hurry, isolate, kaggle_server

EXPECTED = Expected(0.43, 0.3, 0.66, 0.47, -0.04, 0.2, 2.1, 26, 79, "assumed", 0.42, 0.44)


def test_the_forecast_is_one_line() -> None:
    assert submit.describe(EXPECTED) == (
        "0.4300, 95% of such competitions 0.3000 to 0.6600 "
        "(OOF 0.4700, mean over folds -0.0400, 26 training and about 79 test subjects)"
    )


def test_without_an_interval_the_forecast_says_why() -> None:
    few = Expected(0.43, None, None, 0.47, -0.04, None, None, 2, 50, "stated", 0.42, 0.44)
    assert submit.describe(few) == (
        "0.4300; no interval: subjects are too few, or do not differ "
        "(OOF 0.4700, mean over folds -0.0400, 2 training and 50 test subjects)"
    )
    assert submit.compare(few, 0.5) == "0.5000"


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.66, "0.6600, +2.1 standard errors, within the 95% interval"),
        (0.2, "0.2000, -4.5 standard errors, outside of the 95% interval"),
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
    assert lines[2].startswith(f"Kaggle answers: public 0.7500, {off:+.1f} standard errors, ")
    submit.main(name="a", send=True, data=data, root=store.workspace.root)
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith("sent already (FORCE=1 sends it again); Kaggle answered: public 0.7500, ")
    assert len(sent) == 1
    submit.main(name="a", send=True, force=True, data=data, root=store.workspace.root)
    assert len(sent) == 2
    assert lines[0].endswith("a.csv: checked")
    assert lines[3:] == [lines[0].replace("checked", "as it was checked"), lines[1]]


@pytest.mark.slow
def test_a_score_that_was_not_awaited_is_stored_by_the_next_command(
    store: Store,
    write_run: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a server: the file is sent once, by three commands."""
    write_run("a", skill=2.0)
    config = store.competition.config.model_copy(update={"kaggle": "state-farm"})
    on_kaggle = Store(store.workspace, replace(store.competition, config=config), store.folds)
    monkeypatch.setattr(console, "open_store", lambda *_, **__: on_kaggle)
    with kaggle_server() as kaggle:
        isolate(monkeypatch, tmp_path / "home", kaggle.url)
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        hurry(monkeypatch)
        kaggle.refuse("ListSubmissions", 401)
        with pytest.raises(SubmissionError, match=r"a\.csv was sent \(submission 77\), but its score"):
            submit.main(name="a", send=True)
        kaggle.answers.clear()
        for _ in range(2):
            submit.main(name="a", send=True)
        assert len(kaggle.submissions) == 1
    first, second = [line for line in capsys.readouterr().out.splitlines() if "answer" in line]
    assert first.startswith("Kaggle answers: public 0.2500, ")
    assert second.startswith("sent already (FORCE=1 sends it again); Kaggle answered: public 0.2500, ")
    (answer,) = json.loads((store.workspace.submissions("tiny") / "a.json").read_text())["answers"]
    assert (answer["public"], answer["private"]) == (0.25, 0.5)
