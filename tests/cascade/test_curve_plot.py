"""The table and the picture of curves."""

import csv
import io
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cascade_logs import simulated

from featherweight.cascade.curve import Curve, curve
from featherweight.cascade.curve_cost import PathCurve, path_curve
from featherweight.cascade.curve_plot import csv_text, plot
from featherweight.cascade.path import path
from featherweight.errors import CascadeError, OutputError

ONE: Curve = curve(simulated(1, 60, 3), ["flops"], resamples=200)
THREE = simulated(2, 60, 3, stages=3)
STEPS = path(THREE, "seconds")
PATH: PathCurve = path_curve(THREE, STEPS, "seconds", resamples=200)


def test_a_table_of_all_points() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text({"mean, all": ONE, "three": PATH}))))
    first = [row for row in rows if row["curve"] == "mean, all"]
    assert len(first) == 101 and {row["metric"] for row in rows} == {"accuracy"}
    for name, column in (
        ("deferral", ONE.share),
        ("flops", ONE.cost["flops"]),
        ("quality", ONE.quality),
        ("quality_low", ONE.low),
        ("quality_high", ONE.high),
        ("random", ONE.random),
        ("oracle", ONE.oracle),
    ):
        assert [float(row[name]) for row in first] == list(column)
    assert {row["seconds"] for row in first} == {""}
    other = [row for row in rows if row["curve"] == "three"]
    assert [float(row["seconds"]) for row in other] == list(PATH.cost)
    assert [float(row["deferral"]) for row in other] == list(1 - PATH.answered[:, 0])
    assert {row["oracle"] for row in other} == {""}


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("featherweight.cascade.curve_picture", "featherweight.evaluate.tradeoff_plot"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # makes the import fail
    with pytest.raises(OutputError, match=r"pip install 'featherweight\[report\]'"):
        plot({"mean": ONE}, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    def refused(message: str, curves: Any, name: str = "x.png", **settings: Any) -> None:
        with pytest.raises((CascadeError, OutputError), match=message):
            plot(curves, tmp_path / name, **settings)

    refused("pictures are PNG or SVG", {"a": ONE}, "x.pdf")
    refused("0 curves; draw one to seven", {})
    refused("8 curves; draw one to seven", {str(i): ONE for i in range(8)})
    refused("curves of accuracy and f1 have no", {"a": ONE, "b": replace(ONE, metric="f1")})
    refused("a: the curve has no usd; name that cost", {"a": ONE}, axis="usd")
    refused("c: a path has only its cost in seconds", {"c": PATH}, axis="flops")
    refused("no curve is called 'b'", {"a": ONE}, marks={"b": 0.3})
    assert not list(tmp_path.iterdir())


class TestPicture:
    @pytest.fixture(autouse=True)
    def module(self) -> Any:
        pytest.importorskip("matplotlib")
        from featherweight.cascade import curve_picture

        return curve_picture

    @pytest.fixture
    def drawn(self, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A function that plots and gives the figure and the texts in it."""
        from matplotlib.text import Text

        figures: list[Any] = []

        class Watched(module.Figure):  # type: ignore[misc, name-defined]
            def __init__(self, **settings: Any) -> None:
                super().__init__(**settings)
                figures.append(self)

        monkeypatch.setattr(module, "Figure", Watched)

        def draw(curves: Any, **settings: Any) -> tuple[Any, list[str]]:
            plot(curves, tmp_path / "x.png", **settings)
            found = figures[-1].findobj(Text)
            return figures[-1], [text.get_text() for text in found if text.get_text()]

        return draw

    def test_equal_data_make_an_equal_file(self, tmp_path: Path) -> None:
        import matplotlib

        for name in ("x.png", "x.SVG"):
            plot({"a": ONE}, tmp_path / name, marks={"a": 0.4})
            first = (tmp_path / name).read_bytes()
            with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "svg.hashsalt": "z"}):
                before = dict(matplotlib.rcParams)
                plot({"a": ONE}, tmp_path / name, marks={"a": 0.4})
                assert dict(matplotlib.rcParams) == before
            assert (tmp_path / name).read_bytes() == first
            plot({"a": ONE}, tmp_path / name, marks={"a": 0.5})
            assert (tmp_path / name).read_bytes() != first
        png = (tmp_path / "x.png").read_bytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", png[16:20])[0] == 1600

    def test_one_curve_with_all_that_it_is_held_against(self, drawn: Any) -> None:
        figure, texts = drawn({"mean $p$": ONE}, marks={"mean $p$": 0.4}, title="cost in $ and $")
        quality = ONE.quality[40]
        for text in (
            "mean \\$p\\$, 95% interval",
            "oracle",
            "random",
            "m0 alone",
            "m1\nalone",
            f"calibrated: 40.0% deferred, {quality:.1f}",
            "questions deferred, %",
            "accuracy",
            "cost in \\$ and \\$",
        ):
            assert text in texts
        (axes,) = figure.axes
        lines = {line.get_label(): line for line in axes.lines}
        assert lines["oracle"].get_ydata() == pytest.approx(ONE.oracle)
        assert lines["random"].get_ydata() == pytest.approx(ONE.random)
        assert lines["random"].get_xdata() == pytest.approx(np.linspace(0, 100, 101))
        diamonds = [line for line in axes.lines if line.get_marker() == "D"]
        assert [(d.get_xdata(), d.get_ydata()) for d in diamonds] == [([40], [quality])]

    def test_over_cost_the_large_model_alone_costs_less_than_passing_all_on(
        self, drawn: Any
    ) -> None:
        figure, texts = drawn({"mean": ONE}, axis="flops", marks={"mean": 0.5})
        assert {"m1 alone", "all passed on to\nm1", "FLOPs a question, mean"} <= set(texts)
        assert any(text.startswith("calibrated: 5.50G FLOPs") for text in texts)
        hollow = [x for x in figure.axes[0].lines if x.get_markerfacecolor() == "white"]
        assert [line.get_xdata() for line in hollow] == [pytest.approx([9e9])]

    def test_three_stages(self, drawn: Any) -> None:
        figure, texts = drawn({"three": PATH}, axis="seconds", marks={"three": 20.0})
        assert "straight between the ends" in texts and "oracle" not in texts
        assert {"m0 alone", "m2 alone", "all passed on to\nm2"} <= set(texts)
        assert any(text.startswith("calibrated: 20 seconds, ") for text in texts)
        hollow = [x for x in figure.axes[0].lines if x.get_markerfacecolor() == "white"]
        assert [line.get_xdata() for line in hollow] == [pytest.approx([30.0])]

    def test_several_curves_stay_inside_the_picture(self, drawn: Any) -> None:
        """With long names of curves and models, and every threshold marked."""
        model = "openai:https://models.example.org/v1#a-very-large-model-indeed"
        one = replace(ONE, models=("m0", model))
        curves = {f"the score that is number {i} of all of them": one for i in range(7)}
        figure, texts = drawn(
            curves, axis="flops", marks=dict.fromkeys(curves, 0.9), title="t" * 60
        )
        assert set(curves) <= set(texts) and "oracle" not in texts
        (axes,) = figure.axes
        frame = axes.get_window_extent()
        assert frame.width > 0.5 * figure.bbox.width and frame.height > 0.4 * figure.bbox.height
        for text in [*axes.texts, *figure.texts, *figure.legends]:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, text
            assert box.y0 >= 0 and box.y1 <= figure.bbox.height, text
        (legend,) = figure.legends
        assert legend.get_window_extent().y0 >= frame.y1

    def test_a_large_model_that_is_worse(self, drawn: Any) -> None:
        flat = replace(ONE, **{n: getattr(ONE, n)[::-1] for n in ("quality", "low", "high")})
        figure, _ = drawn({"mean": flat})
        (label,) = [text for text in figure.axes[0].texts if text.get_text() == "m0 alone"]
        assert label.get_va() == "bottom"  # above its point: the curve falls away below

    def test_neither_pyplot_nor_matplotlib_before_it_is_needed(self) -> None:
        code = (
            "import sys; import featherweight.cascade.curve_plot;"
            "assert 'matplotlib' not in sys.modules;"
            "import featherweight.cascade.curve_picture;"
            "assert 'matplotlib.pyplot' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
