"""Sign in to Kaggle with the user's credentials, and put Kaggle's refusals into words."""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from distracted.errors import CredentialsError, first_line
from distracted.kaggle_credentials import SETTINGS_URL, Credentials, find_credentials

if TYPE_CHECKING:
    import requests
    from kaggle.api.kaggle_api_extended import KaggleApi


def sign_in() -> "KaggleApi":
    """Return an authenticated client.

    Raises:
        CredentialsError: no credentials are set up, they are damaged or refused, or Kaggle does not answer;
            the message says in one or two lines what to do.
    """
    credentials = find_credentials()
    with quiet():
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi  # slow, and it signs in on import

            api = KaggleApi()
            api.authenticate()
        except SystemExit as error:  # the client ends the process when Kaggle takes none of the credentials
            raise CredentialsError(_refused(credentials)) from error
        except Exception as error:  # those of requests and of the client have no common base
            writable = ""
            if isinstance(error, OSError) and error.filename:  # the client makes a folder when it is imported
                writable = "; KAGGLE_CONFIG_DIR=<folder> names one that can be written"
            raise CredentialsError(f"cannot sign in to Kaggle: {refusal(error)}{writable}") from error
    if credentials.kind == "token" and not api.config_values.get("token"):
        raise CredentialsError(_refused(credentials))  # the client went on with other credentials
    api.args = [option for option in api.args if option != "--verbose"]  # it would print the token
    return api


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard what the client prints, such as addresses that hold a signature."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def refusal(error: BaseException, competition: str = "") -> str:
    """Why a call to Kaggle failed and what to do, in one or two lines that hold no secret.

    Args:
        error: What Kaggle's client raised.
        competition: The competition's name on Kaggle.
    """
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _hide(_by_status(error, error.response, competition))
    if isinstance(error, requests.exceptions.SSLError):
        return "Kaggle's certificate is not accepted; a proxy's own one goes into REQUESTS_CA_BUNDLE"
    if isinstance(error, (requests.ConnectionError, requests.Timeout)):
        return "Kaggle cannot be reached; check the network (in a Kaggle notebook: switch Internet on)"
    if isinstance(error, json.JSONDecodeError):
        return "Kaggle's answer cannot be read; a proxy or the network's login page may have sent it"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return _hide(f"{where}{error.strerror}")
    return _hide(_without_address(error))


def _by_status(error: BaseException, response: "requests.Response", competition: str) -> str:
    status, page = response.status_code, f"https://www.kaggle.com/competitions/{competition}"
    reason = _without_address(error)
    if status == 401:
        return _refused(find_credentials())
    if status == 403 and competition:
        return (
            f"Kaggle denies access to {competition} (403: {reason}); accept the rules on {page}/rules\n"
            "and verify your phone on https://www.kaggle.com/settings; a misspelt data.kaggle gives 403 too"
        )
    if status == 404 and competition:
        return f"Kaggle has no competition {competition} (404); data.kaggle is the last part of its address"
    if status == 429:
        return f"too many requests (429: {reason}); repeat the command {_wait(response)}"
    if status >= 500:
        return f"Kaggle itself fails ({status}: {reason}); repeat the command later"
    daily = "; Kaggle counts submissions a day from midnight UTC" if "submission" in reason.lower() else ""
    return f"Kaggle refuses ({status}: {reason}){daily}"


def _refused(credentials: Credentials) -> str:
    new = f"create a new token on {SETTINGS_URL} and put it there"
    if credentials.kind == "login":
        new = "run `kaggle auth login` again"
    return f"Kaggle refuses the credentials (401): {credentials.source} is wrong, expired or revoked; {new}"


def _wait(response: "requests.Response") -> str:
    """When to try again; Retry-After holds seconds or a date."""
    after = response.headers.get("Retry-After", "").strip()
    with contextlib.suppress(ValueError, TypeError):
        seconds = float(after) if after.replace(".", "", 1).isdigit() else _seconds_until(after)
        return f"in {max(1, round(seconds))} seconds"
    return "in a few minutes"


def _seconds_until(date: str) -> float:
    return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()


def _without_address(error: BaseException) -> str:
    """An error's first line, without the address that requests adds: it may hold a signature."""
    return re.sub(r",? (for|with) url:.*", "", first_line(error))


def _hide(text: str) -> str:
    """The text without the secrets of the credentials."""
    with contextlib.suppress(CredentialsError):
        for secret in find_credentials().secrets:
            text = text.replace(secret, "***")
    return text
