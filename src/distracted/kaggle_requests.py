"""Requests to Kaggle with limits in time, retried after transient failures.

Kaggle's client sets no time limit, and reads an error page as if it were an answer.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from requests.adapters import HTTPAdapter

from distracted.kaggle_answers import check_is_object, is_transient, raise_for, refusal, retry_after

if TYPE_CHECKING:
    from kagglesdk import KaggleClient

_log = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds to connect and, at most, between two pieces of an answer.
TIMEOUT = (15.0, 40.0)
#: Seconds for a whole request, including the look-up of the address, which has no limit of its own.
LIMIT = 90.0
#: Seconds during which a request is tried again.
PATIENCE = 60.0
#: Seconds before the second try; each further wait is twice as long, up to the longest.
FIRST_WAIT, LONGEST_WAIT = 2.0, 30.0
#: A system call does not notice a signal that came a moment before it, so no wait is longer than this.
_GLANCE = 0.2


class Waits:
    """The waits between the tries of one request, until `patience` seconds have passed."""

    def __init__(self, patience: float | None = None) -> None:
        self._end = time.monotonic() + (PATIENCE if patience is None else patience)
        self._next = FIRST_WAIT

    def wait(self, error: Exception, work: str) -> None:
        """Wait until a failed request should be tried again, as long as Kaggle asks if it does.

        Raises:
            The error, if it is not transient or patience ends before.
        """
        seconds = retry_after(error) or self._next
        if not is_transient(error) or time.monotonic() + seconds > self._end:
            raise error
        reason = refusal(error).partition(";")[0]
        _log.warning("%s: %s; trying again in %.0f s", work, reason, max(1, seconds))
        self._next = min(2 * self._next, LONGEST_WAIT)
        pause(seconds)


def ask(call: Callable[[], T], work: str, *, more: float = 0.0, patience: float | None = None) -> T:
    """Make a request that may be repeated; after transient failures it is.

    Args:
        work: What the request is for, for messages.
        more: Seconds that each try may take beyond `LIMIT`.
        patience: Seconds in which to try again; default `PATIENCE`.

    Raises:
        The last error.
    """
    waits = Waits(patience)
    while True:
        try:
            return within(call, more=more)
        except Exception as error:  # the client's errors have no common base
            waits.wait(error, work)


def within(call: Callable[[], T], *, more: float = 0.0) -> T:
    """Return what `call` returns, or raise ReadTimeout after `LIMIT` seconds and `more`.

    The call has a thread of its own, so that a signal ends the wait at once.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="Kaggle").start()
    end = time.monotonic() + LIMIT + more
    while not wait([future], timeout=_GLANCE).done:
        if time.monotonic() > end:
            raise requests.ReadTimeout("no complete answer in time")
    return future.result()


def pause(seconds: float) -> None:
    """Sleep; a signal ends it at once, or within a glance if it comes just before."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _GLANCE))


def bound(client: "KaggleClient") -> None:
    """Bound the requests of an opened client in time, and check its answers."""
    _mount(session_of(client))


def session_of(client: "KaggleClient") -> requests.Session:
    """The session of an opened client; all its requests have the session's headers."""
    session: requests.Session = client.http_client()._session
    return session


def storage_session() -> requests.Session:
    """A session with the same limits and without credentials; its answers must be streamed."""
    session = requests.Session()
    _mount(session)
    return session


def _mount(session: requests.Session) -> None:
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Transport())
    session.auth = session.auth or _no_login
    session.rebuild_auth = partial(_strip_login, session)  # type: ignore[method-assign]


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from taking a login of ~/.netrc, whose default entry is for every host."""
    return request


def _strip_login(
    session: requests.Session, request: requests.PreparedRequest, response: requests.Response
) -> None:
    """Send a redirect to another host without a login, also without one of ~/.netrc.

    The storage refuses a login beside the signature in its address.
    """
    if session.should_strip_auth(str(response.request.url), str(request.url)):
        request.headers.pop("Authorization", None)


class _Transport(HTTPAdapter):
    """A transport with time limits that raises refusals as errors and closes their connections.

    An answer that is not streamed has to be a JSON object.
    """

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        options["timeout"] = options.get("timeout") or TIMEOUT
        response = super().send(request, *args, **options)
        try:
            raise_for(response)
            if response.is_redirect:
                response.content  # noqa: B018, reads it: the next address may be none
            elif not options.get("stream"):
                check_is_object(response)
        except BaseException:
            response.close()
            raise
        return response
