"""Sends recordings with the client's own command: several in a call, and one by one those that failed.

One that cannot be read blocks its whole call, and the client's messages do not always name it. A call on one
recording blames the right one.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from distracted.tracking.client import refuse_run, rename_run, run_id
from distracted.tracking.client_log import find_losses, is_gone
from distracted.tracking.online import DELETED, OF_ONE_RUN, server_answers
from distracted.tracking.recordings import (
    folder_of,
    has_mark,
    is_redirected,
    mark_sent,
    mark_unsent,
    redirect,
    run_of,
    set_aside,
)
from distracted.tracking.transaction_log import find_damage

_AT_ONCE = 8  # recordings in a call
_SECONDS = 180.0  # for a call, and more for large ones
_BYTES_A_SECOND = 20_000.0  # of a slow line
FAILURES = 3  # of the server in a row, after which nothing more is tried
#: Left to itself, the client retries for hours, even where the service refuses a run for good.
_ENVIRONMENT = (
    "WANDB__GRAPHQL_RETRY_MAX=3",
    "WANDB__FILE_STREAM_RETRY_MAX=4",
    "WANDB__FILE_TRANSFER_RETRY_MAX=4",
    "WANDB_SILENT=false",  # its messages are read
    "WANDB_QUIET=false",
)
NOT_TRIED = "not tried, since the server fails"
WAY_OUT = (
    "this run was deleted on W&B, which refuses its id for good; restore it there (possible for some days) "
    "and repeat with FORCE=1, which else sends it as a new run"
)


@dataclass
class Sent:
    """The outcome for some recordings.

    Attributes:
        whole: Sent completely.
        partly: Sent as far as they can be, with what is missing. Damaged ones are set aside.
        problems: Not sent, or not completely, with the reason.
    """

    whole: list[Path] = field(default_factory=list)
    partly: dict[Path, str] = field(default_factory=dict)
    problems: dict[Path, str] = field(default_factory=dict)


class _Failure(NamedTuple):
    text: str
    by_server: bool
    timed_out: bool


def send(
    every: Sequence[Path],
    *,
    project: str | None,
    force: bool,
    step: Callable[[int], None] = lambda count: None,
) -> Sent:
    """Send recordings, in order; stop once the server does not answer any more.

    Args:
        project: Send them to this project, whatever they were recorded for.
        force: Send those of a run that was deleted on W&B as a new run.
        step: Called with the number of recordings that are dealt with.
    """
    sent, queue, in_a_row = Sent(), deque(_batches(every)), 0
    while queue:
        batch = queue.popleft()
        blocked = {run_of(path) for path in sent.problems}  # what follows would take the failed one's steps
        if late := [path for path in batch if run_of(path) in blocked]:
            sent.problems |= dict.fromkeys(late, "not tried, since an earlier part of its run is not sent")
            batch = [path for path in batch if path not in late]
        failures = _call(batch, project, sent) if batch else {}
        if len(batch) > 1:
            queue.extendleft([path] for path in reversed(batch) if path in failures)
        elif failures:
            queue.extendleft(reversed(_judge(batch[0], failures[batch[0]], sent, force)))
            in_a_row = in_a_row + 1 if batch[0] in sent.problems and failures[batch[0]].by_server else 0
        step(len(batch) + len(late) - (len(failures) if len(batch) > 1 else 0))
        if failures and (in_a_row == FAILURES or _server_fails(failures)):
            rest = [path for later in queue for path in later]
            sent.problems |= dict.fromkeys(rest, NOT_TRIED)
            step(len(rest))
            break
    return sent


def renew(folder: Path) -> list[Path]:
    """Give a run that was deleted on W&B a new id; returns its recordings, which go there."""
    old = run_id(folder)
    return redirect(folder, old=old, new=rename_run(folder, old))


def _batches(every: Sequence[Path]) -> Iterator[list[Path]]:
    """Batches of recordings; one that goes to another run than its own is alone."""
    batch: list[Path] = []
    for path in every:
        if batch and (len(batch) == _AT_ONCE or is_redirected(path) or is_redirected(batch[-1])):
            yield batch
            batch = []
        batch.append(path)
    if batch:
        yield batch


def _server_fails(failures: dict[Path, _Failure]) -> bool:
    """Whether the server cannot be used at present."""
    if any(failure.timed_out for failure in failures.values()):
        return True
    if not any(failure.by_server for failure in failures.values()):
        return False
    return not server_answers()


def _judge(recording: Path, failure: _Failure, sent: Sent, force: bool) -> list[list[Path]]:
    """Say why a recording failed in a call of its own; returns recordings to send instead."""
    if DELETED in failure.text:
        folder, old = folder_of(recording), run_of(recording)
        if force:
            return [[path] for path in redirect(folder, old=old, new=rename_run(folder, old))]
        refuse_run(folder, old)
        sent.problems[recording] = WAY_OUT
        return []
    num_records, damage = (0, "") if failure.by_server else find_damage(next(recording.glob("*.wandb")))
    if damage and num_records:
        sent.partly[recording] = f"{damage}; set aside"
        set_aside(recording, f"sent up to its damage: {damage}")
    elif damage:
        sent.problems[recording] = f"cannot be read: {damage}; set aside"
        set_aside(recording, f"cannot be read: {damage}")
    else:
        sent.problems[recording] = failure.text
    return []


def _call(batch: Sequence[Path], project: str | None, sent: Sent) -> dict[Path, _Failure]:
    """Send recordings in one call; returns those that failed."""
    for recording in batch:  # before the call, which may be stopped once the client has marked some
        mark_unsent(recording)
    options = [] if project is None else ["--project", project]
    if is_redirected(batch[0]):
        options += ["--id", run_of(batch[0])]
    size = sum(path.stat().st_size for one in batch for path in one.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as logs:
        environment = [*_ENVIRONMENT, f"WANDB_DIR={logs}"]
        # Not the service of this process, which would go on sending after the command was stopped.
        without = [f"-uWANDB_{name.upper()}" for name in ("service", "program", "host", *OF_ONE_RUN)]
        command = ["env", *without, *environment, sys.executable, "-m", "wandb", "sync"]
        command += ["--include-online", *options, *(str(path.absolute()) for path in batch)]
        output, timed_out = _run(command, seconds=_SECONDS + size / _BYTES_A_SECOND)
        losses: dict[str, str] = {}
        for log in sorted(Path(logs).rglob("debug-sync*.log")):
            losses |= {Path(path).parent.name: text for path, text in find_losses(log).items()}
    failures = {}
    for recording in batch:
        loss = losses.get(recording.name, "")
        for_old_id = is_redirected(recording) and "rtifact" in loss  # the client names the old run in them
        if has_mark(recording) and (not loss or is_gone(loss) or for_old_id):
            mark_sent(recording)
            if loss:
                sent.partly[recording] = f"a table or file of it is lost: {loss}"
            else:
                sent.whole.append(recording)
        else:
            mark_unsent(recording)
            failures[recording] = _Failure(loss or output, bool(loss) or timed_out, timed_out)
    return failures


def _run(command: Sequence[str], *, seconds: float) -> tuple[str, bool]:
    """Run the client's command; returns its error messages, and whether it was stopped for its time."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            lines = process.communicate(timeout=seconds)[0].splitlines()
        except subprocess.TimeoutExpired:
            return f"no end after {seconds:.0f} s", True
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the service that it has started
            process.wait()
    errors = [line.partition(" ERROR ")[2] for line in lines if " ERROR " in line]
    return " ".join(errors) or next(iter(lines[-1:]), "wandb sync printed nothing"), False
