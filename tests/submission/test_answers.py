"""An answer stays beside the forecast of the file that it was given to."""

import json
from pathlib import Path

import pytest

from distracted.files import write_json
from distracted.submission.answers import answer_to, keep_answer, kept_answers
from distracted.submission.expect import Expected
from distracted.submission.send import Answer

EXPECTED = Expected(0.4, 0.2, 0.6, 0.5, -0.1, 0.2, 2.5, 5, 10, "stated", 0.4, 0.4)


@pytest.fixture
def provenance(tmp_path: Path) -> Path:
    path = tmp_path / "ensemble.json"
    write_json(path, {"run": "ensemble", "sha256": "a", "answers": []})
    return path


def test_an_answer_says_how_far_off_the_forecast_was(provenance: Path) -> None:
    keep_answer(provenance, EXPECTED, Answer("0.6", "0.2"))
    content = json.loads(provenance.read_text())
    assert content["run"] == "ensemble"
    (kept,) = content["answers"]
    assert kept.pop("received")
    assert kept["standard_errors_off"] == pytest.approx({"public": 2.5, "private": -2.5})
    del kept["standard_errors_off"]
    assert kept == {
        "sha256": "a",
        "expected": 0.4,
        "low": 0.2,
        "high": 0.6,
        "public": 0.6,
        "private": 0.2,
    }


def test_answers_add_up_over_files_of_the_same_name(provenance: Path) -> None:
    keep_answer(provenance, EXPECTED, Answer("0.6", ""))
    write_json(provenance, {"sha256": "b", "answers": kept_answers(provenance)})
    keep_answer(provenance, EXPECTED, Answer("0.5", "0.3"))
    assert [(kept["sha256"], kept["public"]) for kept in kept_answers(provenance)] == [("a", 0.6), ("b", 0.5)]
    assert "private" not in kept_answers(provenance)[0]


@pytest.mark.parametrize("content", [None, "{}", '{"answers": ', "[1]"])
def test_without_a_sound_file_there_is_none(provenance: Path, content: str | None) -> None:
    provenance.unlink()
    if content is not None:
        provenance.write_text(content)
    assert kept_answers(provenance) == []


@pytest.mark.parametrize("text", ["", "None", "nan", "-", None])
def test_what_is_no_number_is_no_score(text: str | None) -> None:
    assert Answer(text, "0.25").scores == {"private": 0.25}  # type: ignore[arg-type]


@pytest.mark.parametrize("damaged", [None, 3, [None], ["x"], [[1]]])
def test_answers_that_are_none_are_left(
    provenance: Path, damaged: object, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(provenance, {"sha256": "a", "answers": damaged})
    provenance.with_suffix(".csv").write_text("img\n")
    assert answer_to(provenance.with_suffix(".csv")) is None
    assert "answers that it may have held are lost" in caplog.text
