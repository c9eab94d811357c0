"""The panels of `masklake plot`. Names of classes and models are drawn as text, never as mathematics."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

from masklake.jobs.plot.figures import SCORE_BINS, LakeFigures
from masklake.jobs.terminal.text import elide, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 120
_CLASSES = 25
_NAME_CHARACTERS = 22
_INK, _BAR, _FAINT = "#222222", "#1b6ca8", "#e3e7eb"
_KINDS = {"box": "#1b6ca8", "mask": "#d1495b", "keypoints": "#2e8b57"}
_SMALL, _LARGE = 10, 13.17
"""log2 of 32² and of 96² pixels: COCO's small and large."""


def draw(figures: LakeFigures, format_: str) -> bytes:
    """The picture as png or svg."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    shown = min(len(figures.classes), _CLASSES)
    figure = Figure(
        figsize=(14, max(8.0, 4.2 + 0.2 * shown)), dpi=_DPI, layout="constrained", facecolor="white"
    )
    grid = figure.add_gridspec(3, 2, width_ratios=(1, 1.35))
    _classes(figure.add_subplot(grid[:2, 0]), figures)
    _statuses(figure.add_subplot(grid[2, 0]), figures)
    _scores(figure.add_subplot(grid[0, 1]), figures)
    _areas(figure.add_subplot(grid[1, 1]), figures)
    last = grid[2, 1].subgridspec(1, 2)
    _rates(figure.add_subplot(last[0]), figures)
    _ap(figure.add_subplot(last[1]), figures)
    figure.suptitle(printable(figures.lake), color=_INK, fontsize=12)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        figure.savefig(sink, format=format_)
    return sink.getvalue()


def _style(axes: Axes, title: str, empty: str | None = None) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)
    if empty is not None:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, empty, ha="center", va="center", transform=axes.transAxes, color="#57606a")


def _bars(axes: Axes, rows: list[tuple[str, int]]) -> None:
    names = [elide(printable(name), _NAME_CHARACTERS) for name, _ in rows]
    bars = axes.barh(range(len(rows)), [count for _, count in rows], color=_BAR)
    axes.bar_label(bars, [f"{count:,}" for _, count in rows], padding=3, fontsize=8.5, color=_INK)
    axes.set_yticks(range(len(rows)), names)
    axes.set(xticks=[], ylim=(len(rows) - 0.4, -0.6))
    axes.spines["bottom"].set_visible(False)
    axes.margins(x=0.15)


def _classes(axes: Axes, figures: LakeFigures) -> None:
    rows, rest = figures.classes[:_CLASSES], figures.classes[_CLASSES:]
    more = f" (and {sum(n for _, n in rest):,} of {len(rest):,} more classes)" if rest else ""
    _style(axes, f"instances by class{more}", None if rows else "no instances")
    if rows:
        _bars(axes, rows)


def _statuses(axes: Axes, figures: LakeFigures) -> None:
    _style(axes, "images by status", None if figures.statuses else "no images")
    if figures.statuses:
        _bars(axes, figures.statuses)


def _scores(axes: Axes, figures: LakeFigures) -> None:
    _style(axes, "scores of instances", None if any(figures.scores) else "no instances")
    if any(figures.scores):
        width = 1 / SCORE_BINS
        axes.bar(
            [i * width for i in range(SCORE_BINS)], figures.scores, width * 0.94, align="edge", color=_BAR
        )
        axes.set(xlim=(0, 1), xlabel="score", ylabel="instances")
        axes.grid(axis="y", color=_FAINT)


def _areas(axes: Axes, figures: LakeFigures) -> None:
    _style(axes, "sizes of instances", None if figures.areas else "no instances")
    if figures.areas:
        axes.bar([power + 0.5 for power in figures.areas], list(figures.areas.values()), 0.92, color=_BAR)
        for place, name in ((_SMALL, "small | medium"), (_LARGE, "medium | large")):
            axes.axvline(place, color="#d1495b", linewidth=1, linestyle="--")
            axes.annotate(
                name, (place, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8
            )
        first, last = min(figures.areas), max(figures.areas) + 1
        ticks = range(first - first % 2, last + 2, 2)
        axes.set_xticks(ticks, [f"{2 ** (tick / 2):.0f}²" for tick in ticks])
        axes.set(xlabel="area, pixels", ylabel="instances")
        axes.grid(axis="y", color=_FAINT)


def _rates(axes: Axes, figures: LakeFigures) -> None:
    _style(axes, "images a second", None if figures.rates else "no run took a second")
    if figures.rates:
        minutes = figures.rates[-1][0] > 300
        axes.plot(
            [t / (60 if minutes else 1) for t, _ in figures.rates],
            [rate for _, rate in figures.rates],
            color=_BAR,
        )
        axes.set(
            xlabel=f"{'minutes' if minutes else 'seconds'} of run {printable(figures.run or '')}",
            ylim=(0, None),
        )
        axes.xaxis.label.set_fontsize(8.5)
        axes.grid(color=_FAINT)


def _ap(axes: Axes, figures: LakeFigures) -> None:
    targets = Counter(record.target for record in figures.evaluated)
    if not targets:
        _style(axes, "AP by model", "no evaluation yet (masklake eval)")
        return
    target = targets.most_common(1)[0][0]
    newest: dict[str, Any] = {record.model: record for record in figures.evaluated if record.target == target}
    records = sorted(newest.values(), key=lambda record: record.time)[-12:]
    _style(axes, f"AP by model, on {elide(printable(target), _NAME_CHARACTERS)}")
    for kind, colour in _KINDS.items():
        points = [(i, record.ap[kind]) for i, record in enumerate(records) if kind in record.ap]
        if points:
            axes.plot(
                *zip(*points, strict=True), color=colour, marker="o", label=f"{kind} {points[-1][1]:.3f}"
            )
    axes.set_xticks(
        range(len(records)),
        [elide(printable(r.model), _NAME_CHARACTERS) for r in records],
        rotation=30,
        ha="right",
    )
    axes.set(ylim=(0, 1), xlim=(-0.5, len(records) - 0.5))
    axes.grid(axis="y", color=_FAINT)
    axes.legend(frameon=False, fontsize=8, title="newest", title_fontsize=8)
