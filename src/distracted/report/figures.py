"""Charts as inline SVG whose colours are the page's: light, dark or on paper."""

import io
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from distracted.audit.mistakes import Reliability
from distracted.report.curves import Curves

# Colours that nothing else has; each becomes a variable of the page's style sheet.
_INK, _MUTED, _GRID = "#010203", "#010204", "#010205"
_TRAIN, _VALID, _OTHER = "#010206", "#010207", "#010208"
_VARIABLES = {
    _INK: "ink",
    _MUTED: "muted",
    _GRID: "grid",
    _TRAIN: "train",
    _VALID: "valid",
    _OTHER: "other",
}
_STYLE: Any = {
    "text.parse_math": False,  # a name with dollars in it is no formula
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.titlesize": 10,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.labelcolor": _MUTED,
}


@contextmanager
def _figure(width: float, height: float, name: str) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """A figure of so many inches in the page's style, and what turns it into SVG; ids start with `name`."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, lambda: _as_svg(figure, name)


def _as_svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)  # ids are the page's, not the figure's
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


@dataclass(frozen=True)
class Bar:
    """A score with what is known of it: an estimate with its interval, and another."""

    name: str
    oof: tuple[float, float, float]  # mean, low, high
    expected: tuple[float, float | None, float | None]


def score_chart(bars: Sequence[Bar]) -> str:
    """Runs from the best on: OOF log loss with its interval, and the expected score with its own."""
    with _figure(7.2, 0.9 + 0.34 * len(bars), "scores") as (figure, as_svg):
        axes = figure.subplots()
        for number, bar in enumerate(bars):
            for (mean, low, high), colour, shift, marker in (
                (bar.oof, _VALID, -0.14, "o"),
                (bar.expected, _OTHER, 0.14, "D"),
            ):
                if low is not None and high is not None:
                    axes.plot([max(low, 1e-6), high], [number + shift] * 2, color=colour, linewidth=2)
                axes.plot(mean, number + shift, marker, color=colour, markersize=5)
        axes.plot([], [], "o-", color=_VALID, label="pooled OOF, 95% bootstrap")
        axes.plot([], [], "D-", color=_OTHER, label="expected on the test set, 95% prediction interval")
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlabel("log loss")
        ends = [value for bar in bars for value in (*bar.oof, *bar.expected) if value is not None]
        _log_axis(axes, "x", ends)
        figure.legend(loc="outside lower center", ncols=2)
        return as_svg()


def curve_chart(run: str, folds: Sequence[Curves], number: int) -> str:
    """Log loss by epoch: the mean over folds, with a band from the lowest to the highest.

    Args:
        number: Of the chart on its page.
    """
    with _figure(3.5, 2.5, f"curves-{number}") as (figure, as_svg):
        axes = figure.subplots()
        drawn: list[float] = []
        phases: dict[int, str] = {epoch.number: epoch.phase for c in folds for epoch in c.epochs}
        for key, colour, label in (
            ("train", _TRAIN, "train"),
            ("valid", _VALID, "held-out fold"),
            ("holdout", _OTHER, "inner holdout"),
        ):
            by_epoch: dict[int, list[float]] = {}
            for curves in folds:
                for epoch in curves.epochs:
                    if (value := getattr(epoch, key)) is not None and math.isfinite(value):
                        by_epoch.setdefault(epoch.number, []).append(value)
            if not by_epoch:
                continue
            numbers = sorted(by_epoch)
            drawn += [value for values in by_epoch.values() for value in values]
            means = [sum(by_epoch[n]) / len(by_epoch[n]) for n in numbers]
            style = "--" if key == "train" else "-"
            axes.plot(numbers, means, style, color=colour, label=label, marker="o", markersize=3)
            lows, highs = [min(by_epoch[n]) for n in numbers], [max(by_epoch[n]) for n in numbers]
            axes.fill_between(numbers, lows, highs, color=colour, alpha=0.18, linewidth=0)
        numbers = sorted(phases)
        for before, number in itertools.pairwise(numbers):
            if phases[before] != phases[number]:
                axes.axvline((before + number) / 2, color=_MUTED, linewidth=0.8, linestyle=":")
        for place, phase in enumerate(dict.fromkeys(phases[number] for number in numbers)):
            first = next(number for number in numbers if phases[number] == phase)
            axes.annotate(
                phase,
                (first, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, -2 - 9 * (place % 2)),  # neighbours would write over each other
                textcoords="offset points",
                va="top",
                ha="left" if first == numbers[0] else "center",
                color=_MUTED,
                fontsize=8,
            )
        if numbers:
            axes.set_xlim(numbers[0] - 0.4, numbers[-1] + 0.4)  # also where nothing was measured
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(FixedLocator(_few(numbers)))
        axes.margins(y=0.2)
        _log_axis(axes, "y", drawn)
        if drawn:
            axes.legend(loc="upper right", fontsize=8)
        return as_svg()


def reliability_chart(found: Reliability) -> str:
    """Accuracy beside confidence, with intervals; the area of a dot is the number of images in its bin."""
    with _figure(3.6, 3.3, "reliability") as (figure, as_svg):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=":")
        axes.errorbar(
            found.confidence,
            found.accuracy,
            yerr=[found.accuracy - found.low, found.high - found.accuracy],
            fmt="none",
            ecolor=_VALID,
            elinewidth=1.2,
            alpha=0.8,
        )
        sizes = 12 + 280 * found.images / found.images.sum()
        axes.scatter(
            found.confidence, found.accuracy, s=sizes, color=_VALID, alpha=0.75, linewidth=0, clip_on=False
        )
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_aspect("equal")
        axes.set_xlabel("probability of the predicted class")
        axes.set_ylabel("share that is right")
        return as_svg()


def _log_axis(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Logarithmic where the values span enough for it, with plain numbers."""
    values = [value for value in values if value > 0]
    if not values or max(values) < 4 * min(values):
        return
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    steps = (1.0, 2.0, 5.0) if max(values) < 60 * min(values) else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _few(numbers: Sequence[int], most: int = 8) -> list[int]:
    return list(numbers[:: -(-len(numbers) // most)]) if numbers else []
