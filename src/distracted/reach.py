"""Whether a server answers; asked once, within seconds."""

import threading
from functools import cache

_SECONDS = 4.0


@cache
def answers(url: str) -> bool:
    """Whether anything at `url` answers within a few seconds; an error of the server is an answer."""
    answered = threading.Event()

    def ask() -> None:
        import requests  # slow to import

        try:
            requests.head(url, timeout=_SECONDS, allow_redirects=False)
            answered.set()
        except requests.RequestException:
            pass

    thread = threading.Thread(target=ask, daemon=True)  # a DNS lookup can outlast any timeout
    thread.start()
    thread.join(_SECONDS)
    return answered.is_set()
