"""What a part of `make gpu-check` saw: rows of its table, and their verdicts."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: `measured` is a figure without an expectation.
Verdict = Literal["ok", "FAILED", "skipped", "measured"]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        value: What was measured or seen; of a skipped row, the reason.
        figures: The same as numbers, for the JSON.
    """

    what: str
    value: str
    expected: str = ""
    verdict: Verdict = "measured"
    figures: dict[str, Any] = field(default_factory=dict)


def judged(what: str, value: str, expected: str, is_right: bool, **figures: Any) -> Row:
    """A row with an expectation."""
    return Row(what, value, expected, "ok" if is_right else "FAILED", figures)


def measured(what: str, value: str, **figures: Any) -> Row:
    """A row without an expectation."""
    return Row(what, value, figures=figures)


def skipped(what: str, reason: str) -> Row:
    """A row of something that this machine cannot show."""
    return Row(what, reason, verdict="skipped")


def rates(what: str, by_name: dict[str, float], *, unit: str = "img/s") -> Row:
    """A row of several rates, such as "16: 210, 64: 800 img/s"."""
    text = ", ".join(f"{name}: {rate:.4g}" for name, rate in by_name.items())
    return measured(what, f"{text} {unit}", rates=by_name)


def verdict_of(rows: Iterable[Row]) -> Verdict:
    """A part's verdict: failed if any row is; skipped if all are; measured if none was judged."""
    verdicts = {row.verdict for row in rows}
    for verdict in ("FAILED", "ok", "measured"):
        if verdict in verdicts:
            return verdict
    return "skipped"


def as_json(rows: Iterable[Row], *, seconds: float) -> dict[str, Any]:
    """A part's verdict, seconds and rows, for the JSON."""
    rows = list(rows)
    return {"verdict": verdict_of(rows), "seconds": round(seconds, 1), "rows": [asdict(row) for row in rows]}


def cells(part: str, rows: Iterable[Row]) -> Iterator[list[str]]:
    """A part's rows for the table; the part's name stands in its first row only."""
    for number, row in enumerate(rows):
        yield [part if number == 0 else "", row.what, row.value, row.expected, row.verdict]
