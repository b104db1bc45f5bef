"""Deferral curves as a picture and as a table."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherweight.cascade.curve import Curve
from featherweight.cascade.curve_cost import Axis, PathCurve
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError, OutputError
from featherweight.files import write_atomic


@dataclass(frozen=True)
class Line:
    """What is drawn of a curve, x from the `first` model alone to all passed on to the `last`.

    `alone` is where the last is that answers all by itself: it costs less.
    """

    first: str
    last: str
    alone: float
    x: Floats
    quality: Floats
    low: Floats
    high: Floats
    random: Floats
    oracle: Floats | None


def csv_text(curves: Mapping[str, Curve | PathCurve]) -> str:
    """All points of the named curves, full precision, a row each; what a curve lacks is empty."""
    kinds = ["seconds", "flops", "usd"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ["deferral", *kinds, "quality", "quality_low", "quality_high", "random", "oracle"]
    writer.writerow(["curve", *columns, "metric"])
    for name, one in curves.items():
        if isinstance(one, Curve):
            costs = [one.cost.get(kind) for kind in kinds]  # type: ignore[call-overload]
            table = [one.share, *costs, one.quality, one.low, one.high, one.random, one.oracle]
        else:
            costs = [one.cost if kind == one.axis else None for kind in kinds]
            deferred = 1 - one.answered[:, 0]
            table = [deferred, *costs, one.quality, one.low, one.high, None, None]
        for row in range(len(one.quality)):
            cells = ["" if column is None else float(column[row]) for column in table]
            writer.writerow([name, *cells, one.metric])
    return out.getvalue()


def plot(
    curves: Mapping[str, Curve | PathCurve],
    path: Path,
    *,
    axis: Axis = "deferral",
    marks: Mapping[str, float] | None = None,
    title: str = "",
) -> None:
    """Draw quality over `axis` with 95% bands to `path`, PNG or SVG by its suffix.

    `marks` are the shares that calibrated thresholds defer, by the curve's name (of a path of
    thresholds: the mean costs). One curve alone comes with its random and oracle lines. Equal data
    make an equal file, byte for byte, with one version of matplotlib. Raises `CascadeError` for
    what cannot be drawn together, `OutputError` for another suffix, without matplotlib, and where
    `path` cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".png", ".svg"):
        raise OutputError(f"cannot draw {path}: pictures are PNG or SVG; end its name in .png.")
    if not 0 < len(curves) <= 7:
        raise CascadeError(f"{len(curves)} curves; draw one to seven, more cannot be told apart.")
    metrics = sorted({one.metric for one in curves.values()})
    if len(metrics) > 1:
        raise CascadeError(f"curves of {' and '.join(metrics)} have no common axis; draw each.")
    lines = {name: _line(name, one, axis) for name, one in curves.items()}
    unknown = [name for name in marks or {} if name not in curves]
    if unknown:
        raise CascadeError(f"no curve is called {unknown[0]!r}; mark one that is drawn.")
    at = {}
    for name, mark in (marks or {}).items():
        one, line = curves[name], lines[name]
        x = mark if isinstance(one, PathCurve) else float(np.interp(mark, one.share, line.x))
        at[name] = (x, float(np.interp(x, line.x, line.quality)))
    try:
        from featherweight.cascade.curve_picture import picture
    except ImportError:
        raise OutputError(
            f"cannot draw {path} without matplotlib; run `pip install 'featherweight[report]'`."
        ) from None
    form = suffix[1:]
    write_atomic(path, picture(lines, at, axis, metric=metrics[0], title=title, form=form))


def _line(name: str, one: Curve | PathCurve, axis: Axis) -> Line:
    first, last = one.models[0], one.models[-1]
    if isinstance(one, PathCurve):
        if axis != one.axis:
            raise CascadeError(
                f"{name}: a path has only its cost in {one.axis}; draw it over that."
            )
        back = slice(None, None, -1)
        x, quality = one.cost[back], one.quality[back]
        chord = np.interp(x, [x[0], x[-1]], [quality[0], quality[-1]])
        return Line(
            first, last, one.cost_last, x, quality, one.low[back], one.high[back], chord, None
        )
    if axis == "deferral":
        x, alone = 100 * one.share, 100.0
    elif axis in one.cost:
        x = one.cost[axis]
        alone = float(x[-1] - x[0])
    else:
        raise CascadeError(f"{name}: the curve has no {axis}; name that cost where it is made.")
    return Line(first, last, alone, x, one.quality, one.low, one.high, one.random, one.oracle)
