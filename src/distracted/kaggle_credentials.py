"""Find the user's Kaggle credentials where Kaggle's own command looks, and say what is wrong with them."""

import json
import logging
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

from distracted.errors import CredentialsError

_log = logging.getLogger(__name__)

SETTINGS_URL = "https://www.kaggle.com/settings/api"
_MISSING = (
    f"no Kaggle credentials found: create a token on {SETTINGS_URL} and export it as KAGGLE_API_TOKEN,\n"
    "or save it as ~/.kaggle/access_token, or run `kaggle auth login`; kaggle.json, or KAGGLE_USERNAME and "
    "KAGGLE_KEY, work too"
)


@dataclass(frozen=True)
class Credentials:
    """The user's credentials.

    Attributes:
        source: The variable or file that holds them, for messages.
        kind: token, key (a user's name and key) or login (`kaggle auth login`).
        secrets: What no message may show; the token or key comes first.
        username: The name that belongs to a key.
    """

    source: str
    kind: str
    secrets: tuple[str, ...] = field(repr=False)
    username: str = ""


def find_credentials() -> Credentials:
    """Look where Kaggle's client looks, in its order: token, name and key, login.

    Raises:
        CredentialsError: there are none, or a file with credentials cannot be used.
    """
    credentials = _find()
    if not all(
        secret.isascii() and secret.isprintable() and " " not in secret for secret in credentials.secrets
    ):
        raise CredentialsError(f"{credentials.source} holds characters that no token has; copy it again")
    return credentials


def _find() -> Credentials:
    kaggle = _home("~/.kaggle")
    if token := _token(kaggle):
        return token
    file = config_folder() / "kaggle.json"
    values = _read_object(file, needed=()) if file.exists() else {}
    values |= {key: os.environ[f"KAGGLE_{key.upper()}"] for key in ("username", "key") if _variable(key)}
    if {"username", "key"} <= values.keys():
        source = "KAGGLE_USERNAME and KAGGLE_KEY" if _variable("username") and _variable("key") else str(file)
        return Credentials(source, "key", (str(values["key"]).strip(),), str(values["username"]).strip())
    login = kaggle / "credentials.json"
    if login.exists():
        tokens = _read_object(login, needed=("refresh_token",))
        secrets = [tokens[key] for key in ("refresh_token", "access_token") if tokens.get(key)]
        return Credentials(str(login), "login", tuple(map(str, secrets)))
    if values or file.exists():
        missing = " and ".join(key for key in ("username", "key") if key not in values)
        raise CredentialsError(f"{file}: no {missing} in it; {_replace(file)}")
    raise CredentialsError(_MISSING)


def config_folder() -> Path:
    """The folder of kaggle.json, as the client chooses it."""
    if folder := os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(folder)
    home = _home("~/.kaggle")
    if sys.platform.startswith("linux") and not home.exists():
        return Path(os.environ.get("XDG_CONFIG_HOME") or _home("~/.config")) / "kaggle"
    return home


def _home(path: str) -> Path:
    """A path in the home folder; where there is none, as for some containers' users, nothing lies there."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _variable(key: str) -> str:
    return os.environ.get(f"KAGGLE_{key.upper()}", "")


def _token(kaggle: Path) -> Credentials | None:
    """The token of a notebook, of the environment or of a file."""
    notebook = Path(os.environ.get("KAGGLE_API_V1_TOKEN", ""))
    in_notebook = {"KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_DATA_PROXY_URL"} <= os.environ.keys()
    if in_notebook and notebook.is_file() and (token := _read(notebook).strip()):
        return Credentials("KAGGLE_API_V1_TOKEN, which the notebook has set", "token", (token,))
    if value := os.environ.get("KAGGLE_API_TOKEN", "").strip():
        return Credentials("KAGGLE_API_TOKEN", "token", (_token_or_file(value),))
    for file in (kaggle / "access_token", kaggle / "access_token.txt"):
        if file.exists() and (token := _read(file).strip()):
            return Credentials(str(file), "token", (token,))
    return None


def _token_or_file(value: str) -> str:
    """The token that KAGGLE_API_TOKEN holds; its value may be the path of a file."""
    try:
        is_file = Path(value).exists()
    except (OSError, ValueError):  # longer than a path may be
        return value
    if not is_file:
        return value
    if token := _read(Path(value)).strip():
        return token
    raise CredentialsError(f"{value} (KAGGLE_API_TOKEN) is empty; {_replace(Path(value))}")


def _read(file: Path) -> str:
    try:
        text = file.read_text()
        mode = file.stat().st_mode
    except OSError as error:
        raise CredentialsError(f"{file}: cannot be read ({error.strerror}); {_replace(file)}") from error
    except UnicodeDecodeError:
        raise CredentialsError(f"{file}: not a text file; {_replace(file)}") from None
    if os.name == "posix" and mode & (stat.S_IRGRP | stat.S_IROTH):
        _log.warning("%s: other users of this machine can read it; chmod 600 %s", file, file)
    return text


def _read_object(file: Path, needed: tuple[str, ...]) -> dict[str, object]:
    """A JSON object; its content is secret and enters no message."""
    text = _read(file)
    try:
        values = json.loads(text)
    except ValueError:
        raise CredentialsError(f"{file}: not valid JSON; {_replace(file)}") from None
    if not isinstance(values, dict):
        raise CredentialsError(f"{file}: expected a JSON object; {_replace(file)}")
    if missing := [key for key in needed if not values.get(key)]:
        raise CredentialsError(f"{file}: no {' and '.join(missing)} in it; {_replace(file)}")
    return values


def _replace(file: Path) -> str:
    if file.name == "credentials.json":
        return "remove it and run `kaggle auth login` again"
    return f"replace it by a new one from {SETTINGS_URL}"
