"""A file is sent once, whatever fails; a call ends with a score, a rejection or what is known.

Kaggle's own client talks to a local server.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from conftest import RecordedProgress
from distracted import kaggle_requests
from distracted.errors import CredentialsError, LockError, SubmissionError
from distracted.files import sha256_bytes
from distracted.locks import hold
from distracted.submission import deliver, send
from distracted.submission.send import read_scores, send_submission
from kaggle_stand_in import (
    REF,
    SENDING,
    TOKEN,
    Answer,
    KaggleServer,
    Request,
    cutting_proxy,
    hurry,
    odd_answers,
    signed_in,
)

SCORES = {"public": 0.25, "private": 0.5}
CONTENT = "img,c0\n" + "img_1.jpg,1\n" * 400


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A submission; fails if a test changes it."""
    path = tmp_path / "ensemble.csv"
    path.write_text(CONTENT)
    yield path
    assert path.read_text() == CONTENT


@pytest.fixture(autouse=True)
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KaggleServer]:
    with signed_in(monkeypatch, tmp_path / "home") as server:
        yield server


def send_it(path: Path, **options: bool) -> dict[str, float]:
    return send_submission(path, competition="state-farm", message="ensemble: expected 0.2500", **options)


def receipt(path: Path) -> dict[str, object]:
    (file,) = (path.parent / "sent").glob("*.json")
    content: dict[str, object] = json.loads(file.read_text())
    return content


def assert_sent_once(kaggle: KaggleServer) -> None:
    (sent,) = kaggle.submissions
    assert kaggle.uploads[sent["token"]] == CONTENT.encode()


class TestSending:
    def test_the_file_is_sent_and_scored(
        self, path: Path, kaggle: KaggleServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert send_it(path) == SCORES
        assert kaggle.names() == list(SENDING)
        assert_sent_once(kaggle)
        assert kaggle.asked[2].authorization == ""  # storage gets no token
        description = kaggle.submissions[0]["description"]
        assert description.startswith(f"ensemble: expected 0.2500 [{receipt(path)['sha256'][:12]}, sent 20")
        assert (receipt(path)["ref"], receipt(path)["token"]) == (REF, "")
        assert "secret" not in "".join(capfd.readouterr()) + json.dumps(receipt(path))

    def test_logins_of_other_services_are_not_sent(
        self, path: Path, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A default entry of ~/.netrc is for every host; the storage refuses it beside its signature."""
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        (tmp_path / "netrc").write_text("default login me password mine\n")
        assert send_it(path) == SCORES
        assert {request.authorization for request in kaggle.asked} == {f"Bearer {TOKEN}", ""}

    def test_the_same_bytes_are_sent_once(self, path: Path, kaggle: KaggleServer) -> None:
        send_it(path)
        copy = path.with_name("copy.csv")
        copy.write_text(CONTENT)
        kaggle.score = "0.125"
        for file in (path, copy):
            kaggle.asked.clear()
            assert send_it(file)["public"] == 0.125
            assert kaggle.names() == ["IntrospectToken", "ListSubmissions"]
        assert_sent_once(kaggle)

    def test_force_sends_them_again(self, path: Path, kaggle: KaggleServer) -> None:
        send_it(path)
        send_it(path, force=True)
        assert [item["ref"] for item in kaggle.submissions] == [REF, REF + 1]
        assert receipt(path)["ref"] == REF + 1

    def test_other_bytes_and_other_competitions_are_sent(self, path: Path, kaggle: KaggleServer) -> None:
        send_it(path)
        other = path.with_name("other.csv")
        other.write_text("img,c0\nimg_2.jpg,1\n")
        send_it(other)
        for competition in ("another", "state-farm", "another"):
            assert send_submission(path, competition=competition, message="") == SCORES
        assert [item["competition"] for item in kaggle.submissions] == ["state-farm", "state-farm", "another"]

    def test_what_was_replaced_since_it_was_checked_is_not_sent(
        self, path: Path, kaggle: KaggleServer
    ) -> None:
        with pytest.raises(SubmissionError, match="was replaced since it was checked; nothing was sent"):
            send_submission(path, competition="state-farm", message="", checked=sha256_bytes(b"other"))
        assert not kaggle.asked

    def test_ours_is_found_among_many(self, path: Path, kaggle: KaggleServer) -> None:
        kaggle.submissions = [{"ref": number, "description": ""} for number in range(50)]
        send_it(path)
        kaggle.submissions += [{"ref": 1000 + number, "description": ""} for number in range(50)]
        assert send_it(path) == SCORES
        assert kaggle.names()[-3:] == ["ListSubmissions"] * 3
        assert len(kaggle.submissions) == 101

    def test_a_server_that_turns_its_pages_in_circles(self, path: Path, kaggle: KaggleServer) -> None:
        send_it(path)
        kaggle.answers["ListSubmissions"] = Answer({"submissions": [{"ref": 5}], "nextPageToken": "again"})
        with pytest.raises(SubmissionError, match=r"\(submission 77\), but Kaggle does not list it"):
            send_it(path)

    def test_an_answer_whose_numbers_are_text(self, path: Path, kaggle: KaggleServer) -> None:
        created = Answer({"message": "Successfully submitted", "ref": str(REF)}, acts=True)
        kaggle.answers["CreateSubmission"] = created
        scored = {"ref": str(REF), "status": "complete", "publicScore": "0.25", "privateScore": ""}
        kaggle.answers["ListSubmissions"] = Answer({"submissions": [scored]})
        assert send_it(path) == {"public": 0.25}

    def test_two_processes_do_not_send_the_same_file(self, path: Path, kaggle: KaggleServer) -> None:
        send_it(path)
        lock = next((path.parent / "sent").glob("*.json")).with_suffix(".lock")
        with (
            hold(lock, "test"),
            pytest.raises(LockError, match=r"sending .*ensemble\.csv: locked by process"),
        ):
            send_it(path, force=True)
        assert len(kaggle.submissions) == 1

    def test_data_without_a_competition_is_not_sent(self, path: Path, kaggle: KaggleServer) -> None:
        with pytest.raises(SubmissionError, match="no competition on Kaggle"):
            send_submission(path, competition=None, message="")
        assert not kaggle.asked

    def test_without_credentials(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KAGGLE_API_TOKEN")
        with pytest.raises(CredentialsError, match="no Kaggle credentials found"):
            send_it(path)


class TestScore:
    @pytest.mark.parametrize("text", ["", "None", "nan", "-", None])
    def test_text_that_is_no_number_is_no_score(self, text: str | None) -> None:
        assert read_scores(SimpleNamespace(public_score=text, private_score="0.25")) == {"private": 0.25}

    def test_it_is_awaited(self, path: Path, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
        kaggle.once("ListSubmissions", *[Answer({"submissions": [{"ref": REF}]})] * 2)
        progress = RecordedProgress()
        monkeypatch.setattr(send, "SCORE_SECONDS", 10.0)
        send_submission(path, competition="state-farm", message="", progress=progress)
        assert progress.tasks == [(500, 2)]
        assert kaggle.names().count("ListSubmissions") == 3

    def test_a_rejection_quotes_kaggles_reason(self, path: Path, kaggle: KaggleServer) -> None:
        rejected = {"ref": REF, "status": "ERROR", "errorDescription": "Evaluation Exception: row 3"}
        kaggle.answers["ListSubmissions"] = Answer({"submissions": [rejected]})
        for _ in range(2):
            with pytest.raises(
                SubmissionError, match=r"Kaggle rejects it: Evaluation Exception: row 3 \(.*FORCE"
            ):
                send_it(path)
        assert_sent_once(kaggle)

    def test_a_score_that_does_not_come_is_asked_for_by_the_next_call(
        self, path: Path, kaggle: KaggleServer
    ) -> None:
        kaggle.score = None
        message = r"was sent \(submission 77\), but Kaggle has not scored it yet; the same command asks again"
        for _ in range(2):
            with pytest.raises(SubmissionError, match=message):
                send_it(path)
        kaggle.score = "0.25"
        assert send_it(path) == SCORES
        assert_sent_once(kaggle)

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (Answer(b"", 503), "Kaggle itself fails"),
            (Answer(b"", 429), "too many requests"),
            (Answer(b"", 429, {"Retry_After": "3600"}), "repeat the command in 3600 seconds"),
            (Answer(drop=True), "Kaggle cannot be reached"),
            (Answer({"submissions": [{"ref": REF, "status": "NEW_KIND"}]}), "answer cannot be read"),
            (Answer(b"", 401), "KAGGLE_API_TOKEN is wrong, expired or revoked"),
            (Answer(b"", 403), "denies access to state-farm"),
        ],
        ids=str,
    )
    def test_trouble_while_it_is_awaited(
        self, path: Path, kaggle: KaggleServer, answer: Answer, problem: str
    ) -> None:
        kaggle.answers["ListSubmissions"] = answer
        with pytest.raises(
            SubmissionError, match=rf"was sent \(submission 77\), but its score .*{problem}"
        ) as info:
            send_it(path)
        assert "the same command asks again and sends nothing" in str(info.value)
        del kaggle.answers["ListSubmissions"]
        kaggle.asked.clear()
        assert send_it(path) == SCORES
        assert kaggle.names() == ["IntrospectToken", "ListSubmissions"]
        assert_sent_once(kaggle)


FAILURES = {
    "503": Answer(b"", 503),
    "503 with a date": Answer(b"", 503, {"Retry_After": "Fri, 01 Jan 2100 00:00:00 GMT"}),
    "429": Answer({"code": 429, "message": "Too many requests"}, 429),
    "429 in a second": Answer(b"", 429, {"Retry_After": "1"}),
    "cut": Answer(drop=True),
    "cut within the answer": Answer({"submissions": [], "token": "", "ref": 0}, cut=7),
    "garbage": Answer(b"\x00\xff<", headers={"Content_Type": "application/json"}),
    "a list": Answer([1]),
    "an empty object": Answer({}),
    "a login page": Answer(b"<html>", headers={"Content_Type": "text/html"}),
    "silence": Answer({}, wait=30),
    "a drip": Answer({"a": "b" * 100}, between=0.1),
}
#: Answers that a storage or the list may well give, and that then mean what they say.
MEANT = {
    *(("upload", name) for name in ("garbage", "a list", "an empty object")),
    ("upload", "cut within the answer"),
    ("ListSubmissions", "an empty object"),
}


def cases(*, arrived: bool) -> list[object]:
    return [
        pytest.param(step, name, id=f"{step}: {name}")
        for step in (SENDING[1:4] if arrived else SENDING)
        for name in FAILURES
        if (step, name) not in MEANT and not (step == "IntrospectToken" and name == "an empty object")
    ]


class TestFailures:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kaggle_requests, "LIMIT", 1.0)

    def both_calls(self, path: Path, kaggle: KaggleServer) -> None:
        """The call in which something fails, and another if it ends in an error; one submission in all."""
        start = time.monotonic()
        try:
            scores = send_it(path)
        except (SubmissionError, CredentialsError) as error:
            assert len(str(error).splitlines()) <= 2 and "secret" not in str(error)
            scores = send_it(path)
        assert scores == SCORES
        assert time.monotonic() - start < 25
        assert_sent_once(kaggle)

    @pytest.mark.slow
    @pytest.mark.parametrize(("step", "name"), cases(arrived=False))
    def test_a_step_that_fails_once(self, path: Path, kaggle: KaggleServer, step: str, name: str) -> None:
        kaggle.once(step, FAILURES[name])
        self.both_calls(path, kaggle)

    @pytest.mark.slow
    @pytest.mark.parametrize(("step", "name"), cases(arrived=True))
    def test_a_step_whose_answer_is_lost(
        self, path: Path, kaggle: KaggleServer, step: str, name: str
    ) -> None:
        """Kaggle has done what was asked for, and nobody knows."""
        lost = FAILURES[name]
        kaggle.once(step, Answer(**{**vars(lost), "acts": lost.status != 429}))
        self.both_calls(path, kaggle)

    @pytest.mark.parametrize("acts", [False, True])
    def test_the_request_that_counts(self, path: Path, kaggle: KaggleServer, acts: bool) -> None:
        """The fast one of the above."""
        kaggle.once("CreateSubmission", Answer(drop=True, acts=acts))
        self.both_calls(path, kaggle)
        assert kaggle.names().count("CreateSubmission") == (1 if acts else 2)
        assert kaggle.names().count("upload") == 1

    @pytest.mark.parametrize("acts", [False, True])
    def test_a_list_that_cannot_be_read_leaves_it_open(
        self, path: Path, kaggle: KaggleServer, acts: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hurry(monkeypatch, patience=0.1)
        kaggle.answers["CreateSubmission"] = Answer(drop=True, acts=acts)
        kaggle.answers["ListSubmissions"] = Answer(b"", 503)
        for _ in range(2):
            with pytest.raises(SubmissionError, match=r"may be on Kaggle already, whose list .* cannot be"):
                send_it(path)
        assert kaggle.names().count("CreateSubmission") == 1
        kaggle.answers.clear()
        assert send_it(path) == SCORES
        assert_sent_once(kaggle)

    def test_a_list_that_shows_it_late(
        self, path: Path, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deliver, "LISTED_SECONDS", 20.0)
        kaggle.once("CreateSubmission", Answer(b"", 503, acts=True))
        kaggle.once("ListSubmissions", *[Answer({"submissions": []})] * 5)
        assert send_it(path) == SCORES
        assert_sent_once(kaggle)

    def test_a_gateway_that_gives_up_before_kaggle_is_done(
        self, path: Path, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The submission is listed only after an answer that took longer than listing ever does."""
        kaggle.once("CreateSubmission", Answer(b"", 504, acts=True, wait=3 * deliver.LISTED_SECONDS))
        kaggle.once("ListSubmissions", Answer({"submissions": []}))
        assert send_it(path) == SCORES
        assert_sent_once(kaggle)

    def test_a_number_that_is_missing(self, path: Path, kaggle: KaggleServer) -> None:
        kaggle.answers["CreateSubmission"] = Answer({"message": "The deadline has passed"})
        with pytest.raises(SubmissionError, match="could not be sent: The deadline has passed"):
            send_it(path)
        assert kaggle.names().count("CreateSubmission") == 1

    @pytest.mark.parametrize("call", ["StartSubmissionUpload", "CreateSubmission"])
    @pytest.mark.parametrize(
        ("status", "message", "problem"),
        [
            (400, "Your team has used its daily Submission allowance (5)", "daily Submission allowance.*UTC"),
            (400, "The submission deadline has passed", r"Kaggle refuses \(400: .* has passed\)$"),
            (401, "", "KAGGLE_API_TOKEN is wrong, expired or revoked"),
            (403, "Permission denied", "accept the rules on https://www.kaggle.com/competitions/state-farm/"),
            (404, "", "Kaggle has no competition state-farm"),
            (409, "Conflict", r"Kaggle refuses \(409: Conflict\)"),
            (429, "Too many requests", "repeat the command in a few minutes"),
            (500, "", "Kaggle itself fails"),
            (503, "", "Kaggle itself fails"),
        ],
    )
    def test_kaggle_refuses(
        self,
        path: Path,
        kaggle: KaggleServer,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        status: int,
        message: str,
        problem: str,
    ) -> None:
        hurry(monkeypatch, patience=0.1)
        kaggle.refuse(call, status, message)
        with pytest.raises(SubmissionError, match=f"is valid, but could not be sent: .*{problem}") as info:
            send_it(path)
        assert len(str(info.value).splitlines()) <= 2 and TOKEN not in str(info.value)
        kaggle.answers.clear()
        assert send_it(path) == SCORES
        assert_sent_once(kaggle)

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (Answer(b"", 403), r"Kaggle's storage denies access \(403: 403 Client Error: Forbidden\)"),
            (Answer(b"", 413), r"the file is larger than Kaggle, .* accepts \(413: "),
            (Answer(b"", 308), "the connection was cut"),
            (Answer(b"", 503), "Kaggle itself fails"),
        ],
    )
    def test_the_storage_refuses_the_file(
        self,
        path: Path,
        kaggle: KaggleServer,
        monkeypatch: pytest.MonkeyPatch,
        answer: Answer,
        problem: str,
    ) -> None:
        hurry(monkeypatch, patience=0.1)
        kaggle.answers["upload"] = answer
        with pytest.raises(SubmissionError, match=f"could not be sent: {problem}") as info:
            send_it(path)
        assert "secret" not in str(info.value)
        assert "CreateSubmission" not in kaggle.names()

    def test_an_upload_that_kaggle_no_longer_has(self, path: Path, kaggle: KaggleServer) -> None:
        kaggle.refuse("CreateSubmission", 403)
        with pytest.raises(SubmissionError):
            send_it(path)
        kaggle.answers.clear()
        kaggle.uploads.clear()
        assert send_it(path) == SCORES
        assert kaggle.names().count("upload") == 2
        assert_sent_once(kaggle)

    @pytest.mark.parametrize("content", ['{"ref": ', "", "{}", "\0" * 300])
    @pytest.mark.parametrize("was_sent", [False, True])
    def test_with_a_damaged_receipt_kaggle_is_asked(
        self,
        path: Path,
        kaggle: KaggleServer,
        caplog: pytest.LogCaptureFixture,
        content: str,
        was_sent: bool,
    ) -> None:
        send_it(path)
        next((path.parent / "sent").glob("*.json")).write_text(content)
        if not was_sent:
            kaggle.submissions.clear()
        assert send_it(path) == SCORES
        assert_sent_once(kaggle)
        assert ".json is damaged" in caplog.text and receipt(path)["ref"] == REF


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SENDING), odd_answers())
def test_any_answer_ends_in_scores_or_a_message(
    path: Path, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, step: str, answer: Answer
) -> None:
    assume(not (answer.acts and isinstance(answer.body, dict) and "message" in answer.body))  # a lie
    hurry(monkeypatch, patience=0.05)
    shutil.rmtree(path.parent / "sent", ignore_errors=True)
    kaggle.submissions.clear()
    kaggle.answers = {step: answer}
    start = time.monotonic()
    for _ in range(2):
        try:
            assert send_it(path).keys() <= SCORES.keys()
        except (SubmissionError, CredentialsError) as error:
            assert len(str(error)) < 1000
        kaggle.answers.clear()
    assert time.monotonic() - start < 25
    assert len(kaggle.submissions) <= 1


class TestStops:
    @pytest.mark.parametrize("step", SENDING)
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_at_once(
        self, path: Path, kaggle: KaggleServer, step: str, number: signal.Signals
    ) -> None:
        """It comes while a request waits for its answer; Kaggle may have acted on the request."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        stopped = []

        def stop(request: Request) -> None:
            if request.name == step and not stopped:
                stopped.append(time.monotonic())
                os.kill(os.getpid(), number)

        kaggle.on_request = stop
        kaggle.once(step, Answer({}, acts=True, wait=30))
        try:
            with pytest.raises(KeyboardInterrupt):
                send_it(path)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert time.monotonic() - stopped[0] < 10
        assert send_it(path) == SCORES
        assert_sent_once(kaggle)

    def test_a_signal_ends_a_wait_at_once(
        self, path: Path, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kaggle_requests, "PATIENCE", 100)
        kaggle.answers["CreateSubmission"] = Answer(b"", 429, {"Retry_After": "60"})
        signal.setitimer(signal.ITIMER_REAL, 0.7)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        start = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                send_it(path)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - start < 20
        kaggle.answers.clear()
        assert send_it(path) == SCORES
        assert_sent_once(kaggle)

    @pytest.mark.slow
    @pytest.mark.parametrize("acts", [False, True], ids=["not done", "done"])
    @pytest.mark.parametrize("step", SENDING)
    def test_a_killed_process(self, path: Path, kaggle: KaggleServer, step: str, acts: bool) -> None:
        call = f"send_submission(Path({str(path)!r}), competition='state-farm', message='')"
        code = "\n".join(
            ["from pathlib import Path", "from distracted.submission.send import send_submission", call]
        )
        process = None

        def kill(request: Request) -> None:
            if process is not None and request.name == step:
                process.kill()

        kaggle.on_request = kill
        kaggle.once(step, Answer(drop=True, acts=acts))
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        assert process.wait(60) == -signal.SIGKILL
        process = None
        assert send_it(path) == SCORES
        assert_sent_once(kaggle)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["requests", "answers"])
def test_a_connection_that_is_cut_after_any_number_of_bytes(
    path: Path, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    """One cut anywhere in the conversation: nothing is sent twice, and the score comes."""
    with cutting_proxy(kaggle) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        kaggle.url = proxy.url  # uploads go through the proxy, too
        send_it(path)
        length = proxy.passed[direction]
        assert length > 1000
        calls = []
        for cut in range(0, length, max(1, length // 60)):
            kaggle.submissions.clear()
            kaggle.uploads.clear()
            next((path.parent / "sent").glob("*.json")).unlink()
            proxy.arm(cut, direction)
            start, tries = time.monotonic(), 0
            while True:
                tries += 1
                try:
                    assert send_it(path) == SCORES
                    break
                except (SubmissionError, CredentialsError):
                    assert tries == 1
            assert time.monotonic() - start < 25
            assert_sent_once(kaggle)
            calls.append(tries)
        assert len(calls) >= 60
