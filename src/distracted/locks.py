"""A lock that a process holds on a piece of work, on any folder that machines share.

A file that only one process can create says who it is; while its owner lives its time is renewed. The lock of
an owner that is no more is taken over: at once where it was a process of this machine, else when its time has
not been renewed for `STALE_SECONDS`. Nothing but exclusive creation and renaming is asked of the file system.
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

#: How often an owner renews its lock's time, and after how long another machine's counts as dead.
BEAT_SECONDS = 10.0
STALE_SECONDS = 90.0


@dataclass(frozen=True)
class Owner:
    """A process that holds a lock.

    Attributes:
        place: Where its number means anything: the machine, its last start, the container.
        born: When the kernel started it, where that can be known: numbers of processes come again.
        since: UTC, ISO 8601.
        token: Random, of this one lock.
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
        """Whether it was a process of this machine and is no more; of another machine's nothing is known."""
        return self.is_here and not _is_alive(self.pid, self.born)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


_OWNER = TypeAdapter(Owner)


class Lock:
    """A lock that this process holds.

    Attributes:
        after: The owner that was gone and from whom it was taken over, or None.
        is_lost: Whether it was another's when its time was last to be renewed.
    """

    def __init__(self, path: Path, owner: Owner, after: Owner | None) -> None:
        self.path, self.after = path, after
        self.is_lost = False
        self._owner = owner

    def check(self) -> None:
        """Make sure that it is still ours, before something is written.

        Raises:
            LockError: another process has taken it over, since this one was not heard of for too long.
        """
        holder = read_owner(self.path)
        if holder is None or holder.token != self._owner.token:
            by = f"by {holder}" if holder else "and given back"
            raise LockError(
                f"{self.path}: taken over {by}: this process was not heard of for {STALE_SECONDS:.0f} s "
                "(suspended, or cut off from the folder); it writes nothing more, the other goes on"
            )

    def beat(self) -> None:
        """Renew its time, where it is still ours."""
        holder = read_owner(self.path)
        self.is_lost = holder is not None and holder.token != self._owner.token
        if not self.is_lost:
            with suppress(OSError):  # a file server that is away may come back; `check` finds out
                os.utime(self.path)

    def release(self) -> None:
        """Give it back, unless another has taken it over."""
        with suppress(LockError):
            self.check()
            self.path.unlink(missing_ok=True)


@contextmanager
def hold(
    path: Path, what: str, *, patience: float = 0.0, while_waiting: Callable[[], None] = lambda: None
) -> Iterator[Lock]:
    """Hold a lock for the length of a block.

    Args:
        path: The lock's file; its folder is made.
        what: The work, for the message.
        patience: Seconds to wait for another that holds it.
        while_waiting: Called every second or so meanwhile; may raise, to give up.

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
    """Who holds a lock and is not known to be gone; None where nobody does."""
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
        found = read_owner(path)
        if found is None and path.exists():  # not a lock's file: written by hand, or damaged
            found = Owner(0, "?", "?", "", "?", "")
        if found is None:
            continue  # given back just now
        if not _is_stale(path, found):
            if not found.token:
                raise LockError(
                    f"{what}: {path} is damaged and names nobody; remove it, or wait: it is taken over "
                    f"{STALE_SECONDS:.0f} s after it was written"
                )
            raise LockError(
                f"{what}: being made by {found}; wait for it, or stop it (its lock is {path}; "
                f"one that is not renewed for {STALE_SECONDS:.0f} s is taken over)"
            )
        if _remove(path, found):
            after = found
    return Lock(path, owner, after)


def _remove(path: Path, stale: Owner) -> bool:
    """Take a stale owner's lock away; False where another process did, which may hold it by now."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.rename(aside)  # only one process can
    except FileNotFoundError:
        return False
    taken = read_owner(aside)
    ours = taken is None or taken.token == stale.token
    if not ours:  # somebody was faster, and this is that one's new lock: give it back
        try:
            os.link(aside, path)
        except FileExistsError:  # a third one has it by now
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
    except OSError:  # given back just now, or the folder is not ours to write
        return False


def _file_servers_now(folder: Path) -> float:
    """The time by the clock that stamps files in a folder: another machine's clock may go wrong."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def read_owner(path: Path) -> Owner | None:
    """The process that a file names; None where there is no such file, or it is damaged."""
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
    """When a process started, in the kernel's ticks since the machine did; "" where that is not known.

    A process that ended and that its parent has not noticed yet counts as another.
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
    except OSError:  # not Linux: a process's number and the machine's name have to do
        return ""
