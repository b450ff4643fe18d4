"""Lock files, also on folders that several machines share.

A lock is a file that only one process can create; it names its owner, which renews the file's modification
time. A dead owner's lock is taken over: at once if the owner was a process of this machine, otherwise after
`STALE_SECONDS` without renewal. The file system must support exclusive creation and renaming, nothing else.
"""

import json
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from distracted.errors import LockError
from distracted.files import create_text

#: Seconds between renewals, and seconds without one after which an owner on another machine counts as dead.
BEAT_SECONDS = 10.0
STALE_SECONDS = 90.0


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock, as the lock file stores it.

    Attributes:
        place: Identifies the boot and the container in which `pid` is valid; "" if unknown.
        born: Start time of the process, since process ids are reused; "" if unknown.
        since: When the lock was taken, UTC, ISO 8601.
        token: Random; identifies this lock.
    """

    pid: Annotated[int, Field(ge=0, lt=2**31)]
    host: str
    place: str
    born: str
    since: str
    token: str

    @property
    def is_local(self) -> bool:
        return self.host == socket.gethostname() and self.place == _place()

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended; False for another machine's, of which nothing is known."""
        return self.is_local and not is_alive(self.pid, self.born)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


_ENDED = "ended"
_OWNER = TypeAdapter(Owner)
_UNREADABLE = Owner(0, "?", "?", "", "?", "")  # the owner of a damaged or hand-written lock file


class Lock:
    """A lock that this process holds.

    Attributes:
        after: The dead owner from whom the lock was taken over, or None.
        is_lost: Whether another process held the lock at the last heartbeat.
    """

    def __init__(self, path: Path, owner: Owner, after: Owner | None) -> None:
        self.path, self.after, self._owner = path, after, owner
        self.is_lost = False

    def check(self) -> None:
        """Check, before writing, that this process still holds the lock.

        Raises:
            LockError: another process has taken it over, because this one did not renew it in time.
        """
        holder = read_owner(self.path)
        if holder is None or holder.token != self._owner.token:
            by = f"by {holder}" if holder else "and released since"
            raise LockError(
                f"{self.path}: taken over {by}: this process did not renew it for {STALE_SECONDS:.0f} s "
                "(suspended, or cut off from the folder); it writes nothing more, the other process continues"
            )

    def beat(self) -> None:
        """Renew the lock, if this process still holds it."""
        holder = read_owner(self.path)
        self.is_lost = holder is not None and holder.token != self._owner.token
        if not self.is_lost:
            with suppress(OSError):  # the file server may come back; `check` tells
                os.utime(self.path)

    def release(self) -> None:
        """Release the lock, unless another process has taken it over."""
        with suppress(LockError):
            self.check()
            self.path.unlink(missing_ok=True)


@contextmanager
def hold(
    path: Path, work: str, *, patience: float = 0.0, while_waiting: Callable[[], None] = lambda: None
) -> Iterator[Lock]:
    """Hold a lock during a block.

    Args:
        path: The lock file; its folder is created.
        work: The work to be done, for messages.
        patience: Seconds to wait for another holder.
        while_waiting: Called about every second of waiting; may raise, to give up.

    Raises:
        LockError: another process holds the lock; the message names it.
    """
    lock = _wait_for(path, work, patience, while_waiting)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            lock.beat()

    heartbeat = threading.Thread(target=beat, daemon=True, name=f"lock of {work}")
    heartbeat.start()
    try:
        yield lock
    finally:
        done.set()
        heartbeat.join()
        lock.release()


def holder(path: Path) -> Owner | None:
    """The owner of a lock, unless it is dead; None if nobody holds the lock."""
    owner = read_owner(path)
    return None if owner is None or _is_stale(path, owner) else owner


def this_process() -> Owner:
    """This process as an owner, with a new token."""
    now, pid = datetime.now(UTC).isoformat(timespec="seconds"), os.getpid()
    return Owner(pid, socket.gethostname(), _place(), born_at(pid), now, secrets.token_hex(8))


def _wait_for(path: Path, work: str, patience: float, while_waiting: Callable[[], None]) -> Lock:
    end = time.monotonic() + patience
    while True:
        try:
            return _acquire(path, work)
        except LockError:
            if time.monotonic() >= end:
                raise
        while_waiting()
        time.sleep(min(1.0, patience))


def _acquire(path: Path, work: str) -> Lock:
    owner, after = this_process(), None
    while not create_text(path, json.dumps(asdict(owner)) + "\n"):
        current = read_owner(path)
        if current is None and not path.exists():
            continue  # released just now
        current = current or _UNREADABLE
        if not _is_stale(path, current):
            raise LockError(f"{work}: {_refusal(path, current)}")
        if _remove(path, current):
            after = current
    return Lock(path, owner, after)


def _refusal(path: Path, owner: Owner) -> str:
    if not owner.token:
        return (
            f"{path} is damaged and names nobody; remove it, or wait: it is taken over {STALE_SECONDS:.0f} s "
            "after it was written"
        )
    return (
        f"locked by {owner}; wait for it, or stop it (its lock {path} is taken over after "
        f"{STALE_SECONDS:.0f} s without renewal)"
    )


def _remove(path: Path, stale: Owner) -> bool:
    """Remove a stale owner's lock; False if another process was faster and may hold the lock now."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.rename(aside)  # only one process can
    except FileNotFoundError:
        return False
    removed = read_owner(aside)
    is_stale = removed is None or removed.token == stale.token
    if not is_stale:  # another process was faster and this is its new lock: put it back
        try:
            os.link(aside, path)
        except FileExistsError:  # a third process holds it now
            pass
        except OSError:  # a file system without hard links
            if not path.exists():
                with suppress(FileNotFoundError):
                    aside.rename(path)
    aside.unlink(missing_ok=True)
    return is_stale


def _is_stale(path: Path, owner: Owner) -> bool:
    if owner.is_gone:
        return True
    if owner.is_local and owner.born:
        return False
    try:
        return _server_time(path.parent) - path.stat().st_mtime > STALE_SECONDS
    except OSError:  # released just now, or the folder is read-only
        return False


def _server_time(folder: Path) -> float:
    """The time by the clock that stamps a folder's files; it may differ from this machine's clock."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def read_owner(path: Path) -> Owner | None:
    """The owner that a lock file names; None if the file is missing or damaged."""
    try:
        return _OWNER.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


def is_alive(pid: int, born: str) -> bool:
    """Whether the process still runs that had this number and started then."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return not born or (born == born_at(pid) and born != _ENDED)


def born_at(pid: int) -> str:
    """When a process started, in clock ticks since boot; "" if unknown, "ended" for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return _ENDED if fields[0] in "ZX" else fields[19]


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: process id and host name must suffice
        return ""
