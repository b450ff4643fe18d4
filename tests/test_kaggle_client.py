"""Signing in with Kaggle's own client and a local server: all kinds of credentials, and what goes wrong."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from distracted.errors import CredentialsError
from distracted.kaggle_client import refusal, sign_in
from distracted.kaggle_credentials import find_credentials
from kaggle_stand_in import KEY, TOKEN, Answer, KaggleServer, isolate, kaggle_server

COMPETITION = "state-farm"


@pytest.fixture(scope="module")
def shared() -> Iterator[KaggleServer]:
    with kaggle_server() as server:
        yield server


@pytest.fixture
def server(shared: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    answers = dict(shared.answers)
    isolate(monkeypatch, tmp_path / "home", shared.url)
    yield shared
    shared.answers = answers
    shared.asked.clear()


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
    sign_in().competition_submissions(COMPETITION)
    name, sent, _ = server.asked[-1]
    assert name == "ListSubmissions"
    return sent


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
        sign_in()
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


def test_a_token_that_the_client_cannot_take(server: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks whether the token is a file, and fails on a name of more than 255 characters."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret" * 100)
    with pytest.raises(CredentialsError, match="too long for Kaggle's client") as info:
        sign_in()
    assert "secret" not in str(info.value)


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

    def test_a_login_that_has_ended(self, server: KaggleServer, home: Path) -> None:
        """The client removes the file."""
        write(home / "credentials.json", {"refresh_token": "secret", "username": "driver"})
        server.refuse("GenerateAccessToken", 401, "Unauthenticated")
        with pytest.raises(
            CredentialsError, match=r"credentials\.json is wrong, expired.* auth login` again"
        ):
            sign_in()

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (Answer(b"", 503), "cannot sign in to Kaggle: Kaggle itself fails"),
            (Answer(b"", 429, {"Retry_After": "7"}), "repeat the command in 7 seconds"),
            (Answer(drop=True), "Kaggle cannot be reached; check the network"),
            (Answer(b"<html>"), "Kaggle's answer cannot be read"),
        ],
    )
    def test_trouble_of_the_network(
        self, server: KaggleServer, monkeypatch: pytest.MonkeyPatch, answer: Answer, problem: str
    ) -> None:
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        server.answers["IntrospectToken"] = answer
        with pytest.raises(CredentialsError, match=problem) as info:
            sign_in()
        assert "secret" not in str(info.value)

    def test_a_home_folder_that_cannot_be_written(
        self, server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client makes its folder when it is imported."""
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        (tmp_path / "file").touch()
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        with pytest.raises(CredentialsError, match=r"Not a directory.*KAGGLE_CONFIG_DIR"):
            sign_in()


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
