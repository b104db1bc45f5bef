"""Quality against cost: which systems are worth their price, as a table and as a picture.

Plain data in; intervals on both axes. A system whose cost nobody measured keeps its place on the
quality axis and is shown beside the picture's right edge: it is neither dropped nor given a cost.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from featherweight.errors import DataError, OutputError
from featherweight.files import write_atomic

Interval = tuple[float, float]
UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class System:
    """One system: quality (more is better) and cost (less is better), each with its interval.

    `cost` is `None` where it was not measured, an interval is `None` where there is none.
    `family` groups systems by colour. `measured` is False for figures quoted from elsewhere.
    """

    name: str
    quality: float
    quality_ci95: Interval | None = None
    cost: float | None = None
    cost_ci95: Interval | None = None
    family: str = ""
    measured: bool = True


def pareto(systems: Iterable[System]) -> list[System]:
    """The systems that no other beats on both counts, by rising cost.

    One is beaten by another that is at least as good and at most as dear, and better in one of the
    two. Means decide; the intervals say how sure that is. Without a cost none is compared.
    """
    priced = [(system, system.cost) for system in systems if system.cost is not None]
    front = [
        (cost, one)
        for one, cost in priced
        if not any(
            other.quality >= one.quality
            and its <= cost
            and (other.quality > one.quality or its < cost)
            for other, its in priced
        )
    ]
    return [one for _, one in sorted(front, key=lambda pair: pair[0])]


# ---- tables


def markdown(systems: Sequence[System], *, quality_label: str, cost_label: str) -> str:
    """A Markdown table, best quality first, intervals in brackets; the front is marked."""
    _check(systems)
    front = pareto(systems)
    lines = [
        f"| system | {_cell(quality_label)} [95% CI] | {_cell(cost_label)} [95% CI] "
        "| not beaten on both |",
        "| --- | --- | --- | --- |",
    ]
    for one in _ranked(systems):
        name = _cell(one.name) + ("" if one.measured else " (quoted)")
        quality = _number(one.quality, one.quality_ci95, "{:.2f}")
        cost = UNKNOWN if one.cost is None else _number(one.cost, one.cost_ci95, "{:.3g}")
        mark = "" if one.cost is None else "yes" if one in front else "no"
        lines.append(f"| {name} | {quality} | {cost} | {mark} |")
    return "\n".join(lines) + "\n"


def csv_text(systems: Sequence[System], *, quality_label: str, cost_label: str) -> str:
    """The same as CSV for programs: full precision, an empty cell where nothing was measured."""
    _check(systems)
    front = pareto(systems)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        "system family measured quality quality_low quality_high quality_label "
        "cost cost_low cost_high cost_label pareto".split()
    )
    for one in _ranked(systems):
        best = "yes" if one in front else "no"
        row: list[object] = [one.name, one.family, "yes" if one.measured else "quoted"]
        row += [one.quality, *(one.quality_ci95 or ("", "")), quality_label]
        row += ["" if one.cost is None else one.cost, *(one.cost_ci95 or ("", "")), cost_label]
        writer.writerow([*row, "" if one.cost is None else best])
    return out.getvalue()


def _ranked(systems: Iterable[System]) -> list[System]:
    return sorted(systems, key=lambda one: -one.quality)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _number(mean: float, ci95: Interval | None, form: str) -> str:
    text = form.format(mean)
    return text if ci95 is None else f"{text} [{form.format(ci95[0])}, {form.format(ci95[1])}]"


def _check(systems: Sequence[System]) -> None:
    """Raise `DataError` for what would be drawn or listed wrongly."""
    names: set[str] = set()
    for one in systems:
        if not one.name.strip() or one.name in names:
            raise DataError(f"the system {one.name!r} stands twice or has no name; name each once.")
        names.add(one.name)
        for what, mean, ci95 in (
            ("quality", one.quality, one.quality_ci95),
            ("cost", one.cost, one.cost_ci95),
        ):
            values = [*([] if mean is None else [mean]), *(ci95 or ())]
            if not all(math.isfinite(value) for value in values):
                raise DataError(f"{one.name}: its {what} is not a finite number; measure it again.")
            if ci95 is not None and (mean is None or ci95[0] > ci95[1]):
                raise DataError(f"{one.name}: its interval of {what} is no interval; check it.")


# ---- the picture


def plot(
    systems: Sequence[System],
    path: Path,
    *,
    quality_label: str,
    cost_label: str,
    title: str = "",
    log_cost: bool = True,
) -> None:
    """Draw quality over cost with 95% intervals to `path`, PNG or SVG by its suffix.

    A stair joins the systems that none beats on both. Systems without a measured cost are dashed
    lines at their quality, named at the right. Equal data make an equal file, byte for byte, with
    one version of matplotlib. Raises `DataError` for data that cannot be drawn, `OutputError` for
    another suffix, without matplotlib, and where `path` cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".png", ".svg"):
        raise OutputError(f"cannot draw {path}: pictures are PNG or SVG; end its name in .png.")
    _check(systems)
    costs = {one.name: one.cost for one in systems if one.cost is not None}
    if not costs:
        raise DataError("no system has a measured cost, so there is nothing to draw; measure one.")
    if log_cost and (low := min(costs, key=lambda name: costs[name])) and costs[low] <= 0:
        raise DataError(
            f"{low}: a cost of {costs[low]:g} has no place on a logarithmic axis; draw it with a "
            "linear one."
        )
    try:
        from featherweight.evaluate.tradeoff_plot import picture
    except ImportError:
        raise OutputError(
            f"cannot draw {path} without matplotlib; run `pip install 'featherweight[report]'`."
        ) from None
    write_atomic(
        path,
        picture(
            systems,
            pareto(systems),
            form=suffix[1:],
            quality_label=quality_label,
            cost_label=cost_label,
            title=title,
            log_cost=log_cost,
        ),
    )
