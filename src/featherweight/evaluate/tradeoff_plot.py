"""The picture of `tradeoff.plot`: points with intervals, each named beside itself, no name on top
of another, readable at 800 pixels across.

Names are placed greedily: each tries places around its point, takes the one that covers least, and
may move again once all others have theirs. Lengths below are pixels of the drawing unless said.
"""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, NullFormatter
from numpy.typing import NDArray

if TYPE_CHECKING:
    from featherweight.evaluate.tradeoff import System

Boxes = NDArray[np.float64]  # [n, 4]: left, bottom, right, top

INK, FAINT, GRID = "#222222", "#777777", "#e6e6e6"
# Okabe and Ito's colours, told apart with any colour vision; shapes say the same once more
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SIZE = (8.0, 5.2)  # inches; at 100 dots an inch 800 pixels across, where 9 points are still read
DOTS = 200  # dots an inch of a PNG: sharp on dense screens and in print
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the picture is the same everywhere
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "featherweight",  # else ids in the SVG are drawn anew each time
}
NAME_SIZE = 8.5  # points
LEADER = 0.16  # inches from which on a line leads from the name to its point


def picture(
    systems: Sequence["System"],
    front: Sequence["System"],
    *,
    form: str,
    quality_label: str,
    cost_label: str,
    title: str,
    log_cost: bool,
) -> bytes:
    """The bytes of a PNG or SVG; neither a display nor matplotlib's global state is touched."""
    out = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own settings are
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=SIZE, dpi=DOTS, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.08, 0.11, 0.89, 0.86))
        axes.set_xlabel(_plain(cost_label))
        axes.set_ylabel(_plain(quality_label))
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        looks = _looks(systems)
        priced = [one for one in systems if one.cost is not None]
        unpriced = [one for one in systems if one.cost is None]
        _limits(axes, systems, priced, log_cost)
        _head(figure, axes, title, _legend(systems, looks, len(front) > 1))
        if unpriced:
            _beside(figure, axes, unpriced, looks)
        if len(front) > 1:
            axes.plot(
                [one.cost or 0.0 for one in front],
                [one.quality for one in front],
                drawstyle="steps-post",
                color="#bbbbbb",
                linewidth=1.6,
                zorder=1.5,
            )
        for one in priced:
            _point(axes, one, *looks[one.family], low=axes.get_xlim()[0])
        _names(figure, axes, priced, front, unpriced, looks)
        metadata: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(out, format=form, dpi=DOTS, metadata=metadata)
    return out.getvalue()


def _looks(systems: Sequence["System"]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every family, in order of appearance."""
    families = list(dict.fromkeys(one.family for one in systems))
    # a second round of colours begins with another shape
    return {
        family: (COLOURS[i % 7], MARKERS[(i + i // 7) % 7]) for i, family in enumerate(families)
    }


def _dark(colour: str) -> tuple[float, float, float]:
    """A colour that letters on white are read in: the light ones of the palette are too pale."""
    red, green, blue = (0.62 * part for part in to_rgb(colour))
    return red, green, blue


def _plain(text: str) -> str:
    """Text in which a pair of dollar signs does not begin a formula."""
    return text.replace("$", "\\$")


def _limits(
    axes: Any, systems: Sequence["System"], priced: Sequence["System"], log_cost: bool
) -> None:
    """Room for all intervals and for the names beside the outermost points."""
    heights = [v for one in systems for v in (one.quality, *(one.quality_ci95 or ()))]
    room = (max(heights) - min(heights)) * 0.07 or 1.0
    axes.set_ylim(min(heights) - room, max(heights) + room)
    costs = [v for one in priced for v in (one.cost or 0.0, *(one.cost_ci95 or ()))]
    if not log_cost:
        room = (max(costs) - min(costs)) * 0.1 or 1.0
        axes.set_xlim(min(costs) - room, max(costs) + room)
        return
    costs = [cost for cost in costs if cost > 0]  # an interval may reach zero: cut at the edge
    low, high = np.log10(min(costs)), np.log10(max(costs))
    room = (high - low) * 0.1 or 0.5
    axes.set_xscale("log")
    room = max(room, (1.5 - (high - low)) / 2)  # never less than a decade and a half
    axes.set_xlim(10 ** (low - room), 10 ** (high + room))
    few = high - low < 1.5
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if low - room > -5 and high + room < 6:  # plain numbers where people can read them
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: f"{x:,.6f}".rstrip("0").rstrip("."))
        )
    else:
        axes.xaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))


def _legend(
    systems: Sequence["System"], looks: dict[str, tuple[str, str]], stair: bool
) -> list[Line2D]:
    """What the picture's signs mean, only those that are in it."""

    def sign(label: str, **style: Any) -> Line2D:
        return Line2D([], [], label=label, **style)

    found = []
    if len(looks) > 1:
        found = [
            sign(_plain(family or "other"), color=colour, marker=marker, linestyle="", markersize=6)
            for family, (colour, marker) in looks.items()
        ]
    if not all(one.measured or one.cost is None for one in systems):
        style = {"color": FAINT, "markerfacecolor": "white", "marker": "o", "linestyle": ""}
        found.append(sign("quoted", **style))
    if any(one.quality_ci95 or one.cost_ci95 for one in systems):
        found.append(sign("95% interval", color=FAINT, linewidth=1.2))
    if stair:
        found.append(sign("not beaten on both", color="#bbbbbb", linewidth=1.6))
    return found


def _head(figure: Any, axes: Any, title: str, signs: list[Line2D]) -> None:
    """Title and legend above the axes, which give way."""
    height = figure.bbox.height
    top = height - 0.12 * DOTS
    if title:
        text = figure.text(
            0.015, top / height, _plain(title), fontsize=11.5, weight="bold", va="top"
        )
        top = text.get_window_extent().y0 - 0.04 * DOTS
    if signs:
        for rows in range(1, len(signs) + 1):
            legend = figure.legend(
                handles=signs,
                ncols=-(-len(signs) // rows),
                loc="upper left",
                bbox_to_anchor=(0.005, top / height),
                borderaxespad=0,
                borderpad=0.3,
                handletextpad=0.5,
                columnspacing=1.4,
            )
            box = legend.get_window_extent()
            if box.x1 <= figure.bbox.width or rows == len(signs):
                break
            legend.remove()
        top = box.y0
    left, bottom, width, _ = axes.get_position().bounds
    axes.set_position((left, bottom, width, (top - 0.08 * DOTS) / height - bottom))


def _beside(
    figure: Any,
    axes: Any,
    systems: Sequence["System"],
    looks: dict[str, tuple[str, str]],
) -> None:
    """Systems without a cost: a line across at their quality, the name at the right edge."""
    ordered = sorted(systems, key=lambda one: one.quality)
    texts = [
        figure.text(
            0,
            0,
            _plain(one.name) + ("" if one.measured else " (quoted)"),
            fontsize=NAME_SIZE,
            color=_dark(looks[one.family][0]),
            va="center",
        )
        for one in ordered
    ]
    note = figure.text(
        0, 0, "cost not measured", fontsize=NAME_SIZE, style="italic", color=FAINT, va="center"
    )
    widest = max(text.get_window_extent().width for text in [*texts, note])
    left, bottom, _, height = axes.get_position().bounds
    gap = 0.14 * DOTS
    edge = figure.bbox.width - widest - gap - 0.12 * DOTS
    axes.set_position((left, bottom, edge / figure.bbox.width - left, height))
    line = 1.25 * note.get_window_extent().height
    wanted = [axes.transData.transform((1, one.quality))[1] for one in ordered]
    heights = spread(wanted, line)
    for number, (one, text, y) in enumerate(zip(ordered, texts, heights, strict=True)):
        colour = looks[one.family][0]
        if one.quality_ci95:
            # upright, side by side: bands over bands would be grey where it matters
            at = 0.985 - 0.018 * (number % 6)
            axes.plot(
                [at, at],
                one.quality_ci95,
                color=colour,
                linewidth=1.6,
                alpha=0.8,
                transform=axes.get_yaxis_transform(),
                zorder=1.4,
            )
        axes.axhline(
            one.quality, color=colour, linewidth=0.9, linestyle=(0, (5, 3)), alpha=0.6, zorder=1.2
        )
        text.set_position(((edge + gap) / figure.bbox.width, y / figure.bbox.height))
        start = axes.transData.transform((1, one.quality))[1]
        ends = np.array([(edge, start), (edge + 0.8 * gap, y)]) / figure.bbox.size
        figure.add_artist(Line2D(ends[:, 0], ends[:, 1], color=colour, linewidth=0.8))
    note.set_position(
        ((edge + gap) / figure.bbox.width, (max(heights) + 1.3 * line) / figure.bbox.height)
    )


def spread(wanted: Sequence[float], distance: float) -> list[float]:
    """Rising positions moved as little as needed to be `distance` apart, clusters kept centred."""
    clusters: list[list[float]] = []
    for value in wanted:
        clusters.append([value])
        while len(clusters) > 1:
            below, here = clusters[-2], clusters[-1]
            gap = (len(below) + len(here)) / 2 * distance
            if sum(here) / len(here) - sum(below) / len(below) >= gap:
                break
            clusters[-2:] = [below + here]
    return [
        sum(cluster) / len(cluster) + (i - (len(cluster) - 1) / 2) * distance
        for cluster in clusters
        for i in range(len(cluster))
    ]


def _point(axes: Any, one: "System", colour: str, marker: str, low: float) -> None:
    """A marker, hollow for quoted figures, with its intervals."""
    x, y = one.cost or 0.0, one.quality
    bars: dict[str, Any] = {
        "color": colour,
        "linewidth": 1.2,
        "alpha": 0.65,
        "zorder": 2,
        "solid_capstyle": "butt",
    }
    if one.cost_ci95:
        axes.plot([max(one.cost_ci95[0], low), one.cost_ci95[1]], [y, y], **bars)
    if one.quality_ci95:
        axes.plot([x, x], one.quality_ci95, **bars)
    axes.plot(
        x,
        y,
        marker,
        color=colour,
        markersize=6.5,
        markerfacecolor=colour if one.measured else "white",
        markeredgecolor="white" if one.measured else colour,
        markeredgewidth=0.8,
        zorder=3,
    )


# ---- names beside points


def _names(
    figure: Any,
    axes: Any,
    systems: Sequence["System"],
    front: Sequence["System"],
    across: Sequence["System"],
    looks: dict[str, tuple[str, str]],
) -> None:
    """Write every name where it covers least, with a thin line to a point that is not near."""
    texts = [
        figure.text(
            0,
            0,
            _plain(one.name),
            fontsize=NAME_SIZE,
            color=_dark(looks[one.family][0]),
            path_effects=[withStroke(linewidth=2, foreground="white")],
            weight="bold" if one in front else "normal",
            ha="center",
            va="center",
        )
        for one in systems
    ]
    extents = [text.get_window_extent() for text in texts]
    sizes = np.array([(box.width + 0.03 * DOTS, box.height) for box in extents])
    points = axes.transData.transform([(one.cost or 0.0, one.quality) for one in systems])
    obstacles, weights = _obstacles(axes, systems, front, across)
    frame = axes.get_window_extent()
    boxes = place(points, sizes, obstacles, weights, np.array(frame.extents), 0.01 * DOTS)
    for text, (x, y), box in zip(texts, points, boxes, strict=True):
        centre = (box[:2] + box[2:]) / 2
        text.set_position(centre / figure.bbox.size)
        near = np.clip((x, y), box[:2], box[2:])
        if np.hypot(*(near - (x, y))) > LEADER * DOTS:
            ends = np.array([near, (x, y)]) / figure.bbox.size
            figure.add_artist(
                Line2D(ends[:, 0], ends[:, 1], color=FAINT, linewidth=0.6, zorder=1.8)
            )


def _obstacles(
    axes: Any,
    systems: Sequence["System"],
    front: Sequence["System"],
    across: Sequence["System"],
) -> tuple[Boxes, NDArray[np.float64]]:
    """What names should not cover, as boxes, and how much it matters."""
    found: list[tuple[float, ...]] = []
    weights: list[float] = []

    def add(a: Any, b: Any, thick: float, weight: float) -> None:
        low, high = np.minimum(a, b) - thick * DOTS, np.maximum(a, b) + thick * DOTS
        found.append((*low, *high))
        weights.append(weight)

    def at(x: float, y: float) -> Any:
        return axes.transData.transform((max(x, axes.get_xlim()[0]), y))

    for one in systems:
        add(at(one.cost or 0.0, one.quality), at(one.cost or 0.0, one.quality), 0.05, 20)
        if one.cost_ci95:
            add(at(one.cost_ci95[0], one.quality), at(one.cost_ci95[1], one.quality), 0.012, 6)
        if one.quality_ci95:
            x = one.cost or 0.0
            add(at(x, one.quality_ci95[0]), at(x, one.quality_ci95[1]), 0.012, 6)
    for one in across:
        left, right = axes.get_xlim()
        add(at(left, one.quality), at(right, one.quality), 0.012, 12)
    for one, after in pairwise(front):
        corner = at(after.cost or 0.0, one.quality)
        add(at(one.cost or 0.0, one.quality), corner, 0.012, 2)
        add(corner, at(after.cost or 0.0, after.quality), 0.012, 2)
    return np.array(found), np.array(weights)


def place(
    points: Boxes,
    sizes: Boxes,
    obstacles: Boxes,
    weights: NDArray[np.float64],
    frame: NDArray[np.float64],
    unit: float,
) -> Boxes:
    """Boxes [n, 4] of `sizes` [n, 2], each near its point [n, 2], that cover as little as can be.

    `unit` is the length that distances are counted in. A box stays inside `frame`, avoids the
    others above all, then the obstacles by their weights, then distance; the way from a point to
    its box avoids the other boxes.
    """
    angles = np.pi / 8 * np.array([0, 8, 4, 12, 2, 6, 14, 10, 1, 15, 7, 9, 3, 5, 11, 13])
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rings = np.array([8, 14, 22, 32, 44, 58, 74])
    boxes = np.full((len(points), 4), np.nan)
    ways = np.full((len(points), STEPS, 2), np.nan)
    far = np.repeat(rings - rings[0], len(angles)) / 6
    odd = np.tile(np.arange(len(angles)) / 8, len(rings))  # right and left before the diagonals
    for _ in range(4):
        for i in np.argsort(points[:, 0], kind="stable"):
            reach = rings[:, None, None] * unit + sizes[i] / 2
            centres = points[i] + (directions * reach).reshape(-1, 2)
            tries = np.hstack([centres - sizes[i] / 2, centres + sizes[i] / 2])
            paths = _ways(points[i], tries)
            others = np.delete(boxes, i, axis=0)
            outside = np.maximum(np.maximum(frame[:2] - tries[:, :2], tries[:, 2:] - frame[2:]), 0)
            penalty = (
                far
                + odd
                + 1000 * (overlaps(tries, others) > 0).sum(axis=1)
                + 100 * outside.any(axis=1)
                + 100 * outside.sum(axis=1) / unit
                + 15 * crossings(paths, others).sum(axis=1)
                + 15 * crossings(np.delete(ways, i, axis=0), tries).sum(axis=0)
                + (overlaps(tries, obstacles) > 0) @ weights
            )
            boxes[i], ways[i] = tries[penalty.argmin()], paths[penalty.argmin()]
    return boxes


STEPS = 8  # points that stand for the way from a point to its name


def _ways(point: NDArray[np.float64], boxes: Boxes) -> NDArray[np.float64]:
    """The straight way from `point` to each box [n, 4]: [n, STEPS, 2]."""
    near = np.clip(point, boxes[:, :2], boxes[:, 2:])
    return np.asarray(point + np.linspace(0, 1, STEPS)[None, :, None] * (near - point)[:, None])


def crossings(ways: NDArray[np.float64], boxes: Boxes) -> NDArray[np.bool_]:
    """Whether each way [n, STEPS, 2] goes through each box [m, 4]: [n, m]."""
    steps = ways[:, None]
    inside = (steps > boxes[:, None, :2]) & (steps < boxes[:, None, 2:])
    return np.asarray(inside.all(axis=-1).any(axis=-1))


def overlaps(a: Boxes, b: Boxes) -> Boxes:
    """The common area of each box of `a` [n, 4] with each of `b` [m, 4]: [n, m], NaN as none."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.nan_to_num(np.clip(high - low, 0, None)).prod(axis=2))
