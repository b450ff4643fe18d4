"""Sign in to Kaggle with the user's credentials.

The package `kagglesdk` makes the requests. The package `kaggle`, which brings it, is never imported: the
import signs in, without a time limit, and in each version differently.
"""

import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from requests import RequestException

from distracted.errors import CredentialsError
from distracted.kaggle_answers import UnreadableAnswer, refusal, refused, status_of
from distracted.kaggle_credentials import Credentials, find_credentials
from distracted.kaggle_requests import ask, bound

if TYPE_CHECKING:
    from kagglesdk import KaggleClient


def sign_in() -> "KaggleClient":
    """Return an authenticated client; as a context manager it closes its connections.

    Raises:
        CredentialsError: no credentials are set up, they are damaged or refused, or Kaggle does not answer;
            the message says in one or two lines what to do.
    """
    credentials = find_credentials()
    try:
        return _client(credentials)
    except CredentialsError:
        raise
    except Exception as error:  # those of requests and of the client have no common base
        if status_of(error) == 401:
            raise CredentialsError(refused(credentials, 401)) from error
        raise CredentialsError(f"cannot sign in to Kaggle: {refusal(error)}") from error


def _client(credentials: Credentials) -> "KaggleClient":
    from kagglesdk import KaggleClient  # slow to import

    if credentials.kind == "key":
        client = KaggleClient(username=credentials.username, password=credentials.secrets[0])
    elif credentials.kind == "login":
        client = KaggleClient(api_token=_token_of_login(credentials))
    else:
        client = KaggleClient(api_token=credentials.secrets[0])
    with contextlib.ExitStack() as stack:
        stack.enter_context(client)
        bound(client)
        if credentials.kind == "token":
            _check_token(client, credentials)
        stack.pop_all()
    return client


def _check_token(client: "KaggleClient", credentials: Credentials) -> None:
    """Ask Kaggle for the token's user; without one it is not valid."""
    from kagglesdk.security.types.oauth_service import IntrospectTokenRequest

    request = IntrospectTokenRequest()
    request.token = credentials.secrets[0]
    try:
        answer = ask(lambda: client.security.oauth_client.introspect_token(request), "signing in to Kaggle")
    except Exception as error:
        if (status := status_of(error)) in (400, 403, 404):  # Kaggle's ways to say so
            raise CredentialsError(refused(credentials, status)) from error
        raise
    if not (answer.active and answer.username):
        raise CredentialsError(refused(credentials))


def _token_of_login(credentials: Credentials) -> str:
    """The access token of `kaggle auth login`, renewed if it ends within minutes."""
    from kagglesdk import KaggleClient
    from kagglesdk.kaggle_creds import KaggleCredentials

    with KaggleClient() as client:
        bound(client)
        login = KaggleCredentials.load(client)

        def renew() -> str:
            try:
                login.refresh_access_token()
            except OSError as error:  # a token that cannot be saved is as good
                if isinstance(error, RequestException) or login.access_token_has_expired():
                    raise
            if not (token := login.get_access_token()):
                raise UnreadableAnswer("no token in it")
            return str(token)

        return _fresh_token(Path(credentials.source)) or ask(renew, "signing in to Kaggle")


def _fresh_token(file: Path) -> str:
    """The stored access token, unless it ends soon; the client would use it for 30 minutes more."""
    login = json.loads(file.read_text())
    with contextlib.suppress(KeyError, TypeError, ValueError):
        ends = datetime.fromisoformat(login["access_token_expiration"])
        if ends > datetime.now(UTC) + timedelta(minutes=5):
            return str(login["access_token"] or "")
    return ""
