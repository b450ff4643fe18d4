"""Why a request to a hub or server failed, in words: HTTP clients raise it in many forms."""

import errno
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from distracted.errors import first_line

OFFLINE = "HF_HUB_OFFLINE is set, or TRANSFORMERS_OFFLINE"
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_STATUSES = {
    401: "no such repository, or it needs a token that may read it (`hf auth login`, or HF_TOKEN=<token>); "
    "a wrong or expired token is refused for public ones, too",
    403: "access denied; accept the terms on its page and use a token that may read it (HF_TOKEN=<token>)",
    404: "no such repository or file; a mirror's address (HF_ENDPOINT) may be wrong, or its copy incomplete",
    407: "the proxy asks for a name and password: HTTPS_PROXY=http://<name>:<password>@<proxy>:<port>",
    429: "too many requests; use a token (HF_TOKEN=<token>), or try again later",
}
_CERTIFICATE = (
    "its certificate is not trusted; a company's own authority goes into SSL_CERT_FILE=<file.pem> "
    "(REQUESTS_CA_BUNDLE before huggingface_hub 1.0)"
)
_NO_SPACE_OR_RIGHTS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM}


@dataclass(frozen=True)
class Failure:
    """What an error of an HTTP client means.

    Attributes:
        reason: Why, in words, with the way out if there is one.
        of_server: Whether any other request to this server would fail, too.
        may_pass: Whether asking again at once may help.
        slow: Whether a connection was made and the answer did not come in time.
        retry_after: Seconds that the server asks to wait for, or 0.
    """

    reason: str
    of_server: bool = True
    may_pass: bool = False
    slow: bool = False
    retry_after: float = 0.0


def explain(error: BaseException, server: str) -> Failure:
    """Explain what huggingface_hub (over httpx or requests) or urllib raised.

    Args:
        server: The server that was asked, as a URL.
    """
    name, chain = urlsplit(server).netloc or server, list(_causes(error))
    types = {type(one).__name__ for one in chain}
    text = " ".join(str(one) for one in chain)
    if "OfflineModeIsEnabled" in types:
        return Failure(f"{name} cannot be reached ({OFFLINE})")
    if (status := _status(chain, text)) is not None:
        busy = status in _BUSY
        meaning = _STATUSES.get(status) or ("it is out of order; try again later" if status >= 500 else "")
        wait = _retry_after(chain)
        when = f", in {wait:.0f} s" if wait else ""
        refusal = f"{name} answers {status} ({meaning or first_line(error)}{when})"
        return Failure(refusal, busy or status == 407, busy, retry_after=wait)
    timed_out = any(isinstance(one, TimeoutError) for one in chain) or any("Timeout" in one for one in types)
    connecting = bool(types & {"ConnectTimeout", "ConnectTimeoutError", "URLError"})
    if timed_out and not connecting:
        more = "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT=<seconds> give it more time"
        return Failure(f"{name} does not answer in time; {more}", may_pass=True, slow=True)
    if line := _line_problem(chain, types, text, timed_out):
        return Failure(f"{name} cannot be reached ({line})")
    if "FileMetadataError" in types:
        reason = "what answers is no hub: a login page of the network, or a wrong HF_ENDPOINT"
        return Failure(f"{name} cannot be reached ({reason})")
    for one in chain:
        if isinstance(one, OSError) and (one.filename or one.errno in _NO_SPACE_OR_RIGHTS):
            where = f"{one.filename}: " if one.filename else ""
            reason = f"{where}{one.strerror}; HF_HOME (or TORCH_HOME) names another folder for the cache"
            return Failure(f"the download cannot be written ({reason})", of_server=False)
    return Failure(f"the download from {name} failed ({first_line(error)})", of_server=False, may_pass=True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(chain: Sequence[BaseException], text: str) -> int | None:
    """Status of the server's or the proxy's answer; None if there was none."""
    for error in chain:
        status = getattr(getattr(error, "response", None), "status_code", getattr(error, "code", None))
        if isinstance(status, int):
            return status
    refused = re.search(r"(?:Tunnel connection failed: |^|\s)(407|5\d\d) [A-Z]", text)  # by the proxy
    return int(refused[1]) if refused and ("Proxy" in text or "Tunnel" in text) else None


def _line_problem(chain: Sequence[BaseException], types: set[str], text: str, timed_out: bool) -> str:
    """Why no connection can be made, or ""."""
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return _CERTIFICATE
    if "X509" in text or any(type(one) is FileNotFoundError and not one.filename for one in chain):
        return f"the file that SSL_CERT_FILE names holds no certificates: {first_line(chain[-1])}"
    if any(isinstance(one, socket.gaierror) for one in chain):
        return "its name cannot be resolved: no network, no DNS, or HTTPS_PROXY names no proxy that there is"
    if any(isinstance(one, ConnectionRefusedError) for one in chain):
        return "the connection is refused; behind a proxy, HTTPS_PROXY=http://<proxy>:<port>"
    if timed_out:
        return "no connection in time: no network, or a firewall; behind a proxy, HTTPS_PROXY=http://<proxy>:<port>"
    if types & {"ConnectError", "ConnectionError", "ProxyError", "UnsupportedProtocol"}:
        return first_line(chain[-1])
    return ""


def _retry_after(chain: Sequence[BaseException]) -> float:
    """What a Retry-After header says, which holds seconds or a date; or 0."""
    for error in chain:
        headers = getattr(getattr(error, "response", error), "headers", None)
        value = headers.get("Retry-After", "").strip() if headers is not None else ""
        with suppress(ValueError, TypeError):
            if value.isdigit():
                return float(value)
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return 0.0
