"""Markdown tables for the benchmarks, to be copied into docs/."""

from collections.abc import Iterable

import console


def say_header(columns: Iterable[str]) -> None:
    """The table's first two lines."""
    columns = list(columns)
    say_row(columns)
    console.say("| --- " * len(columns) + "|")


def say_row(cells: Iterable[str]) -> None:
    console.say(f"| {' | '.join(cells)} |")
