"""Locks on pieces of work, in any folder that machines share.

A lock is a file that only one process can create; it names its owner, who renews its modification time. The
lock of a dead owner is taken over: at once if it was a process of this machine, else after `STALE_SECONDS`
without renewal. The file system has to support exclusive creation and renaming, nothing more.
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

#: How often an owner renews its lock, and after how long the owner on another machine counts as dead.
BEAT_SECONDS = 10.0
STALE_SECONDS = 90.0


@dataclass(frozen=True)
class Owner:
    """A process that holds a lock.

    Attributes:
        place: Where its process id is valid: this boot of the machine, this container.
        born: When the kernel started the process, if known: process ids are reused.
        since: When it took the lock, UTC, ISO 8601.
        token: Random; identifies this lock.
    """

    pid: Annotated[int, Field(ge=0, lt=2**31)]
    host: str
    place: str
    born: str
    since: str
    token: str

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname() and self.place == _place()

    @property
    def is_gone(self) -> bool:
        """Whether it is a dead process of this machine; nothing is known of other machines."""
        return self.is_here and not _is_alive(self.pid, self.born)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


_OWNER = TypeAdapter(Owner)


class Lock:
    """A lock that this process holds.

    Attributes:
        after: The dead owner that it was taken over from, or None.
        is_lost: Whether another process held it at the last renewal.
    """

    def __init__(self, path: Path, owner: Owner, after: Owner | None) -> None:
        self.path, self.after = path, after
        self.is_lost = False
        self._owner = owner

    def check(self) -> None:
        """Check that it is still ours, before something is written.

        Raises:
            LockError: another process has taken it over, since it was not renewed for too long.
        """
        holder = read_owner(self.path)
        if holder is None or holder.token != self._owner.token:
            by = f"by {holder}" if holder else "and released"
            raise LockError(
                f"{self.path}: taken over {by}: this process was not heard of for {STALE_SECONDS:.0f} s "
                "(suspended, or cut off from the folder); it writes nothing more, the other goes on"
            )

    def beat(self) -> None:
        """Renew it, if it is still ours."""
        holder = read_owner(self.path)
        self.is_lost = holder is not None and holder.token != self._owner.token
        if not self.is_lost:
            with suppress(OSError):  # the file server may come back; `check` will tell
                os.utime(self.path)

    def release(self) -> None:
        """Release it, unless another process has taken it over."""
        with suppress(LockError):
            self.check()
            self.path.unlink(missing_ok=True)


@contextmanager
def hold(
    path: Path, what: str, *, patience: float = 0.0, while_waiting: Callable[[], None] = lambda: None
) -> Iterator[Lock]:
    """Hold a lock during a block.

    Args:
        path: The lock file; its folder is created.
        what: Name of the work, for messages.
        patience: Seconds to wait for another holder.
        while_waiting: Called about every second while waiting; may raise, to give up.

    Raises:
        LockError: another process holds it; says which.
    """
    lock = _wait_for(path, what, patience, while_waiting)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            lock.beat()

    beating = threading.Thread(target=beat, daemon=True, name=f"lock of {what}")
    beating.start()
    try:
        yield lock
    finally:
        done.set()
        beating.join()
        lock.release()


def holder(path: Path) -> Owner | None:
    """The live owner of a lock; None if there is none."""
    owner = read_owner(path)
    return None if owner is None or _is_stale(path, owner) else owner


def this_process() -> Owner:
    """This process, with a new token."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    pid = os.getpid()
    return Owner(pid, socket.gethostname(), _place(), _born(pid), now, secrets.token_hex(8))


def _wait_for(path: Path, what: str, patience: float, while_waiting: Callable[[], None]) -> Lock:
    end = time.monotonic() + patience
    while True:
        try:
            return _acquire(path, what)
        except LockError:
            if time.monotonic() >= end:
                raise
        while_waiting()
        time.sleep(min(1.0, patience))


def _acquire(path: Path, what: str) -> Lock:
    owner, after = this_process(), None
    while not create_text(path, json.dumps(asdict(owner)) + "\n"):
        other = read_owner(path)
        if other is None and path.exists():  # not a lock file: written by hand, or damaged
            other = Owner(0, "?", "?", "", "?", "")
        if other is None:
            continue  # released just now
        if not _is_stale(path, other):
            if not other.token:
                raise LockError(
                    f"{what}: {path} is damaged and names nobody; remove it, or wait: it is taken over "
                    f"{STALE_SECONDS:.0f} s after it was written"
                )
            raise LockError(
                f"{what}: being made by {other}; wait for it, or stop it (its lock is {path}; "
                f"one that is not renewed for {STALE_SECONDS:.0f} s is taken over)"
            )
        if _remove(path, other):
            after = other
    return Lock(path, owner, after)


def _remove(path: Path, stale: Owner) -> bool:
    """Remove a stale owner's lock; False if another process did, which may hold it by now."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.rename(aside)  # only one process can
    except FileNotFoundError:
        return False
    taken = read_owner(aside)
    ours = taken is None or taken.token == stale.token
    if not ours:  # another process was faster, and this is its new lock: put it back
        try:
            os.link(aside, path)
        except FileExistsError:  # a third process has it by now
            pass
        except OSError:  # a file system without hard links
            if not path.exists():
                with suppress(FileNotFoundError):
                    aside.rename(path)
    aside.unlink(missing_ok=True)
    return ours


def _is_stale(path: Path, owner: Owner) -> bool:
    if owner.is_gone:
        return True
    if owner.is_here and owner.born:
        return False
    try:
        return _file_servers_now(path.parent) - path.stat().st_mtime > STALE_SECONDS
    except OSError:  # released just now, or a read-only folder
        return False


def _file_servers_now(folder: Path) -> float:
    """The time by the clock that stamps files in a folder: machines' clocks may differ."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def read_owner(path: Path) -> Owner | None:
    """The owner that a lock file names; None if the file is missing or damaged."""
    try:
        return _OWNER.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


def _is_alive(pid: int, born: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return not born or born == _born(pid)


def _born(pid: int) -> str:
    """When a process started, in the kernel's ticks since boot; "" if unknown.

    A zombie counts as another process.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: the process id and the host name have to do
        return ""
