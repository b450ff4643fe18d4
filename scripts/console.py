"""Shared by all commands: options, messages, progress on the terminal, errors in one or two lines.

Commands import heavy packages inside their functions, so that `--help` answers at once.
"""

import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from distracted.errors import ConfigError, DistractedError, first_line
from distracted.progress import Advance
from distracted.schema import RuntimeConfig
from distracted.stopping import RESUMABLE, Stop, Stopped

if TYPE_CHECKING:
    from distracted.postprocess.derived import Gain
    from distracted.predictions.store import Store

_WIDTH = None if sys.stdout.isatty() else 130  # a table in a log need not squeeze into 80 columns
out = Console(highlight=False, soft_wrap=True, width=_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Data = Annotated[
    str, typer.Option("--data", help="A name in configs/data, or a folder (with a slash in it).")
]
Set = Annotated[str, typer.Option("--set", help="Overrides, e.g. 'training.seed=1 model.image_size=128'.")]
Root = Annotated[
    Path, typer.Option("--root", help="Where input/, oof/ and the other folders are.", hidden=True)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Force = Annotated[bool, typer.Option("--force", help="Redo what is done already.")]
TimeLimit = Annotated[
    str, typer.Option("--time-limit", help="Stop in time, such as 8h30m; the same command goes on.")
]
Leaky = Annotated[
    bool, typer.Option("--leaky", help="Watch the scored fold while training, or blend such runs; recorded.")
]

HERE = Path()
#: Asked by SIGTERM, SIGINT and the time limit.
stop = Stop()
#: Set while a live table is drawn, which shows a stop by itself.
live = threading.Event()
_SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGALRM: "the time limit"}
#: Names of the scores for readers, log loss first.
SCORES = {"log_loss": "log loss", "accuracy": "accuracy", "macro_f1": "macro F1", "auc": "AUC"}
_LONGEST = 10**8  # seconds of a time limit
_FIRST_COLUMN = 40  # characters that are not broken up
_LINE_EVERY = 20.0  # seconds between progress lines where there is no terminal


def run(main: Callable[..., None]) -> None:
    """Run a command; errors that a user can mend are printed in one or two lines, with exit code 1."""

    @wraps(main)
    def command(*args: Any, **kwargs: Any) -> None:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Messages()], force=True)
        logging.getLogger("distracted").setLevel(logging.INFO)
        os.environ.setdefault("WANDB_DATA_DIR", str(Path("runs/.wandb").absolute()))  # not the home folder
        try:
            with _listening():
                main(*args, **kwargs)
        except Stopped as error:
            again = "the same command goes on"
            if kwargs.get("force"):
                again = "without FORCE=1 the same command goes on with what it had begun"
            err.print(Text(f"stopped ({error}); what was done is kept, and {again}", style="bold red"))
            raise typer.Exit(RESUMABLE) from None
        except (DistractedError, OSError) as error:
            if kwargs.get("debug"):
                raise
            err.print(Text(f"error: {_describe(error)}", style="bold red"))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            err.print(Text("interrupted; finished folds are kept", style="bold red"))
            raise typer.Exit(130) from None

    typer.run(command)


@contextmanager
def _listening() -> Iterator[None]:
    """Within this block a signal or the time limit asks to stop; a second Ctrl-C exits at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        name = _SIGNALS[signal.Signals(number)]
        if not live.is_set():
            os.write(2, f"{name}: stopping at the next good moment; Ctrl-C leaves at once\n".encode())
        stop.ask(name)

    stop.reason = ""
    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def limit_time(text: str) -> None:
    """Ask to stop after TIME_LIMIT, such as 8h30m; "" is no limit."""
    if seconds := time_limit(text):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def time_limit(text: str) -> int:
    """TIME_LIMIT in seconds; 0 is none."""
    if not text:
        return 0
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    seconds = (
        0
        if match is None
        else sum(int(number or 0) * unit for number, unit in zip(match.groups(), (3600, 60, 1), strict=True))
    )
    if not 0 < seconds <= _LONGEST:
        raise ConfigError(f"TIME_LIMIT={text!r}: expected hours, minutes, seconds, such as 8h30m or 90s")
    return seconds


def be_quiet() -> None:
    """Print only errors: the team's lead prints everything else."""
    logging.getLogger("distracted").setLevel(logging.ERROR)
    out.quiet = True


def stop_with(parent: int) -> None:
    """Ask to stop when the parent process has ended; 0: no parent."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent:
        threading.Thread(target=look, daemon=True, name="parent").start()


def _describe(error: DistractedError | OSError) -> str:
    if isinstance(error, DistractedError):
        return str(error)
    name = error.filename2 or error.filename  # of a failed rename the target
    where = f"{name}: " if name else ""  # a full disk, or no right to write
    return f"{where}{error.strerror or first_line(error)}; finished work is kept"


class _Messages(logging.Handler):
    """The library's messages as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else ""
        err.print(Text(record.getMessage(), style=style))


def overrides(text: str) -> list[str]:
    """SET="..." as separate settings; quotes, braces and brackets keep values with spaces together."""
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"SET={text!r}: {error}") from error
    settings: list[str] = []
    depth = 0
    for part in parts:
        if depth > 0:
            settings[-1] += f" {part}"
        else:
            settings.append(part)
        depth += sum(part.count(bracket) for bracket in "{[") - sum(part.count(bracket) for bracket in "}]")
    return settings


def track(store: "Store", runtime: RuntimeConfig, *names: str) -> None:
    """Log finished runs to W&B, if it is on."""
    if runtime.tracking == "none":
        return
    from distracted.tracking.log import track_run

    for name in names:
        track_run(store, name, runtime)


def say(text: str) -> None:
    """One line of result."""
    out.print(Text(text))


def warn(text: str) -> None:
    """One line of warning."""
    err.print(Text(text, style="yellow"))


def run_names(runs: str, name: str) -> list[str]:
    """RUNS="..." as names, each once; NAME= is allowed for a single run."""
    names = list(dict.fromkeys(runs.split()))
    if not names:
        raise ConfigError("RUNS= is missing: one or more complete runs; make status lists them")
    if name and len(names) > 1:
        raise ConfigError(f"NAME={name}: one name for {len(names)} runs; leave it out, or name one run")
    return names


def gains(title: str, rows: Sequence[tuple[str, str, "Gain", str]]) -> None:
    """Print what a step gained: for each run its name, the new run's name, the gain, and how."""
    columns = ["run", "pooled OOF", "made", "pooled OOF", "difference (standard error)", "how"]
    cells = []
    for run, made, gain, how in rows:
        difference = f"{gain.difference:+.4f} ({gain.error:.4f})"
        cells.append([run, f"{gain.before:.4f}", made, f"{gain.after:.4f}", difference, how])
    table(title, columns, cells)


def scores(values: Mapping[str, float]) -> str:
    """Scores by name in one line, log loss first."""
    shown = {key.removeprefix("valid/"): value for key, value in values.items()}
    return ", ".join(f"{name} {shown[key]:.4f}" for key, name in SCORES.items() if key in shown)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{_rate(task.speed)} {task.fields['unit']}/s" if task.speed else "")


def _rate(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 1 else f"{speed:.2f}"


@contextmanager
def progress(label: str, /, *, total: int, unit: str) -> Iterator[Advance]:
    """A progress bar with rate and time left on a terminal; elsewhere a line every 20 seconds."""
    if not err.is_terminal:
        yield _Lines(label, total, unit)
        return
    whole = Column(no_wrap=True, min_width=5)
    gives_way = Column(no_wrap=True, overflow="ellipsis")  # on a narrow terminal
    columns = (
        TextColumn("{task.description}", table_column=gives_way),
        BarColumn(8),
        TextColumn("{task.completed}/{task.total}", table_column=whole),
        _Rate(table_column=whole),
        TimeRemainingColumn(compact=True, table_column=whole),
        TextColumn("{task.fields[values]}", table_column=gives_way),
    )
    with Progress(*columns, console=err, transient=True, speed_estimate_period=20) as bar:
        task = bar.add_task(label, total=total, unit=unit, values="")

        def step(count: int = 1, /, **fields: float) -> None:
            bar.update(task, advance=count)
            if fields:
                bar.update(task, values=_fields(fields))

        yield step


class _Lines:
    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done, self._start = 0, time.monotonic()
        self._last = self._start
        self._values = ""

    def __call__(self, count: int = 1, /, **fields: float) -> None:
        self._done += count
        self._values = _fields(fields) or self._values
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY:
            self._last = now
            rate = self._done / (now - self._start)
            left = (self._total - self._done) / rate
            done = f"{self._done}/{self._total}, {_rate(rate)} {self._unit}/s"
            text = f"{self._label}: {done}, {left:.0f} s left"
            err.print(Text(text + (f", {self._values}" if self._values else "")))


def _fields(fields: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3g}" for name, value in fields.items())


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with whole cells; numbers are right-aligned, except in the first column.

    The first column names the row and is the last to be broken up.
    """
    shown = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        numeric = all(row[number][:1] in "-0123456789." for row in rows)
        justify: Literal["left", "right"] = "right" if number and numeric else "left"
        least = 0 if number else min(_FIRST_COLUMN, max((len(row[0]) for row in rows), default=0))
        shown.add_column(column, justify=justify, overflow="fold", min_width=least)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    out.print(shown)
