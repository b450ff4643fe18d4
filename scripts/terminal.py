"""What commands print: lines, tables, progress."""

import errno
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from distracted.progress import Advance

_WIDTH = None if os.isatty(1) else 130  # a table in a log need not squeeze into 80 columns
out = Console(highlight=False, soft_wrap=True, width=_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)
_FIRST_COLUMN = 40  # characters that are not broken up
_LINE_EVERY = 20.0  # seconds between progress lines where there is no terminal


class _Lasting(io.FileIO):
    """A stream's file; drops what cannot be written: its reader, its terminal or a log's room is gone."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            is_result = self.fileno() == 1
            if is_result and error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return memoryview(data).nbytes


def outlast_readers() -> None:
    """Let the command go on when nobody reads its output any more.

    Ctrl-C also ends the `tee` that writes its log, a lost connection takes its terminal away, and a disk that
    is full takes no more of its log; the work is to be saved in spite of that.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            file = io.BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False))
            lines = stream.line_buffering
            setattr(sys, name, io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=lines))


def say(text: str) -> None:
    """One line of result."""
    out.print(Text(text))


def warn(text: str) -> None:
    """One line of warning."""
    err.print(Text(text, style="yellow"))


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


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{_rate(task.speed)} {task.fields['unit']}/s" if task.speed else "")


def _rate(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 1 else f"{speed:.2f}"


def can_redraw() -> bool:
    """Whether a bar or table can be drawn again in its place; a notebook shows colours, but not that."""
    return err.is_terminal and sys.stderr.isatty()


@contextmanager
def progress(label: str, /, *, total: int, unit: str) -> Iterator[Advance]:
    """A progress bar with rate and time left on a terminal; elsewhere a line every 20 seconds."""
    if out.quiet:
        yield lambda count=1, **fields: None
        return
    if not can_redraw():
        yield _lines(label, total, unit)
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


def _lines(label: str, total: int, unit: str) -> Advance:
    done, values, start = 0, "", time.monotonic()
    last = start

    def step(count: int = 1, /, **fields: float) -> None:
        nonlocal done, values, last
        done, values, now = done + count, _fields(fields) or values, time.monotonic()
        if now - last >= _LINE_EVERY:
            last, rate = now, done / (now - start)
            text = f"{label}: {done}/{total}, {_rate(rate)} {unit}/s, {(total - done) / rate:.0f} s left"
            err.print(Text(", ".join([text, values] if values else [text])))

    return step


def _fields(fields: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3g}" for name, value in fields.items())
