"""Kaggle's answers are stored with the forecast of the file that they belong to."""

import json
from pathlib import Path

import pytest

from a_forecast import EXPECTED
from distracted.files import write_json
from distracted.submission.answers import add_answer, answer_to, read_answers


@pytest.fixture
def provenance(tmp_path: Path) -> Path:
    path = tmp_path / "ensemble.json"
    write_json(path, {"run": "ensemble", "sha256": "a", "answers": []})
    return path


def test_an_answer_is_compared_with_the_forecast(provenance: Path) -> None:
    add_answer(provenance, "a", EXPECTED, {"public": 0.8, "private": 0.2})
    content = json.loads(provenance.read_text())
    assert content["run"] == "ensemble"
    (answer,) = content["answers"]
    assert answer.pop("received")
    assert answer.pop("standard_errors_off") == pytest.approx({"public": 1.96, "private": -1.96})
    forecast = {"sha256": "a", "expected": 0.4, "low": 0.2, "high": 0.6}
    assert answer == {**forecast, "public": 0.8, "private": 0.2}


def test_answers_to_earlier_files_are_kept(provenance: Path) -> None:
    add_answer(provenance, "a", EXPECTED, {"public": 0.6})
    write_json(provenance, {"sha256": "b", "answers": read_answers(provenance)})
    add_answer(provenance, "b", EXPECTED, {"public": 0.5, "private": 0.3})
    answers = read_answers(provenance)
    assert [(answer["sha256"], answer["public"]) for answer in answers] == [("a", 0.6), ("b", 0.5)]
    assert "private" not in answers[0]


@pytest.mark.parametrize("content", [None, "{}", '{"answers": ', "[1]"])
def test_a_missing_or_damaged_file_has_no_answers(provenance: Path, content: str | None) -> None:
    provenance.unlink()
    if content is not None:
        provenance.write_text(content)
    assert read_answers(provenance) == []


@pytest.mark.parametrize("damaged", [None, 3, [None], ["x"], [[1]]])
def test_damaged_answers_are_ignored(
    provenance: Path, damaged: object, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(provenance, {"sha256": "a", "answers": damaged})
    provenance.with_suffix(".csv").write_text("img\n")
    assert answer_to(provenance.with_suffix(".csv")) is None
    assert "any answers in it are lost" in caplog.text
