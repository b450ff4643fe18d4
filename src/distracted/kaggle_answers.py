"""Explains failed requests to Kaggle, and says whether and when to retry them.

requests takes a tenth of a second to import, so functions import it.
"""

import contextlib
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from distracted.errors import CredentialsError, DistractedError, first_line
from distracted.kaggle_credentials import SETTINGS_URL, Credentials, find_credentials

if TYPE_CHECKING:
    import requests

_LONGEST_REASON = 300  # characters of an answer that enter a message


class UnreadableAnswer(Exception):
    """An answer that Kaggle does not give: a web page, a truncated text, or JSON of another form."""


def refusal(error: BaseException, competition: str = "") -> str:
    """Why a request to Kaggle failed and what to do, in one or two lines that hold no secret.

    Args:
        error: What the request raised.
        competition: The competition's name on Kaggle.
    """
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _hide(_by_status(error, error.response, competition))
    if isinstance(error, requests.exceptions.SSLError) and not is_transient(error):
        return "Kaggle's certificate is not accepted; a proxy's own one goes into REQUESTS_CA_BUNDLE"
    network = "check the network (in a Kaggle notebook: switch Internet on)"
    if isinstance(error, requests.exceptions.ProxyError) and not may_have_arrived(error):
        return f"Kaggle cannot be reached through the proxy ({_cause(error)}); check https_proxy"
    if isinstance(error, requests.ReadTimeout):
        return f"Kaggle does not answer in time; repeat the command later, or {network}"
    if isinstance(error, (requests.ConnectionError, requests.Timeout)) and not may_have_arrived(error):
        return f"Kaggle cannot be reached; {network}"
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        return f"the connection was cut and Kaggle cannot be reached; {network}"
    if isinstance(error, requests.TooManyRedirects):
        return "Kaggle's address leads in circles; a proxy or the network's login page may redirect it"
    if _is_unreadable(error):
        detail = f" ({_hide(first_line(error))})" if isinstance(error, UnreadableAnswer) else ""
        login = "a proxy or the network's login page may have sent it"
        return f"Kaggle's answer cannot be read{detail}; {login}"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return _hide(f"{where}{error.strerror}")
    return _hide(_without_address(error))


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    from requests import ConnectionError, Timeout
    from requests.exceptions import ChunkedEncodingError, SSLError

    if status := status_of(error):
        return status in (408, 425, 429) or status >= 500
    if isinstance(error, SSLError):  # a cut while keys are exchanged, or a certificate
        return "certificate" not in str(error).lower()
    return _is_unreadable(error) or isinstance(error, (ConnectionError, Timeout, ChunkedEncodingError))


def may_have_arrived(error: BaseException) -> bool:
    """Whether Kaggle may have done what a failed request asked for."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    if status := status_of(error):  # one without Kaggle's words comes from something on the way
        return status >= 500 or not _json(error.response).get("message")  # type: ignore[attr-defined]
    cause = _cause(error)
    return not (isinstance(cause, (NewConnectionError, ConnectTimeoutError)) or "Tunnel" in str(cause))


def status_of(error: BaseException) -> int:
    """The HTTP status of a refusal; 0 for any other error."""
    from requests import HTTPError

    response = error.response if isinstance(error, HTTPError) else None
    return 0 if response is None else response.status_code


def retry_after(error: BaseException) -> float | None:
    """Seconds that Kaggle asks to wait, at least 1; None if it does not say. Retry-After may hold a date."""
    response = getattr(error, "response", None)
    after = response.headers.get("Retry-After", "").strip() if response is not None else ""
    with contextlib.suppress(ValueError, TypeError):
        is_number = after.replace(".", "", 1).isdecimal()
        return max(1.0, float(after) if is_number else _seconds_until(after))
    return None


def refused(credentials: Credentials, status: int | None = None) -> str:
    """The message that Kaggle refuses these credentials; it says where to get new ones."""
    new = f"create a new token on {SETTINGS_URL} and put it there"
    if credentials.kind == "login":
        new = "run `kaggle auth login` again"
    source, code = credentials.source, f" ({status})" if status else ""
    return f"Kaggle refuses the credentials{code}: {source} is wrong, expired or revoked; {new}"


def check_is_object(response: "requests.Response") -> None:
    """Raise UnreadableAnswer unless the answer is a JSON object."""
    try:
        is_object = isinstance(response.json(), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise UnreadableAnswer(describe(response))


def describe(response: "requests.Response") -> str:
    """Content type and status of an unexpected answer."""
    kind = response.headers.get("Content-Type", "").partition(";")[0] or "no content type"
    return f"{kind}, status {response.status_code}"


def raise_for(response: "requests.Response") -> None:
    """Raise an HTTPError with Kaggle's own words if the answer is a refusal.

    The status may also be in the body alone.
    """
    from requests import HTTPError

    body = _json(response)
    code, message = body.get("code"), body.get("message")
    if response.status_code < 400 and type(code) is int and code >= 400:
        response.status_code, response.reason = code, response.reason or "refused"
    if response.status_code >= 400 and isinstance(message, str) and message.strip():
        raise HTTPError(message, response=response)
    response.raise_for_status()


def _json(response: "requests.Response") -> dict[str, object]:
    if "json" not in response.headers.get("Content-Type", ""):
        return {}
    with contextlib.suppress(ValueError):
        body = response.json()
        return body if isinstance(body, dict) else {}
    return {}


def _by_status(error: BaseException, response: "requests.Response", competition: str) -> str:
    status, page = response.status_code, f"https://www.kaggle.com/competitions/{competition}"
    reason = _without_address(error)[:_LONGEST_REASON]
    if status == 429:
        return f"too many requests (429: {reason}); repeat the command {_when(error)}"
    if status >= 500:
        when = _when(error) if retry_after(error) else "later"
        return f"Kaggle itself fails ({status}: {reason}); repeat the command {when}"
    if status == 407:
        return (
            f"the proxy asks for a user and a password (407: {reason}); https_proxy=http://user:password@..."
        )
    if status == 413:
        return f"the file is larger than Kaggle, or a proxy on the way, accepts (413: {reason})"
    if response.request is not None and response.request.method != "POST":  # not Kaggle's own pages
        host = urlsplit(response.url or "").hostname
        return f"Kaggle's storage denies access ({status}: {reason}); repeat the command, or allow {host}"
    if status == 401:
        return refused(find_credentials(), status)
    if status == 403 and competition:
        return (
            f"Kaggle denies access to {competition} (403: {reason}); accept the rules on {page}/rules\n"
            "and verify your phone on https://www.kaggle.com/settings; a misspelt data.kaggle gives 403 too"
        )
    if status == 404 and competition:
        return f"Kaggle has no competition {competition} (404); data.kaggle is the last part of its address"
    is_daily = re.search(r"\b(daily|day|today|tomorrow)\b", reason, re.IGNORECASE)
    midnight = "; Kaggle counts submissions a day from midnight UTC" if is_daily else ""
    return f"Kaggle refuses ({status}: {reason}){midnight}"


def _when(error: BaseException) -> str:
    seconds = retry_after(error)
    return f"in {round(seconds)} seconds" if seconds else "in a few minutes"


def _seconds_until(date: str) -> float:
    return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()


def _is_unreadable(error: BaseException) -> bool:
    """Whether an answer could not be read; the client's errors on unexpected JSON count, too."""
    from requests.exceptions import ContentDecodingError, InvalidJSONError

    if isinstance(error, (UnreadableAnswer, ContentDecodingError, InvalidJSONError)):
        return True
    kinds = (ValueError, KeyError, TypeError, AttributeError)
    return isinstance(error, kinds) and not isinstance(error, (OSError, UnicodeError, DistractedError))


def _cause(error: BaseException) -> object:
    """The error of urllib3 within one of requests."""
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", None) or inner
    return getattr(reason, "original_error", reason)  # a cut behind a proxy looks like the proxy's


def _without_address(error: BaseException) -> str:
    """An error's first line, without the address that requests adds: it may hold a signature."""
    return re.sub(r",? (for|with) url:.*", "", first_line(error))


def _hide(text: str) -> str:
    """The text without the secrets of the credentials."""
    with contextlib.suppress(CredentialsError):
        for secret in find_credentials().secrets:
            text = text.replace(secret, "***")
    return text
