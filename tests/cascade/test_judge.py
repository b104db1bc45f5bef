"""Scores side by side: each figure is its own module's, on the same rows."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cascade_logs import told

from featherweight.cascade.curve import Curve, curve
from featherweight.cascade.curve_cost import PathCurve, cost_at_quality, quality_at_cost
from featherweight.cascade.judge import judged
from featherweight.cascade.make import scored
from featherweight.cascade.reliability import ece
from featherweight.cascade.scores import Score
from featherweight.cascade.types import Row
from featherweight.errors import CascadeError

LOG = told(360)
SAMPLE = scored(LOG.part("test"), [Score.parse("mean")])


def test_figures_are_those_of_the_curve() -> None:
    found = judged(LOG, ["mean", "length", "linear"], at=0.3, reaching=55.0)
    mine = found.figures["mean"]
    one = found.curves["mean"]
    assert isinstance(one, Curve) and set(one.cost) == {"seconds", "flops"}
    whole = curve(SAMPLE)
    for name in ("small", "large", "audc", "audc_random", "audc_oracle", "s_d", "auroc"):
        assert mine[name].value == getattr(whole, name).value
        assert mine[name].ci95 == getattr(whole, name).ci95
    assert mine["ece"].value == ece(SAMPLE, np.exp(SAMPLE.scores[:, 0])).error.value
    assert mine["quality_at"].value == quality_at_cost(SAMPLE, "deferral", 0.3).value
    assert mine["cost_at"].value == cost_at_quality(SAMPLE, "deferral", 55.0).value
    assert (found.n, found.metric) == (120, "accuracy") and found.groups == len(
        set(LOG.part("test").groups())
    )
    gap = found.figures["length"]["s_d"].value - mine["s_d"].value
    assert found.against["length"].mean == pytest.approx(gap)
    assert found.against.keys() == {"length", "linear"}
    low, high = found.against["length"].ci95
    assert low < gap < high


def test_json_has_no_infinity() -> None:
    found = judged(LOG, ["mean"], reaching=float(SAMPLE.quality[:, 1].mean()))
    text = json.dumps(found.to_json(), allow_nan=False)
    cost = json.loads(text)["scores"]["mean"]["cost_at"]
    assert cost["value"] > 0 and cost["ci95"][1] is None  # some draws never reach it


def test_another_split() -> None:
    assert judged(LOG, ["mean"], part="fit").n == 120
    with pytest.raises(CascadeError, match=r"no rows in the split 'test'.*--part"):
        judged(LOG.part("fit"), ["mean"])


def test_without_a_fit_split_there_is_no_ece_of_what_must_be_binned() -> None:
    found = judged(LOG.part("test"), ["mean", "sum"])
    assert "ece" in found.figures["mean"] and "ece" not in found.figures["sum"]


def test_three_stages_are_drawn_over_a_cost() -> None:
    log = told(360, stages=3)
    found = judged(log, ["mean", "min"], axis="seconds")
    assert isinstance(found.curves["mean"], PathCurve) and "audc" in found.figures["min"]
    assert found.against["min"].mean == pytest.approx(
        found.figures["min"]["audc"].value - found.figures["mean"]["audc"].value
    )
    with pytest.raises(CascadeError, match="--axis"):
        judged(log, ["mean"])


@pytest.mark.parametrize(("stages", "axis"), [(2, "deferral"), (3, "seconds")])
@pytest.mark.parametrize("part", ["fit", "test"])
def test_answers_that_all_failed_tell_nothing(stages: int, axis: str, part: str) -> None:
    log = told(360, stages=stages)

    def lost(row: Row) -> Row:
        first = replace(row.stages[0], error="timed out", token_logprobs=None)
        return replace(row, stages=(first, *row.stages[1:])) if row.split == part else row

    broken = replace(log, rows=tuple(map(lost, log.rows)))
    with pytest.raises(CascadeError, match=f"all answers of stage 0 .* in the {part} split failed"):
        judged(broken, ["min"], axis=axis)  # type: ignore[arg-type]


def test_a_constant_score_is_refused() -> None:
    def same(row: Row) -> Row:
        first = replace(row.stages[0], token_logprobs=(-1.0, -1.0))
        return replace(row, stages=(first, *row.stages[1:]))

    constant = replace(LOG, rows=tuple(map(same, LOG.rows)))
    with pytest.raises(CascadeError, match="tells none from another"):
        judged(constant, ["mean"])


def test_where_the_small_model_is_always_worse_there_is_a_curve_and_no_auroc() -> None:
    def graded(row: Row) -> Row:
        small, large = row.stages
        worse = replace(small, quality=20 + 15 * float(np.mean(small.token_logprobs or 0)))
        return replace(row, stages=(worse, replace(large, quality=80.0)))

    log = replace(LOG, rows=tuple(map(graded, LOG.rows)))
    found = judged(log, ["mean", "min"])
    assert found.figures["mean"]["s_d"].value == pytest.approx(1)  # it knows by how much
    assert found.figures["min"]["s_d"].value < 1
    assert all("auroc" not in figures for figures in found.figures.values())
    assert "auroc" in judged(LOG, ["mean"]).figures["mean"]


def test_bins_need_scores_that_differ_on_the_fit_split() -> None:
    def same(row: Row) -> Row:
        first = replace(row.stages[0], token_logprobs=(-1.0, -1.0))
        return replace(row, stages=(first, *row.stages[1:])) if row.split == "fit" else row

    found = judged(replace(LOG, rows=tuple(map(same, LOG.rows))), ["min"])
    assert "ece" not in found.figures["min"] and "auroc" in found.figures["min"]
    assert "ece" in judged(LOG, ["min"]).figures["min"]


def test_a_cost_that_is_not_known_has_no_axis() -> None:
    with pytest.raises(CascadeError, match=r"the usd of stage 0 .* are not known"):
        judged(LOG, ["mean"], axis="usd")


def test_three_stages_have_figures_at_a_cost() -> None:
    log = told(360, stages=3)
    found = judged(log, ["mean"], axis="seconds", at=20.0, reaching=50.0)
    line = found.curves["mean"]
    quality, cost = (found.figures["mean"][key] for key in ("quality_at", "cost_at"))
    assert quality.value == pytest.approx(np.interp(20.0, line.cost[::-1], line.quality[::-1]))  # type: ignore[union-attr]
    assert quality.ci95[0] < quality.value < quality.ci95[1]
    assert line.cost.min() <= cost.value <= line.cost.max()  # type: ignore[union-attr]
    assert {"quality_at", "cost_at"} < found.to_json()["scores"]["mean"].keys()


def test_nothing_is_judged_on_the_rows_it_was_made_of() -> None:
    with pytest.raises(CascadeError, match=r"linear is learned on the split 'fit' .*--part"):
        judged(LOG, ["mean", "linear"], part="fit")
    found = judged(LOG, ["mean", "sum"], part="fit")
    assert "ece" in found.figures["mean"] and "ece" not in found.figures["sum"]
    assert "ece" in judged(LOG, ["sum"], part="calibrate").figures["sum"]


def test_one_score_twice() -> None:
    with pytest.raises(CascadeError, match="named twice"):
        judged(LOG, ["mean", "mean"])


def test_costs_that_are_not_known_are_left_out() -> None:
    rows = tuple(
        replace(row, stages=(replace(row.stages[0], flops=None), row.stages[1])) for row in LOG.rows
    )
    one = judged(replace(LOG, rows=rows), ["mean"]).curves["mean"]
    assert isinstance(one, Curve) and set(one.cost) == {"seconds"}
