"""Signing in with Kaggle's own client and a local server: all kinds of credentials, and what goes wrong."""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from distracted import kaggle_requests
from distracted.errors import CredentialsError
from distracted.kaggle_answers import refusal
from distracted.kaggle_client import sign_in
from distracted.kaggle_credentials import find_credentials
from kaggle_stand_in import KEY, TOKEN, Answer, KaggleServer, hurry, isolate, kaggle_server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    with kaggle_server() as server:
        isolate(monkeypatch, tmp_path / "home", server.url)
        hurry(monkeypatch, patience=0.2)
        yield server


@pytest.fixture
def home(server: KaggleServer, tmp_path: Path) -> Path:
    folder = tmp_path / "home/.kaggle"
    folder.mkdir()
    return folder


def write(path: Path, content: object, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def authorization(server: KaggleServer) -> str:
    """How the signed-in client presents itself to the competition's pages."""
    with sign_in() as client:
        client.competitions.competition_api_client.list_submissions()
    assert server.asked[-1].name == "ListSubmissions"
    return server.asked[-1].authorization


class TestCredentials:
    def test_a_token_in_the_environment(self, server: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        assert authorization(server) == f"Bearer {TOKEN}"
        assert find_credentials().source == "KAGGLE_API_TOKEN"

    def test_the_environment_may_name_a_file(
        self, server: KaggleServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("KAGGLE_API_TOKEN", str(write(tmp_path / "mine", f"{TOKEN}\n")))
        assert authorization(server) == f"Bearer {TOKEN}"

    @pytest.mark.parametrize("name", ["access_token", "access_token.txt"])
    def test_a_token_in_a_file(self, server: KaggleServer, home: Path, name: str) -> None:
        write(home / name, f"{TOKEN}\n")
        write(home / "kaggle.json", {"username": "old", "key": KEY})  # the token comes first
        assert authorization(server) == f"Bearer {TOKEN}"

    def test_a_login(self, server: KaggleServer, home: Path) -> None:
        """The file that `kaggle auth login` writes; the client exchanges it for a token of some hours."""
        login = {"refresh_token": "secret_refresh", "access_token": "", "username": "driver", "scopes": []}
        write(home / "credentials.json", login)
        assert authorization(server) == "Bearer KGAT_fresh_secret"

    def test_a_name_and_a_key_in_the_environment(
        self, server: KaggleServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KAGGLE_USERNAME", "driver")
        monkeypatch.setenv("KAGGLE_KEY", KEY)
        assert authorization(server).startswith("Basic ")

    @pytest.mark.parametrize("where", [".kaggle", ".config/kaggle", "elsewhere", "xdg/kaggle"])
    def test_kaggle_json(
        self, server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        folder = tmp_path / "home" / where
        write(folder / "kaggle.json", {"username": "driver", "key": KEY})
        if where == "elsewhere":
            monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(folder))
        if where == "xdg/kaggle":
            monkeypatch.setenv("XDG_CONFIG_HOME", str(folder.parent))
        assert authorization(server).startswith("Basic ")
        assert find_credentials().source == str(folder / "kaggle.json")

    def test_a_file_that_others_can_read_is_a_warning(
        self, home: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = write(home / "kaggle.json", {"username": "driver", "key": KEY}, mode=0o644)
        sign_in().__exit__(None, None, None)
        assert f"{file}: other users of this machine can read it; chmod 600 {file}" in caplog.text

    def test_the_client_does_not_print_the_token(
        self, server: KaggleServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """VERBOSE, which others use too, makes the client print each request."""
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        monkeypatch.setenv("VERBOSE", "1")
        authorization(server)
        assert "secret" not in "".join(capfd.readouterr())


def test_without_credentials_all_ways_are_listed(server: KaggleServer) -> None:
    with pytest.raises(CredentialsError, match="no Kaggle credentials found") as info:
        sign_in()
    assert len(str(info.value).splitlines()) == 2
    for way in (
        "KAGGLE_API_TOKEN",
        "~/.kaggle/access_token",
        "kaggle auth login",
        "kaggle.json",
        "KAGGLE_KEY",
    ):
        assert way in str(info.value)
    assert not server.asked


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("kaggle.json", '{"username": "driver", "key": "secret', "not valid JSON"),
        ("kaggle.json", "", "not valid JSON"),
        ("kaggle.json", ["secret"], "expected a JSON object"),
        ("kaggle.json", {"username": "driver"}, "no key in it"),
        ("kaggle.json", {"user": "driver", "token": "secret"}, "no username and key in it"),
        ("credentials.json", '{"refresh_token": "secret', "not valid JSON"),
        ("credentials.json", {"access_token": "secret"}, "no refresh_token in it"),
    ],
)
def test_a_damaged_file_is_named(home: Path, name: str, content: object, problem: str) -> None:
    write(home / name, content)
    with pytest.raises(CredentialsError, match=problem) as info:
        sign_in()
    assert str(home / name) in str(info.value) and "secret" not in str(info.value)
    way_out = "https://www.kaggle.com/settings/api" if name == "kaggle.json" else "kaggle auth login"
    assert way_out in str(info.value)


@pytest.mark.parametrize("name", ["access_token", "kaggle.json", "credentials.json"])
def test_an_unreadable_file_is_named(home: Path, name: str) -> None:
    (home / name).mkdir()  # a file without the right to read is readable for root
    with pytest.raises(CredentialsError, match=r"cannot be read \(Is a directory\)") as info:
        sign_in()
    assert str(home / name) in str(info.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_the_right_to_read(home: Path) -> None:
    write(home / "access_token", TOKEN, mode=0)
    with pytest.raises(CredentialsError, match=r"cannot be read \(Permission denied\)"):
        sign_in()


def test_a_binary_file_is_named(home: Path) -> None:
    (home / "access_token").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CredentialsError, match="access_token: not a text file"):
        sign_in()


def test_an_empty_file_named_by_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(write(home / "mine", "")))
    with pytest.raises(CredentialsError, match=r"mine \(KAGGLE_API_TOKEN\) is empty"):
        sign_in()


def test_a_token_longer_than_the_name_of_a_file(
    server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable may name a file; asking whether there is one fails for more than 255 characters."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret" * 100)
    assert authorization(server) == f"Bearer {'secret' * 100}"


def test_a_token_with_characters_of_a_word_processor(
    server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "driver")
    for key in ("\u201csecret\u201d", "sec ret", "sec\nret"):
        monkeypatch.setenv("KAGGLE_KEY", key)
        with pytest.raises(CredentialsError, match="KAGGLE_KEY holds characters that no token has") as info:
            sign_in()
        assert "ret" not in str(info.value)
    monkeypatch.setenv("KAGGLE_API_TOKEN", f" {TOKEN}\n")
    assert authorization(server) == f"Bearer {TOKEN}"


class TestRefusedAtSignIn:
    @pytest.mark.parametrize("answer", [Answer({"active": False}), Answer(b"", 403), Answer(b"", 401)])
    @pytest.mark.parametrize("also", [False, True])
    def test_a_refused_token(
        self, server: KaggleServer, home: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, also: bool
    ) -> None:
        """The client silently goes on with kaggle.json, and then sends the refused token all the same."""
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        if also:
            write(home / "kaggle.json", {"username": "driver", "key": KEY})
        server.answers["IntrospectToken"] = answer
        with pytest.raises(CredentialsError, match="KAGGLE_API_TOKEN is wrong, expired or revoked") as info:
            sign_in()
        assert "create a new token" in str(info.value) and TOKEN not in str(info.value)

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (
                Answer({"code": 400, "message": "Bad token"}, 400),
                r"credentials \(400\): KAGGLE_API_TOKEN is wrong",
            ),
            (Answer(b"", 404), r"credentials \(404\): KAGGLE_API_TOKEN is wrong"),
            (Answer({"code": 401, "message": "Unauthenticated"}, 200), r"\(401\): KAGGLE_API_TOKEN is wrong"),
            (Answer({"code": 409, "message": "Conflict"}, 409), r"Kaggle refuses \(409: Conflict\)"),
            (Answer(b"", 407), r"the proxy asks for a user and a password \(407"),
            (Answer(b"", 429, {"Retry_After": "7"}), "repeat the command in 7 seconds"),
            (Answer(b"", 429, {"Retry_After": "Fri, 31 Dec 2100 23:59:59 GMT"}), r"in \d{10} seconds"),
            (Answer(b"", 429, {"Retry_After": "soon"}), "repeat the command in a few minutes"),
            (Answer(b"", 500), r"cannot sign in to Kaggle: Kaggle itself fails \(500"),
            (Answer(b"", 503, {"Retry_After": "30"}), r"fails \(503: .*\); repeat the command in 30 seconds"),
            (Answer(b"", 503), "cannot sign in to Kaggle: Kaggle itself fails"),
            (Answer(b"{", 503, {"Content_Type": "application/json"}), r"Kaggle itself fails \(503"),
            (Answer(drop=True), "connection was cut .* Kaggle cannot be reached; check the network"),
            (Answer({"active": True}, cut=5), "connection was cut"),
            (Answer({"active": True}, wait=30), "does not answer in time"),
            (Answer({"active": True}, between=0.2), "does not answer in time"),
            (Answer(b"<html>"), r"Kaggle's answer cannot be read \(application/zip, status 200\)"),
            (Answer([]), r"cannot be read \(application/json, status 200\)"),
            (Answer(None), "cannot be read"),
        ],
        ids=str,
    )
    def test_each_answer_is_called_what_it_is(
        self, server: KaggleServer, monkeypatch: pytest.MonkeyPatch, answer: Answer, problem: str
    ) -> None:
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        monkeypatch.setattr(kaggle_requests, "LIMIT", 0.5)
        server.answers["IntrospectToken"] = answer
        start = time.monotonic()
        with pytest.raises(CredentialsError, match=problem) as info:
            sign_in()
        assert time.monotonic() - start < 3
        assert "secret" not in str(info.value) and len(str(info.value).splitlines()) <= 2

    def test_redirects(self, server: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """To the login page of a network, and in circles."""
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        login = Answer(b"<html>Log in", headers={"Content_Type": "text/html; charset=utf-8"})
        server.answers["login"] = login
        server.answers["IntrospectToken"] = Answer(status=302, headers={"Location": f"{server.url}/login"})
        with pytest.raises(CredentialsError, match=r"\(text/html, status 200\); a proxy or .* login page"):
            sign_in()
        server.answers["login"] = Answer(status=302, headers={"Location": f"{server.url}/login"})
        with pytest.raises(CredentialsError, match="leads in circles"):
            sign_in()
        assert {request.authorization for request in server.asked if request.name == "login"} == {""}

    def test_a_proxy_that_does_not_exist(self, server: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
        with pytest.raises(
            CredentialsError, match=r"through the proxy \(.*refused.*\); check https_proxy"
        ) as info:
            sign_in()
        assert "secret" not in str(info.value)

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(b"", 503),
            Answer(b"", 429, {"Retry_After": "1"}),
            Answer(drop=True),
            Answer(b"<html>"),
            Answer({"active": True}, cut=3),
        ],
        ids=str,
    )
    def test_what_may_pass_is_tried_again(
        self,
        server: KaggleServer,
        monkeypatch: pytest.MonkeyPatch,
        answer: Answer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        monkeypatch.setattr(kaggle_requests, "PATIENCE", 3)
        server.once("IntrospectToken", answer)
        assert authorization(server) == f"Bearer {TOKEN}"
        assert server.names().count("IntrospectToken") == 2
        assert "signing in to Kaggle: " in caplog.text and "trying again in 1 s" in caplog.text

    def test_a_home_folder_that_cannot_be_written(
        self, server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is written; Kaggle's package makes a folder when it is imported."""
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        (tmp_path / "file").touch()
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        assert authorization(server) == f"Bearer {TOKEN}"


class TestLogin:
    def login(self, home: Path, **minutes: float) -> None:
        ends = (datetime.now(UTC) + timedelta(**minutes)).isoformat()
        tokens = {"refresh_token": "secret_refresh", "access_token": "KGAT_stored_secret"}
        write(home / "credentials.json", tokens | {"access_token_expiration": ends, "username": "driver"})

    def test_a_token_is_used_while_it_is_valid(self, server: KaggleServer, home: Path) -> None:
        self.login(home, hours=1)
        assert authorization(server) == "Bearer KGAT_stored_secret"

    @pytest.mark.parametrize("minutes", [-20, 1])
    def test_a_token_that_ends_is_renewed(self, server: KaggleServer, home: Path, minutes: int) -> None:
        """The client itself would use it until 30 minutes after its end."""
        self.login(home, minutes=minutes)
        assert authorization(server) == "Bearer KGAT_fresh_secret"
        assert "KGAT_fresh_secret" in (home / "credentials.json").read_text()

    def test_the_renewal_is_tried_again(self, server: KaggleServer, home: Path) -> None:
        self.login(home, hours=-1)
        server.once("GenerateAccessToken", Answer(b"", 503), Answer(drop=True), Answer({}))
        assert authorization(server) == "Bearer KGAT_fresh_secret"

    def test_a_login_that_has_ended(self, server: KaggleServer, home: Path) -> None:
        self.login(home, hours=-1)
        server.refuse("GenerateAccessToken", 401, "Unauthenticated")
        with pytest.raises(
            CredentialsError, match=r"credentials\.json is wrong, expired.* auth login` again"
        ):
            sign_in()
        assert (home / "credentials.json").exists()


def test_a_user_without_a_home_folder(server: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user is only a number."""

    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(CredentialsError, match="no Kaggle credentials found"):
        find_credentials()
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert find_credentials().source == "KAGGLE_API_TOKEN"


def test_secrets_never_enter_a_message(home: Path) -> None:
    write(home / "access_token", TOKEN)
    assert refusal(RuntimeError(f"bad header Bearer {TOKEN}")) == "bad header Bearer ***"
    assert refusal(RuntimeError("Max retries exceeded with url: /upload?signature=secret")) == (
        "Max retries exceeded"
    )
    assert TOKEN not in repr(find_credentials())
