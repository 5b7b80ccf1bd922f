"""The plots of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.record import LIMIT, PEER, PUBLISHED, Plot, Series
from interpolants.plotting.style import CYCLE, FONT_SIZE, INK, PALE, figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_LINES = {PEER: "--", PUBLISHED: ":", LIMIT: ":"}
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw(plot: Plot, path: Path) -> Path:
    """Draw the curves of a plot, with a bar of one standard error each, and write the picture."""
    drawing, ((axes,),) = figure(size=(7.2, 3.8), layout="constrained")
    for k, series in enumerate(plot.series):
        _curve(axes, series, CYCLE[k % len(CYCLE)], _MARKS[k // len(CYCLE) % len(_MARKS)])
    if plot.floor is not None:
        axes.axhline(plot.floor, color=INK, linewidth=0.9, linestyle="-.", label=plot.floor_label or "floor")
    axes.set(xlabel=plot.x, ylabel=plot.y)
    axes.set_title(plot.title, fontsize=FONT_SIZE + 1)
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if name in plot.log:
            _logarithmic(axes, name, axis)
    axes.grid(color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        frameon=False, fontsize=7, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0
    )
    return save(drawing, path)


def _logarithmic(axes: Axes, name: str, axis: Axis) -> None:
    """Make an axis logarithmic, with plain numbers; between the powers of ten only where there are few."""
    from matplotlib.ticker import LogFormatter, StrMethodFormatter

    axes.set(**{f"{name}scale": "log"})
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.2, 0.5)))


def _curve(axes: Axes, series: Series, colour: str, mark: str) -> None:
    axes.errorbar(
        series.x,
        series.y,
        yerr=series.error,
        color=colour,
        label=series.label,
        linestyle=_LINES.get(series.kind, "-"),
        linewidth=1.3,
        marker=mark,
        markersize=3,
        elinewidth=0.8,
        capsize=1.5,
    )
