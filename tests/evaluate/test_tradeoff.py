"""Quality against cost: the front by another rule, tables read back, and what the picture holds."""

import csv
import io
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import DataError, OutputError
from featherweight.evaluate.tradeoff import System, csv_text, markdown, pareto, plot

LABELS = {"quality_label": "ROUGE-1", "cost_label": "US dollars a query"}


def system(name: str, quality: float, cost: float | None, family: str = "") -> System:
    width = None if cost is None else (cost * 0.85, cost * 1.2)
    return System(name, quality, (quality - 1.1, quality + 1.0), cost, width, family)


SYSTEMS = [
    system("lead-3", 13.1, 0.00005, "baseline"),
    system("135M zero-shot", 15.2, 0.00009, "zero-shot"),
    system("135M + SFT", 24.8, 0.0001, "fine-tuned"),
    system("135M + NEO", 26.1, 0.000102, "distilled"),
    system("0.5B zero-shot", 19.4, 0.00034, "zero-shot"),
    system("0.5B + LoRA", 28.9, 0.00036, "fine-tuned"),
    system("0.5B + NEO", 30.6, 0.00037, "distilled"),
    system("T5-base + SFT", 29.6, 0.00029, "fine-tuned"),
    system("T5-large + SFT", 33.8, 0.00091, "fine-tuned"),
    system("T5-large, 4 bit", 33.1, 0.00055, "compressed"),
    system("8B zero-shot", 30.9, 0.0071, "zero-shot"),
    system("cascade, 30% deferred", 34.3, 0.0026, "cascade"),
    system("hosted", 36.9, 0.051, "zero-shot"),
    system("BART-large", 33.6, None, "fine-tuned"),
    System("GPT-4", 38.2, family="zero-shot", measured=False),
]


# ---- the front

GRID = st.integers(0, 5).map(float)


@given(st.lists(st.tuples(GRID, st.none() | GRID), max_size=12))
def test_the_front_is_a_sweep_by_rising_cost(pairs: list[tuple[float, float | None]]) -> None:
    systems = [System(str(i), quality, cost=cost) for i, (quality, cost) in enumerate(pairs)]
    swept: list[System] = []
    best = -1.0
    priced = sorted((one for one in systems if one.cost is not None), key=lambda one: one.cost or 0)
    for _, group in groupby(priced, key=lambda one: one.cost):
        alike = list(group)
        most = max(one.quality for one in alike)
        if most > best:
            swept += [one for one in alike if one.quality == most]
            best = most
    assert pareto(systems) == swept


# ---- tables


def test_a_table_for_people() -> None:
    lines = markdown(SYSTEMS, **LABELS).splitlines()
    assert lines[0] == (
        "| system | ROUGE-1 [95% CI] | US dollars a query [95% CI] | not beaten on both |"
    )
    assert lines[2] == "| GPT-4 (quoted) | 38.20 | not measured |  |"
    assert lines[3] == "| hosted | 36.90 [35.80, 37.90] | 0.051 [0.0433, 0.0612] | yes |"
    assert any(line.startswith("| 8B zero-shot |") and line.endswith("| no |") for line in lines)
    assert len(lines) == 2 + len(SYSTEMS)
    piped = markdown([System("a|b\nc", 1.0)], quality_label="x|y", cost_label="z").splitlines()
    assert piped[0].startswith("| system | x\\|y [95% CI]")
    assert piped[2] == "| a\\|b c | 1.00 | not measured |  |"


def test_a_table_for_programs() -> None:
    odd = replace(SYSTEMS[0], name='a, "b"', quality=1 / 3)
    rows = list(csv.DictReader(io.StringIO(csv_text([*SYSTEMS, odd], **LABELS))))
    by_name = {row["system"]: row for row in rows}
    assert float(by_name['a, "b"']["quality"]) == 1 / 3
    hosted = by_name["hosted"]
    assert (float(hosted["cost_low"]), hosted["pareto"]) == (0.051 * 0.85, "yes")
    assert hosted["cost_label"] == "US dollars a query" and hosted["measured"] == "yes"
    quoted = by_name["GPT-4"]
    assert (quoted["cost"], quoted["quality_low"], quoted["pareto"]) == ("", "", "")
    assert quoted["measured"] == "quoted"
    assert by_name["8B zero-shot"]["pareto"] == "no"


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        ([System("a", 1.0), System("a", 2.0)], "'a' stands twice"),
        ([System(" ", 1.0)], "has no name"),
        ([System("a", float("nan"))], "a: its quality is not a finite"),
        ([System("a", 1.0, cost=float("inf"))], "a: its cost is not a finite"),
        ([System("a", 1.0, (0.0, float("nan")))], "a: its quality is not a finite"),
        ([System("a", 1.0, (2.0, 1.0))], "a: its interval of quality"),
        ([System("a", 1.0, None, None, (1.0, 2.0))], "a: its interval of cost"),
    ],
)
def test_data_that_would_mislead(systems: list[System], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for make in (markdown, csv_text, lambda s, **k: plot(s, path, **k)):
        with pytest.raises(DataError, match=message):
            make(systems, **LABELS)
    assert not path.exists()


# ---- the picture


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "featherweight.evaluate.tradeoff_plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # makes the import fail
    path = tmp_path / "x.png"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"pip install 'featherweight\[report\]'"):
        plot(SYSTEMS, path, **LABELS)
    assert path.read_text() == "old"


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="PNG or SVG"):
        plot(SYSTEMS, tmp_path / "x.pdf", **LABELS)
    with pytest.raises(DataError, match="no system has a measured cost"):
        plot(SYSTEMS[-2:], tmp_path / "x.png", **LABELS)
    free = [*SYSTEMS, System("free", 9.0, cost=0.0)]
    with pytest.raises(DataError, match="free: a cost of 0 has no place"):
        plot(free, tmp_path / "x.png", **LABELS)
    assert list(tmp_path.iterdir()) == []


class TestPicture:
    @pytest.fixture(autouse=True)
    def module(self) -> Any:
        pytest.importorskip("matplotlib")
        from featherweight.evaluate import tradeoff_plot

        return tradeoff_plot

    def test_equal_data_make_an_equal_file(self, tmp_path: Path) -> None:
        import matplotlib

        for name in ("x.png", "x.SVG"):
            plot(SYSTEMS, tmp_path / name, **LABELS)
            first = (tmp_path / name).read_bytes()
            with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "svg.hashsalt": "z"}):
                before = dict(matplotlib.rcParams)
                plot(SYSTEMS, tmp_path / name, **LABELS)
                assert dict(matplotlib.rcParams) == before
            assert (tmp_path / name).read_bytes() == first
            changed = [replace(SYSTEMS[0], quality=14.0), *SYSTEMS[1:]]
            plot(changed, tmp_path / name, **LABELS)
            assert (tmp_path / name).read_bytes() != first
        png = (tmp_path / "x.png").read_bytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">I", png[16:20])[0] == 1600

    def test_every_system_and_sign_is_there(
        self, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from matplotlib.text import Text

        figures: list[Any] = []

        class Watched(module.Figure):  # type: ignore[misc, name-defined]
            def __init__(self, **settings: Any) -> None:
                super().__init__(**settings)
                figures.append(self)

        def texts() -> list[str]:
            return [t.get_text().replace("\\$", "$") for t in figures[-1].findobj(Text)]

        monkeypatch.setattr(module, "Figure", Watched)
        path = tmp_path / "x.svg"
        plot(SYSTEMS, path, title="Costs $1 or $2", **LABELS)
        ElementTree.fromstring(path.read_bytes())
        signs = ["cost not measured", "95% interval", "not beaten on both"]
        families = {one.family for one in SYSTEMS}
        names = [one.name for one in SYSTEMS if one.measured] + ["GPT-4 (quoted)"]
        drawn = texts()
        for label in [*names, *families, *LABELS.values(), *signs, "Costs $1 or $2"]:
            assert drawn.count(label) == 1, label
        plot([System("alone", 1.0, cost=2.0, family="f")], path, **LABELS)
        drawn = texts()
        assert "alone" in drawn and not {*signs, "f"} & set(drawn)

    @pytest.mark.parametrize("log_cost", [True, False])
    def test_no_name_covers_another_or_a_point(
        self, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_cost: bool
    ) -> None:
        seen: list[Any] = []
        place = module.place

        def watched(points: Any, sizes: Any, *rest: Any) -> Any:
            seen.append((points, sizes, rest[2], place(points, sizes, *rest)))
            return seen[-1][-1]

        monkeypatch.setattr(module, "place", watched)
        plot(SYSTEMS, tmp_path / "x.png", log_cost=log_cost, **LABELS)
        points, sizes, frame, boxes = seen[0]
        assert len(boxes) == len(SYSTEMS) - 2
        assert np.allclose(boxes[:, 2:] - boxes[:, :2], sizes)
        common = module.overlaps(boxes, boxes)
        assert (common[~np.eye(len(boxes), dtype=bool)] == 0).all()
        if log_cost:  # on a linear axis most points lie in one column
            dots = np.hstack([points - 5, points + 5])
            assert (module.overlaps(boxes, dots) == 0).all()
            assert (boxes[:, :2] >= frame[:2]).all() and (boxes[:, 2:] <= frame[2:]).all()

    def test_names_of_one_place_find_places(self, module: Any) -> None:
        points = np.full((10, 2), 500.0)
        sizes = np.full((10, 2), (150.0, 20.0))
        nothing, frame = np.empty((0, 4)), np.array([0.0, 0, 1000, 1000])
        boxes = module.place(points, sizes, nothing, np.empty(0), frame, 2.0)
        common = module.overlaps(boxes, boxes)
        assert (common[~np.eye(10, dtype=bool)] == 0).all()
        alone = module.place(points[:1], sizes[:1], nothing, np.empty(0), frame, 2.0)
        assert alone[0].tolist() == [516, 490, 666, 510]  # to the right
        edge = module.place(points[:1] + 490, sizes[:1], nothing, np.empty(0), frame, 2.0)
        assert edge[0][2] <= 1000

    def test_a_way_through_a_box(self, module: Any) -> None:
        ways = module._ways(np.array([0.0, 0.0]), np.array([[10.0, -1, 12, 1], [-1, 10, 1, 12]]))
        boxes = np.array([[4.0, -2, 7, 2], [4.0, 1, 7, 2], [10, -1, 12, 1]])
        assert module.crossings(ways, boxes).tolist() == [[True, False, False], [False] * 3]

    @given(st.lists(st.integers(0, 300).map(float), min_size=1, max_size=12))
    def test_names_at_the_edge_move_as_little_as_needed(self, wanted: list[float]) -> None:
        from featherweight.evaluate.tradeoff_plot import spread

        wanted.sort()
        found = spread(wanted, 20.0)
        assert len(found) == len(wanted)
        assert all(b - a >= 20 - 1e-9 for a, b in pairwise(found))
        assert sum(found) == pytest.approx(sum(wanted))
        if all(b - a >= 20 for a, b in pairwise(wanted)):
            assert found == pytest.approx(wanted)

    def test_many_families_look_different(self, module: Any) -> None:
        systems = [System(str(i), 1.0, family=str(i)) for i in range(40)]
        assert len(set(module._looks(systems).values())) == 40

    def test_neither_pyplot_nor_matplotlib_before_it_is_needed(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path;"
            "from featherweight.evaluate.tradeoff import System, plot;"
            "assert 'matplotlib' not in sys.modules;"
            "plot([System('a', 1.0, cost=2.0)], Path(sys.argv[1]),"
            " quality_label='q', cost_label='c');"
            "assert 'matplotlib.pyplot' not in sys.modules"
        )
        path = tmp_path / "x.png"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)
        assert path.exists()
