"""Precision-recall curves and the confusion of classes as PNG. Class names are drawn as text, never as mathematics."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from masklake.jobs.terminal.text import elide, printable
from numpy.typing import NDArray

if TYPE_CHECKING:
    from masklake.model.eval.coco_ap import Measured
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 120
_NAME_CHARACTERS = 18
_MOST_WITH_COUNTS = 25
"""With more classes than this the cells have no room for a count."""
_MOST_WITH_NAMES = 120
_MOST_WITH_CURVES = 20
_INK = "#222222"
_FAINT = "#9aa5b1"
_CURVES = ((0, "#1b6ca8"), (5, "#d1495b"))
"""Positions among IoU 0.50:0.05:0.95 that are drawn by themselves: 0.50 and 0.75."""
_MEAN = "#2e8b57"


def precision_recall(kinds: Mapping[str, Measured | None], title: str) -> bytes:
    """A panel for each kind: precision at each recall, the mean over classes. Faint, where they are
    few: each class at IoU 0.50."""
    measured = {kind: figures for kind, figures in kinds.items() if figures is not None}
    figure = _figure(4.6 * len(measured), 4.7)
    for i, (kind, figures) in enumerate(measured.items(), 1):
        axes = figure.add_subplot(1, len(measured), i)
        _curves(axes, figures, "OKS" if kind == "keypoints" else "IoU")
        axes.set_title(kind, color=_INK, fontsize=12)
        if i == 1:
            axes.set_ylabel("precision")
    return _png(figure, title)


def _curves(axes: Axes, measured: Measured, overlap: str) -> None:
    recall = measured.recall
    if 1 < len(measured.classes) <= _MOST_WITH_CURVES:
        faint = axes.plot(recall, measured.precision[0].T, color=_FAINT, linewidth=0.7, alpha=0.6)
        faint[0].set_label(f"each class at {overlap} 0.50")
    for position, colour in _CURVES:
        curve = measured.precision[position].mean(0)
        label = f"{overlap} {0.5 + 0.05 * position:.2f}: AP {curve.mean():.3f}"
        axes.plot(recall, curve, color=colour, linewidth=2, label=label)
    mean = measured.precision.mean((0, 1))
    axes.plot(recall, mean, color=_MEAN, linewidth=2, label=f"{overlap} 0.50 to 0.95: AP {mean.mean():.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="recall")
    axes.grid(color="#e3e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=8.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def confusion(counts: NDArray[np.int64], classes: Sequence[str], score: float, title: str) -> bytes:
    """Rows: what is labelled; columns: what was detected there. Colours are shares of the row, and in the last row,
    which is spread over all classes, of the column.

    counts: (C + 1, C + 1), of which the last row is what was detected where nothing is labelled, and the last
        column what was not detected.
    """
    from matplotlib.colors import PowerNorm

    names = [elide(printable(name), _NAME_CHARACTERS) for name in classes]
    roomy = len(counts) <= _MOST_WITH_COUNTS
    side = float(np.clip((0.42 if roomy else 0.17) * len(counts) + 1.0, 3.2, 15.0))
    figure = _figure(side + 2.6, side + 1.9)
    axes = figure.add_subplot()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    share[-1] = counts[-1] / np.maximum(counts.sum(0), 1)
    # By the square root, so that what is confused now and then is seen as well.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    places = range(len(counts) if len(counts) <= _MOST_WITH_NAMES else 0)
    small = 9 if roomy else 7
    columns, rows = ([*names, background][: len(places)] for background in ("missed", "not labelled"))
    turned: dict[str, Any] = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}
    axes.set_xticks(places, columns, fontsize=small, **(turned if roomy else {"rotation": 90}))
    axes.set_yticks(places, rows, fontsize=small)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xlabel(f"detected with a score of at least {score:g}")
    axes.set_ylabel("labelled")
    edge = len(counts) - 1.5
    axes.axhline(edge, color=_INK, linewidth=0.8)
    axes.axvline(edge, color=_INK, linewidth=0.8)
    axes.axvspan(edge, edge + 1, ymax=1 / len(counts), color="#e3e7eb")  # neither labelled nor detected
    if roomy:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[row, column] > 0.35 else _INK
            axes.text(
                column,
                row,
                _short(int(counts[row, column])),
                ha="center",
                va="center",
                color=colour,
                fontsize=8,
            )
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.03, aspect=30)
    bar.set_label("share of the row (not labelled: of the column)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return _png(figure, title)


def _short(count: int) -> str:
    """A count that fits a cell: 9999 at most, then 12k."""
    if count < 10_000:
        return str(count)
    power = int(math.log10(count) // 3)
    return f"{count / 1000**power:.0f}{' kMGT'[power]}"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def _png(figure: Figure, title: str) -> bytes:
    from matplotlib.text import Text

    figure.suptitle(printable(title), color=_INK, fontsize=11)
    for text in figure.findobj(Text):
        _literal(text)
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        figure.savefig(data, format="png")
    return data.getvalue()


def _literal(text: Any) -> None:
    """Class names may contain dollar signs, which matplotlib would take for TeX, and fail."""
    text.set_parse_math(False)
