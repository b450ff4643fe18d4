"""Charts as inline SVG that take their colours from the page's style sheet (light, dark, print)."""

import io
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from distracted.audit.mistakes import Reliability
from distracted.report.board import BoardRow
from distracted.report.curves import Curves

# Placeholder colours, replaced by variables of the page's style sheet.
_INK, _MUTED, _GRID = "#010203", "#010204", "#010205"
_TRAIN, _VALID, _OTHER = "#010206", "#010207", "#010208"
_VARIABLES = {_INK: "ink", _MUTED: "muted", _GRID: "grid", _TRAIN: "train", _VALID: "valid", _OTHER: "other"}
_STYLE: Any = {
    "text.parse_math": False,  # a name with dollar signs is not a formula
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
    """Make a figure (sizes in inches) and a function that renders it as SVG; its ids start with `name`."""
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
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)  # unique on the page
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


def score_chart(board: Sequence[BoardRow]) -> str:
    """OOF log loss and expected score of each run, with their intervals, from top to bottom."""
    with _figure(7.2, 0.9 + 0.34 * len(board), "scores") as (figure, as_svg):
        axes = figure.subplots()
        ends: list[float] = []
        for number, row in enumerate(board):
            oof, expected = (row.oof, _VALID, number - 0.14, "o"), (row.expected, _OTHER, number + 0.14, "D")
            for score, colour, height, marker in (oof, expected):
                if score.low is not None and score.high is not None:
                    axes.plot([max(score.low, 1e-6), score.high], [height] * 2, color=colour, linewidth=2)
                    ends += [score.low, score.high]
                axes.plot(score.mean, height, marker, color=colour, markersize=5)
                ends.append(score.mean)
        axes.plot([], [], "o-", color=_VALID, label="pooled OOF, 95% bootstrap")
        axes.plot([], [], "D-", color=_OTHER, label="expected on the test set, 95% prediction interval")
        names = [row.entry.name + " (leaky)" * row.entry.leaky for row in board]
        axes.set_yticks(range(len(board)), names)
        axes.set_ylim(len(board) - 0.5, -0.5)
        axes.set_xlabel("log loss")
        _log_axis(axes, "x", ends)
        figure.legend(loc="outside lower center", ncols=2)
        return as_svg()


def blend_chart(blends: Sequence[Mapping[str, Any]]) -> str:
    """Cross-fitted log loss of the blend and its forecast over the minutes of a competition."""
    with _figure(7.2, 3.0, "blends") as (figure, as_svg):
        axes, values = figure.subplots(), list[float]()
        minutes = [blend["seconds"] / 60 for blend in blends]
        series = (
            ("cross-fitted, 95% bootstrap", _VALID, [(b["log_loss"], *b["interval"]) for b in blends]),
            ("expected on the test set", _OTHER, [(b["expected"]["mean"], None, None) for b in blends]),
        )
        for label, colour, scores in series:
            axes.step(minutes, [mean for mean, _, _ in scores], where="post", color=colour, label=label)
            axes.plot(minutes, [mean for mean, _, _ in scores], "o", color=colour, markersize=4)
            for minute, (_, low, high) in zip(minutes, scores, strict=True):
                if low is not None and high is not None:
                    axes.plot([minute] * 2, [low, high], color=colour, linewidth=1.2, alpha=0.6)
            values += [value for score in scores for value in score if value is not None]
        axes.set_xlim(left=0)
        axes.set_xlabel("minutes of the competition")
        axes.set_ylabel("log loss")
        _log_axis(axes, "y", values)
        axes.legend(loc="upper right", fontsize=8)
        return as_svg()


_CURVES = {
    "train": (_TRAIN, "train"),
    "valid": (_VALID, "held-out fold"),
    "holdout": (_OTHER, "inner holdout"),
}


def curve_chart(folds: Sequence[Curves], number: int) -> str:
    """Log loss by epoch: the mean over folds, with a band from the lowest to the highest.

    `number` is the chart's number on its page.
    """
    with _figure(3.5, 2.5, f"curves-{number}") as (figure, as_svg):
        axes = figure.subplots()
        drawn: list[float] = []
        for key, (colour, label) in _CURVES.items():
            drawn += _plot_curve(axes, folds, key, colour, label)
        phases = {epoch.number: epoch.phase for curves in folds for epoch in curves.epochs}
        numbers = sorted(phases)
        _mark_phases(axes, phases)
        if numbers:
            axes.set_xlim(numbers[0] - 0.4, numbers[-1] + 0.4)  # even if no loss was measured
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(FixedLocator(_thin_out(numbers)))
        axes.margins(y=0.2)
        _log_axis(axes, "y", drawn)
        if drawn:
            axes.legend(loc="upper right", fontsize=8)
        return as_svg()


def _plot_curve(axes: Axes, folds: Sequence[Curves], key: str, colour: str, label: str) -> list[float]:
    """Plot one metric; returns its values."""
    by_epoch: dict[int, list[float]] = {}
    for curves in folds:
        for epoch in curves.epochs:
            if (value := getattr(epoch, key)) is not None and math.isfinite(value):
                by_epoch.setdefault(epoch.number, []).append(value)
    if not by_epoch:
        return []
    numbers = sorted(by_epoch)
    means = [sum(by_epoch[n]) / len(by_epoch[n]) for n in numbers]
    style = "--" if key == "train" else "-"
    axes.plot(numbers, means, style, color=colour, label=label, marker="o", markersize=3)
    lows, highs = [min(by_epoch[n]) for n in numbers], [max(by_epoch[n]) for n in numbers]
    axes.fill_between(numbers, lows, highs, color=colour, alpha=0.18, linewidth=0)
    return [value for values in by_epoch.values() for value in values]


def _mark_phases(axes: Axes, phases: Mapping[int, str]) -> None:
    """Write each phase's name at its first epoch, and separate phases by dotted lines."""
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
            xytext=(0, -2 - 9 * (place % 2)),  # at alternating heights, so that names do not overlap
            textcoords="offset points",
            va="top",
            ha="left" if first == numbers[0] else "center",
            color=_MUTED,
            fontsize=8,
        )


def reliability_chart(diagram: Reliability) -> str:
    """Accuracy by confidence, with intervals; a dot's area is proportional to its bin's number of images."""
    with _figure(3.6, 3.3, "reliability") as (figure, as_svg):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=":")
        x, y = diagram.confidence, diagram.accuracy
        errors = [y - diagram.low, diagram.high - y]
        axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=_VALID, elinewidth=1.2, alpha=0.8)
        sizes = 12 + 280 * diagram.images / diagram.images.sum()
        axes.scatter(x, y, s=sizes, color=_VALID, alpha=0.75, linewidth=0, clip_on=False)
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_aspect("equal")
        axes.set_xlabel("probability of the predicted class")
        axes.set_ylabel("accuracy")
        return as_svg()


def _log_axis(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Make an axis logarithmic, with plain numbers, if the values span a factor of four or more."""
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


def _thin_out(numbers: Sequence[int], at_most: int = 8) -> list[int]:
    return list(numbers[:: -(-len(numbers) // at_most)]) if numbers else []
