"""Check whether a server answers: once per process, within seconds."""

import threading
from functools import cache

_SECONDS = 4.0


@cache
def answers(url: str) -> bool:
    """Whether `url` answers within a few seconds; an HTTP error counts as an answer."""
    answered = threading.Event()

    def ask() -> None:
        import requests  # slow to import

        try:
            requests.head(url, timeout=_SECONDS, allow_redirects=False)
            answered.set()
        except requests.RequestException:
            pass

    thread = threading.Thread(target=ask, daemon=True)  # requests' timeout does not cover the DNS lookup
    thread.start()
    thread.join(_SECONDS)
    return answered.is_set()
