"""Sending a submission ends with a score, a rejection or a one-line error, and never changes the file.

Tests cannot reach Kaggle: a stand-in for its client answers with the client's own types, or a local server
answers the client itself.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from kagglesdk.competitions.types.competition_api_service import ApiCreateSubmissionResponse, ApiSubmission
from kagglesdk.competitions.types.submission_status import SubmissionStatus

from conftest import RecordedProgress
from distracted.errors import CredentialsError, SubmissionError
from distracted.submission import send
from distracted.submission.send import read_scores, send_submission
from kaggle_stand_in import TOKEN, Answer, KaggleServer, isolate, kaggle_server

REF = 77


class StandIn:
    """Kaggle's client: our submission goes through `statuses` and keeps the last; an older one is listed."""

    def __init__(self, *statuses: SubmissionStatus, fails: Exception | None = None, ref: int = REF) -> None:
        self.statuses, self.fails, self.ref = list(statuses), fails, ref
        self.sent: list[tuple[str, str, str]] = []
        self.polls = 0

    def competition_submit(
        self, file_name: str, message: str, competition: str, quiet: bool = False
    ) -> ApiCreateSubmissionResponse:
        if self.fails:
            raise self.fails
        self.sent.append((file_name, message, competition))
        answer = ApiCreateSubmissionResponse()
        answer.ref, answer.message = self.ref, "" if self.ref else "Could not submit to competition"
        return answer

    def competition_submissions(self, competition: str) -> list[ApiSubmission | None] | None:
        self.polls += 1
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return [
            None,
            submission(12, SubmissionStatus.COMPLETE, "9.0", "9.0"),
            submission(REF, status, "0.25", "0.5"),
        ]


def submission(ref: int, status: SubmissionStatus, public: str, private: str) -> ApiSubmission:
    item = ApiSubmission()
    item.ref, item.status = ref, status
    if status is SubmissionStatus.COMPLETE:
        item.public_score, item.private_score = public, private
    if status is SubmissionStatus.ERROR:
        item.error_description = "Evaluation Exception: row 3"
    return item


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A submission; fails if a test changes it."""
    path = tmp_path / "ensemble.csv"
    path.write_text("img,c0\n")
    yield path
    assert path.read_text() == "img,c0\n"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "_POLL_SECONDS", 0)


def send_by(client: object, path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    monkeypatch.setattr(send, "sign_in", lambda: client)
    return send_submission(path, competition="state-farm", message="ensemble: expected 0.2500")


def test_scores_come_back_when_kaggle_has_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = StandIn(SubmissionStatus.PENDING, SubmissionStatus.PENDING, SubmissionStatus.COMPLETE)
    assert send_by(client, path, monkeypatch) == {"public": 0.25, "private": 0.5}
    assert client.sent == [(str(path), "ensemble: expected 0.2500", "state-farm")]
    assert client.polls == 3


@pytest.mark.parametrize("text", ["", "None", "nan", "-", None])
def test_text_that_is_no_number_is_no_score(text: str | None) -> None:
    assert read_scores(SimpleNamespace(public_score=text, private_score="0.25")) == {"private": 0.25}


def test_a_rejection_quotes_kaggles_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = StandIn(SubmissionStatus.PENDING, SubmissionStatus.ERROR)
    with pytest.raises(SubmissionError, match="Kaggle rejects it: Evaluation Exception: row 3"):
        send_by(client, path, monkeypatch)


def test_waiting_times_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = StandIn(SubmissionStatus.PENDING)
    with pytest.raises(SubmissionError, match="was sent, but Kaggle has not scored it yet"):
        send_by(client, path, monkeypatch)
    assert client.polls == 60


@pytest.mark.parametrize("listed", [None, []])
def test_a_list_without_the_submission_is_no_answer_yet(
    path: Path, monkeypatch: pytest.MonkeyPatch, listed: list[ApiSubmission] | None
) -> None:
    client = StandIn(SubmissionStatus.COMPLETE)
    monkeypatch.setattr(client, "competition_submissions", lambda _: listed)
    with pytest.raises(SubmissionError, match="not scored it yet"):
        send_by(client, path, monkeypatch)


def test_a_broken_upload_is_reported_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client raises nothing in this case, and returns no submission number."""
    client = StandIn(SubmissionStatus.PENDING, ref=0)
    with pytest.raises(SubmissionError, match="could not be sent: Could not submit to competition"):
        send_by(client, path, monkeypatch)
    assert client.polls == 0


def test_an_error_after_sending_warns_against_sending_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = StandIn(SubmissionStatus.PENDING)

    def fail(competition: str) -> None:
        raise requests.ConnectionError("reset by peer")

    monkeypatch.setattr(client, "competition_submissions", fail)
    with pytest.raises(SubmissionError, match=r"was sent, but .*cannot be reached.*before sending it again"):
        send_by(client, path, monkeypatch)
    assert len(client.sent) == 1


def test_data_without_a_competition_is_not_sent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "sign_in", lambda: pytest.fail("signed in"))
    with pytest.raises(SubmissionError, match="no competition on Kaggle"):
        send_submission(path, competition=None, message="")


def test_progress_counts_the_polls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = StandIn(SubmissionStatus.PENDING, SubmissionStatus.PENDING, SubmissionStatus.COMPLETE)
    monkeypatch.setattr(send, "sign_in", lambda: client)
    progress = RecordedProgress()
    send_submission(path, competition="state-farm", message="", progress=progress)
    assert progress.tasks == [(60, 2)]


class TestKaggle:
    """With Kaggle's own client and a local server."""

    @pytest.fixture(autouse=True)
    def kaggle(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KaggleServer]:
        with kaggle_server() as server:
            isolate(monkeypatch, tmp_path / "home", server.url)
            monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
            yield server

    def send(self, path: Path) -> dict[str, float]:
        return send_submission(path, competition="state-farm", message="ensemble: expected 0.2500")

    def test_the_file_is_sent_and_scored(
        self, path: Path, kaggle: KaggleServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert self.send(path) == {"public": 0.25, "private": 0.5}
        names = ["StartSubmissionUpload", "upload", "CreateSubmission", "ListSubmissions"]
        assert kaggle.names()[-4:] == names
        _, authorization, content = kaggle.asked[-3]
        assert (authorization, content) == ("", path.read_bytes())  # storage gets no token
        assert "secret" not in "".join(capfd.readouterr())

    @pytest.mark.parametrize("call", ["StartSubmissionUpload", "CreateSubmission"])
    @pytest.mark.parametrize(
        ("status", "message", "problem"),
        [
            (400, "Your team has used its daily Submission allowance (5)", "daily Submission allowance"),
            (401, "", "KAGGLE_API_TOKEN is wrong, expired or revoked"),
            (403, "Permission denied", "accept the rules on https://www.kaggle.com/competitions/state-farm/"),
            (404, "", "Kaggle has no competition state-farm"),
            (429, "Too many requests", "repeat the command in a few minutes"),
            (503, "", "Kaggle itself fails"),
        ],
    )
    def test_kaggle_refuses(
        self, path: Path, kaggle: KaggleServer, call: str, status: int, message: str, problem: str
    ) -> None:
        kaggle.refuse(call, status, message)
        with pytest.raises(SubmissionError, match=f"is valid, but could not be sent: .*{problem}") as info:
            self.send(path)
        assert len(str(info.value).splitlines()) <= 2 and TOKEN not in str(info.value)

    def test_the_storage_refuses_the_file(
        self, path: Path, kaggle: KaggleServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        kaggle.refuse("upload", 403)
        with pytest.raises(SubmissionError, match="could not be sent: Could not submit to competition"):
            self.send(path)
        assert "secret" not in "".join(capfd.readouterr())

    def test_the_network_fails_while_the_score_is_awaited(self, path: Path, kaggle: KaggleServer) -> None:
        kaggle.answers["ListSubmissions"] = Answer(drop=True)
        with pytest.raises(SubmissionError, match=r"was sent, but .*cannot be reached.*before sending it"):
            self.send(path)

    def test_without_credentials(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KAGGLE_API_TOKEN")
        with pytest.raises(CredentialsError, match="no Kaggle credentials found"):
            self.send(path)
