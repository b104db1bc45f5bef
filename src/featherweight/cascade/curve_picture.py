"""The picture of `curve_plot.plot`: curves with bands, their ends and thresholds named.

In the style of `evaluate.tradeoff_plot`, readable at 800 pixels across.
"""

import io
import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter

from featherweight.cascade.curve_cost import Axis
from featherweight.cascade.curve_plot import Line
from featherweight.evaluate.tradeoff_plot import COLOURS, DOTS, FAINT, GRID, INK, SIZE, STYLE

LABELS = {
    "deferral": "questions deferred, %",
    "seconds": "seconds a question, mean",
    "flops": "FLOPs a question, mean",
    "usd": "US dollars a question, mean",
}
NAMES = 8.5  # points: size of what is written beside points and lines


def picture(
    lines: Mapping[str, Line],
    at: Mapping[str, tuple[float, float]],
    axis: Axis,
    *,
    metric: str,
    title: str,
    form: str,
) -> bytes:
    """The bytes of a PNG or SVG; `at` are the points to mark, by the line's name.

    Neither a display nor matplotlib's global state is touched.
    """
    out = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own settings are
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=SIZE, dpi=DOTS, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.085, 0.115, 0.885, 0.86))
        axes.set_xlabel(LABELS[axis])
        axes.set_ylabel(_plain(metric))
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        alone = len(lines) == 1
        _limits(axes, list(lines.values()), axis, len(at))
        marked = 0
        for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
            shade = 0.16 if alone else 0.09  # bands lie over each other
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=shade, linewidth=0)
            label = _plain(name) + (", 95% interval" if alone else "")
            axes.plot(line.x, line.quality, color=colour, linewidth=2, label=label, zorder=2.5)
            _points(axes, line.x[[0, -1]], line.quality[[0, -1]], "o", colour)
            if alone:
                _compare(axes, line)
            if name in at:
                _mark(axes, *at[name], colour, axis, marked)
                marked += 1
        _head(figure, axes, title)
        _ends(figure, axes, list(lines.values()))
        metadata: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(out, format=form, dpi=DOTS, metadata=metadata)
    return out.getvalue()


def _limits(axes: Any, lines: list[Line], axis: Axis, marks: int) -> None:
    """Room for all bands and for what is written beside the points."""
    compared = [lines[0].random, lines[0].oracle] if len(lines) == 1 else []
    heights = [*compared, *(band for one in lines for band in (one.low, one.high))]
    values = np.concatenate([one for one in heights if one is not None])
    room = (values.max() - values.min()) * 0.05 or 1.0
    axes.set_ylim(values.min() - room * (1.5 + marks), values.max() + room)
    ends = np.concatenate([[*one.x, one.alone] for one in lines])
    room = (ends.max() - ends.min()) * 0.015 or 1.0
    axes.set_xlim(ends.min() - room, ends.max() + room)
    if axis == "flops":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _head(figure: Any, axes: Any, title: str) -> None:
    """Title and legend above the axes, which give way."""
    width, height = figure.bbox.size
    top = 0.98
    if title:
        text = figure.text(0.015, top, _plain(title), fontsize=11.5, weight="bold", va="top")
        top = text.get_window_extent().y0 / height - 0.01
    handles, labels = axes.get_legend_handles_labels()
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles,
            labels,
            ncols=columns,
            loc="upper left",
            bbox_to_anchor=(0.005, top),
            borderaxespad=0,
            columnspacing=1.6,
            handlelength=1.8,
        )
        box = legend.get_window_extent()
        if box.x1 <= width or columns == 1:
            break
        legend.remove()
    left, bottom, across, _ = axes.get_position().bounds
    axes.set_position((left, bottom, across, box.y0 / height - 0.015 - bottom))


def _points(axes: Any, x: Any, y: Any, marker: str, colour: str) -> None:
    axes.plot(
        x,
        y,
        marker,
        color=colour,
        markersize=7.5,
        markeredgecolor="white",
        zorder=4 if marker == "D" else 3,
        clip_on=False,
    )


def _compare(axes: Any, line: Line) -> None:
    """The lines that a curve is held against."""
    if line.oracle is not None:
        axes.plot(line.x, line.oracle, color="#009E73", linewidth=1.3, label="oracle", zorder=2)
    label = "straight between the ends" if line.oracle is None else "random"
    style = (0, (5, 3))
    axes.plot(
        line.x, line.random, color=FAINT, linewidth=1.3, linestyle=style, label=label, zorder=2
    )


def _mark(axes: Any, x: float, y: float, colour: str, axis: Axis, number: int) -> None:
    """A calibrated threshold: a diamond with lines to both axes, its figures below the curves."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    style = {"linewidth": 0.9, "linestyle": (0, (2, 2)), "alpha": 0.8, "zorder": 1.5}
    axes.plot([left, x, x], [y, y, bottom], color=colour, **style)
    _points(axes, x, y, "D", colour)
    if axis == "deferral":
        where = f"{x:.1f}% deferred"
    else:
        where = (
            f"{EngFormatter(places=2, sep='')(x)} FLOPs" if axis == "flops" else f"{x:.3g} {axis}"
        )
    height = bottom + (top - bottom) * (0.02 + 0.04 * number)
    text, beyond = f"calibrated: {where}, {y:.1f}", (x - left) / (right - left) > 0.6
    _write(
        axes, text, (x, height), (-5 if beyond else 5, 0), "right" if beyond else "left", "bottom"
    )


def _ends(figure: Any, axes: Any, lines: list[Line]) -> None:
    """Names the ends: the last model's at the right, where the axes give way, the first's below."""
    one = lines[0]
    best = float(one.quality[-1])
    if len({(line.last, line.x[-1], round(float(line.quality[-1]), 9)) for line in lines}) == 1:
        apart = one.alone < one.x[-1]  # passing all on pays for the earlier stages too
        last = textwrap.fill(one.last, 20)
        words = f"all passed on to\n{last}" if apart else f"{last}\nalone"
        text = _write(axes, words, (one.x[-1], best), (9, 0), "left", "center")
        left, bottom, across, height = axes.get_position().bounds
        over = text.get_window_extent().x1 / figure.bbox.width - 0.99
        axes.set_position((left, bottom, across - over, height))
        if apart:
            style = {"color": INK, "markerfacecolor": "white", "markersize": 7, "zorder": 3}
            axes.plot(one.alone, best, "o", **style)
            _write(axes, f"{one.last} alone", (one.alone, best), (0, 8), "right", "bottom")
    if len(lines) == 1:
        rising = one.quality[-1] >= one.quality[0]
        at, side = ((4, -9), "top") if rising else ((4, 9), "bottom")
        _write(axes, f"{one.first} alone", (one.x[0], one.quality[0]), at, "left", side)


def _write(
    axes: Any,
    text: str,
    point: tuple[float, float],
    offset: tuple[float, float],
    ha: str,
    va: str,
) -> Any:
    return axes.annotate(
        _plain(text),
        point,
        offset,
        textcoords="offset points",
        fontsize=NAMES,
        ha=ha,
        va=va,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        annotation_clip=False,
        zorder=5,
    )


def _plain(text: str) -> str:
    """Text in which a pair of dollar signs does not begin a formula."""
    return text.replace("$", "\\$")
