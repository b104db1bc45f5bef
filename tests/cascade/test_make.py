"""From logs to a rule that the cascade reads back."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cascade_logs import told
from rich.console import Console

from featherweight.cascade.budget import for_budget
from featherweight.cascade.calibrate import for_quality
from featherweight.cascade.fit import fit_rule
from featherweight.cascade.learned import Learned
from featherweight.cascade.log import write_log
from featherweight.cascade.make import (
    LEARNED,
    calibrate,
    chosen,
    made,
    read_logs,
    scored,
    shared_prompts,
)
from featherweight.cascade.rule_file import read_rule, write_rule
from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.types import Log
from featherweight.errors import CascadeError
from featherweight.show_cascade import print_calibration

LOG = told(600)


def test_scores_are_of_each_stages_own_answers() -> None:
    log = told(60, stages=3)
    table = scored(log, [Score.parse("mean"), Score.parse("min")]).scores
    for stage, name in enumerate(("mean", "min")):
        own = score_answers(Score.parse(name), [row.stages[stage] for row in log.rows])
        np.testing.assert_array_equal(table[:, stage], own)


def test_learned_scores_come_from_the_fit_split_alone() -> None:
    (rule,) = chosen(LOG, ["linear"])
    assert isinstance(rule, Learned) and rule.target == "gain"
    (again,) = chosen(LOG.part("fit"), ["linear"])
    assert rule == again
    (other,) = chosen(LOG, ["linear-right"])
    assert isinstance(other, Learned) and other.target == "right"
    (bent,) = chosen(LOG, ["linear-right,isotonic,no-end"])
    fit = LOG.part("fit")
    assert bent == fit_rule(fit, 0, "linear", "right", end=False, calibrate=True)
    assert isinstance(bent, Learned) and bent.knots is not None and not bent.end
    for name in ("linear,isotonic,isotonic", "linear,x", "linear,", "mean,isotonic"):
        with pytest.raises(CascadeError, match=r"no score .* each with ,no-end or ,isotonic"):
            chosen(LOG, [name])
    assert set(LEARNED) == {"boosting", "linear", "boosting-right", "linear-right"}


def test_one_score_for_all_stages_or_one_each() -> None:
    log = told(30, stages=3)
    assert chosen(log, ["sum"]) == [Score.parse("sum")] * 2
    assert chosen(log, ["sum", "min"]) == [Score.parse("sum"), Score.parse("min")]
    with pytest.raises(CascadeError, match=r"--score is given 3 times and stages that .* are 2"):
        chosen(log, ["sum", "min", "mean"])
    with pytest.raises(
        CascadeError,
        match=r"no score 'median'; choose sum, mean, .*; or one that is learned: boosting, linear,",
    ):
        chosen(log, ["median"])


@pytest.mark.parametrize("name", ["mean", "quantile:0.2", "linear", "linear-right,isotonic"])
def test_a_rule_written_and_read_decides_as_the_calibration(name: str, tmp_path: Path) -> None:
    rule, found = calibrate(LOG, [name], budget=[0.3], seed=3)
    write_rule(tmp_path / "rule.json", rule)
    read = read_rule(tmp_path / "rule.json")
    assert read == rule and read.promise["kind"] == "budget"
    (kept,) = [stage.threshold for stage in read.stages if stage.threshold is not None]
    score = read.stages[0].score
    assert score is not None
    rows = LOG.part("calibrate").rows
    values = score_answers(score, [row.stages[0] for row in rows])
    share = np.mean([kept.defers(v, row.id) for v, row in zip(values, rows, strict=True)])
    assert share == pytest.approx(found.realised.deferral[0].mean) and 0.2 < share <= 0.3
    assert (read.n, read.groups, read.data_sha256) == (200, found.promise["groups"], LOG.sha256)
    assert [point["share"] for point in read.curve] == pytest.approx(np.linspace(0, 1, 11))
    assert read.curve[0]["quality"] == pytest.approx(LOG.part("calibrate").quality()[:, 0].mean())


def test_each_target_is_its_own_calibration() -> None:
    scores = chosen(LOG, ["mean"])
    fit, kept = (scored(LOG.part(split), scores) for split in ("fit", "calibrate"))
    _, found = calibrate(LOG, ["mean"], quality=25, delta=0.1, seed=1)
    assert found.thresholds == for_quality(fit, kept, 25, 0.1, 1).thresholds
    _, found = calibrate(LOG, ["mean"], budget=[0.4], seed=1)
    assert found.thresholds == for_budget(kept, 0.4, 1).thresholds
    _, found = calibrate(LOG, ["mean"], cost=("seconds", 4.0))
    assert found.promise["kind"] == "cost" and found.promise["mean"] <= 4.0


def test_three_stages(tmp_path: Path) -> None:
    log = told(600, stages=3)
    rule, found = calibrate(log, ["mean"], budget=[0.5, 0.2])
    write_rule(tmp_path / "rule.json", rule)
    assert len(read_rule(tmp_path / "rule.json").stages) == 3
    assert len(found.thresholds) == 2 and rule.curve == ()
    with pytest.raises(CascadeError, match="1 budgets for 2 stages"):
        calibrate(log, ["mean"], budget=[0.5])


@pytest.mark.parametrize("at", [0, 1])
def test_a_stage_that_passes_everything_on_is_left_out(at: int, tmp_path: Path) -> None:
    """Greedy thresholds leave one at infinity that is always wrong, in the middle or in front."""
    rows = []
    for row in told(900, stages=3).rows:
        stages = list(row.stages)
        stages[at] = replace(stages[at], quality=0.0)
        stages[2] = replace(stages[2], quality=100.0)
        rows.append(replace(row, stages=tuple(stages)))
    log = replace(told(900, stages=3), rows=tuple(rows))
    rule, found = calibrate(log, ["mean"], quality=30)
    assert [stage.model for stage in rule.stages] == [f"gguf:m{1 - at}", "gguf:m2"]
    assert found.promise["left_out"] == [f"gguf:m{at}"] == rule.promise["left_out"]
    own = log.part("calibrate").quality()[:, 1 - at].mean()
    assert found.realised.quality_first.mean == pytest.approx(own)
    assert len(found.thresholds) == len(found.realised.deferral) == 1
    assert 0 < found.realised.deferral[0].mean < 1
    # what is left decides as the thresholds that were tested
    scores = chosen(log, ["mean"])
    fit, kept = (scored(log.part(split), scores) for split in ("fit", "calibrate"))
    tested = for_quality(fit, kept, 30, 0.05)
    assert {one.value for one in tested.thresholds} == {found.thresholds[0].value, np.inf}
    assert tested.realised.quality == found.realised.quality
    write_rule(tmp_path / "rule.json", rule)
    assert read_rule(tmp_path / "rule.json") == rule
    console = Console(width=100, record=True, file=io.StringIO())
    print_calibration(console, rule, found, tmp_path)
    assert f"gguf:m{at} is left out: it would answer nothing" in console.export_text()


def test_any_number_of_stages_gets_a_rule() -> None:
    made_ = 0
    for seed in range(6):
        log = told(900, seed, stages=3)
        for target in ({"quality": 20}, {"quality": 30}, {"cost": ("seconds", 20.0)}):
            rule, found = calibrate(log, ["mean"], **target)  # type: ignore[arg-type]
            assert len(rule.stages) + len(found.promise.get("left_out", ())) == 3
            assert found.realised.deferral[-1].mean < 1
            made_ += len(rule.stages) == 3
    assert made_  # not all end with two


def test_what_no_rule_can_be_made_of() -> None:
    with pytest.raises(CascadeError, match="does not say which models its stages are"):
        calibrate(told(300, about=False), ["mean"], budget=[0.3])
    # a budget of everything: the small stage would be paid for nothing
    with pytest.raises(CascadeError, match="would answer none of the 200 questions"):
        calibrate(LOG, ["mean"], budget=[1.0])
    with pytest.raises(CascadeError, match="no rows in the split 'calibrate'"):
        calibrate(LOG.part("fit"), ["mean"], budget=[0.3])
    online = replace(LOG, extra={**LOG.extra, "online": True})
    with pytest.raises(CascadeError, match="online learning"):
        calibrate(online, ["mean"], budget=[0.3])
    with pytest.raises(ValueError, match="no target"):
        calibrate(LOG, ["mean"])
    scores = chosen(LOG, ["mean"])
    short = replace(LOG, extra={"stages": LOG.extra["stages"][:1]})
    with pytest.raises(CascadeError, match="does not say"):
        made(short, scores, for_budget(scored(LOG.part("calibrate"), scores), 0.3))


def test_no_rule_passes_everything_on() -> None:
    """A small model that is never right, a large one that always is: nothing is to be trusted.

    The first threshold lies at the best of the fit split. Where no answer of the calibrate split is
    above it, nothing is lost there: it would be proven, and worth nothing.
    """
    refused = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows = []
        for row in LOG.rows:
            small, large = row.stages
            small = replace(small, quality=0.0, token_logprobs=(-float(rng.exponential()),))
            rows.append(replace(row, stages=(small, replace(large, quality=100.0))))
        log = replace(LOG, rows=tuple(rows))
        for name, value in (("quality", 3.7), ("cost", ("seconds", 3.0))):
            try:
                _, found = calibrate(log, ["mean"], **{name: value})  # type: ignore[arg-type]
            except CascadeError as error:
                told_ = "answer none of the 200 questions" in str(error)
                refused += told_
                assert told_ or "is not proven" in str(error) or "cannot be kept" in str(error)
                if name == "quality" and told_:  # the named drop is proven, a little less is not
                    least = float(re.findall(r"a drop of ([\d.]+) is the least", str(error))[0])
                    _, found = calibrate(log, ["mean"], quality=least)
                    assert found.realised.deferral[0].mean < 1
                    with pytest.raises(CascadeError, match=rf"{least:g} is the least"):
                        calibrate(log, ["mean"], quality=least - 0.02)
            else:
                assert found.realised.deferral[0].mean < 1
    assert refused


@pytest.mark.parametrize(
    ("missing", "asked"),
    [("calibrate", {"budget": [0.3]}), ("fit", {"quality": 25}), ("fit", {"cost": ("usd", 1.0)})],
)
def test_a_split_without_rows_is_named(missing: str, asked: dict[str, Any]) -> None:
    other = LOG.part("fit" if missing == "calibrate" else "calibrate")
    with pytest.raises(CascadeError, match=f"the log has no rows in the split '{missing}'"):
        calibrate(other, ["mean"], **asked)
    with pytest.raises(CascadeError, match="no rows in the split 'fit'"):
        chosen(LOG.part("test"), ["linear"])


def with_tokens(k: int) -> Log:
    """`LOG` with margins and entropies, whose header says they are made of `k` alternatives."""
    rows = []
    for row in LOG.rows:
        logprobs = row.stages[0].token_logprobs
        assert logprobs is not None
        chances = tuple(float(np.exp(x)) for x in logprobs)
        first = replace(row.stages[0], margins=chances, entropies=tuple(1 - p for p in chances))
        rows.append(replace(row, stages=(first, row.stages[1])))
    facts = [{**stage, "top_logprobs": k} for stage in LOG.extra["stages"]]
    return replace(LOG, rows=tuple(rows), extra={"stages": facts})


@pytest.mark.parametrize(("name", "k"), [("mean", 0), ("margin", 2), ("entropy", 3)])
def test_a_rule_asks_for_as_many_alternatives_as_the_log_had(
    name: str, k: int, tmp_path: Path
) -> None:
    """An entropy of 5 is another than one of 3, and a threshold on one says nothing of another."""
    rule, _ = calibrate(with_tokens(3), [name], budget=[0.3])
    assert [stage.top_logprobs for stage in rule.stages] == [k, 0]
    write_rule(tmp_path / "rule.json", rule)
    assert read_rule(tmp_path / "rule.json") == rule


@pytest.mark.parametrize("name", ["margin", "entropy"])
def test_alternatives_that_nobody_asked_for(name: str) -> None:
    with pytest.raises(CascadeError, match=f"says that 0 alternatives .* {name} reads 2 or more"):
        calibrate(with_tokens(0), [name], budget=[0.3])
    assert calibrate(with_tokens(0), ["mean"], budget=[0.3])


def test_a_middle_stage_that_is_not_reached_may_stay() -> None:
    """The first answers everything: that is no reason to refuse the rule."""
    log = told(900, stages=3)
    rows = tuple(
        replace(row, stages=tuple(replace(one, quality=50.0) for one in row.stages))
        for row in log.rows
    )
    whole = replace(log, rows=rows)
    rule, found = calibrate(whole, ["length"], quality=20)
    assert [share.mean for share in found.realised.deferral] == [0.0, 0.0]
    assert len(rule.stages) == 3


def test_the_header_names_its_models_once() -> None:
    first, second = LOG.extra["stages"]
    for stages in ([second, first], [first, {**second, "model": "gguf:other"}]):
        with pytest.raises(
            CascadeError, match=r"stages\[\d\] is of 'gguf:\w+', and models\[\d\] is"
        ):
            calibrate(replace(LOG, extra={"stages": stages}), ["mean"], budget=[0.3])


def broken(**changes: Any) -> list[Any]:
    first, *others = LOG.extra["stages"]
    return [{k: v for k, v in {**first, **changes}.items() if v is not ...}, *others]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["gguf:m0", "gguf:m1"], "does not say in 'stages' which models its 2 stages are; write"),
        ("gguf:m0", "does not say in 'stages'"),
        ({"gguf:m0": 1, "gguf:m1": 2}, "does not say in 'stages'"),
        ([None, None], "does not say in 'stages'"),
        (broken(model=...), r"header: stages\[0\] has no 'model'; write it as docs/cascade-log.md"),
        (broken(top_logprobs=...), r"stages\[0\] has no 'top_logprobs'"),
        (broken(top_logprobs="5"), r"stages\[0\].top_logprobs is '5'"),
        (broken(decoding=None), r"stages\[0\].decoding is .*; write it as docs"),
        (broken(decoding={"temperature": 0.0}), r"stages\[0\].decoding has no 'stop'"),
        (broken(engine="vllm"), r"stages\[0\].engine is"),
        (broken(engine=["gguf"]), r"stages\[0\].engine is"),
        (broken(identity="m0"), r"stages\[0\].identity is"),
        (broken(max_tokens=None), r"stages\[0\].max_tokens is None"),
    ],
)
def test_a_header_that_does_not_say_who_its_stages_are(
    stages: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    write_log(replace(LOG, extra={"stages": stages}), path)
    with pytest.raises(CascadeError, match=message) as error:
        calibrate(read_logs([path]), ["mean"], budget=[0.3])
    assert "cascade log`" in str(error.value) and "fit the rule" not in str(error.value)


def test_a_header_whose_stages_are_asked_differently() -> None:
    first, second = LOG.extra["stages"]
    for name, value in (("max_tokens", 7), ("decoding", {"temperature": 0.7})):
        other = second[name] | value if isinstance(value, dict) else value
        log = replace(LOG, extra={"stages": [first, {**second, name: other}]})
        with pytest.raises(CascadeError, match=rf"header: stages\[1\].{name} differs from stage 0"):
            calibrate(log, ["mean"], budget=[0.3])


def test_what_else_a_header_says_of_a_stage_is_left_alone() -> None:
    rule, _ = calibrate(LOG, ["mean"], budget=[0.3])
    more = replace(LOG, extra={"stages": broken(quantised="q8")})
    assert calibrate(more, ["mean"], budget=[0.3])[0] == rule


# ---- several files


def parts(folder: Path) -> list[Path]:
    paths = []
    for split in ("fit", "calibrate", "test"):
        paths.append(folder / f"{split}.jsonl")
        write_log(LOG.part(split), paths[-1])
    return paths


def test_logs_in_several_files_are_one(tmp_path: Path) -> None:
    joined = read_logs(parts(tmp_path))
    assert sorted(row.id for row in joined.rows) == sorted(row.id for row in LOG.rows)
    assert joined.extra["stages"] == LOG.extra["stages"]
    assert joined.sha256 == read_logs(parts(tmp_path)[::-1]).sha256 != ""
    _, one = calibrate(LOG, ["mean"], budget=[0.3])
    _, other = calibrate(joined, ["mean"], budget=[0.3])
    assert one.thresholds == other.thresholds


def test_prompts_of_several_splits_are_counted() -> None:
    assert shared_prompts(LOG) == 0
    rows = [replace(row, prompt_sha256=f"{n // 2:064x}") for n, row in enumerate(LOG.rows)]
    log = replace(LOG, rows=tuple(rows))
    two_splits = sum(a.split != b.split for a, b in zip(rows[::2], rows[1::2], strict=True))
    assert shared_prompts(log) == two_splits > 0


def test_logs_that_do_not_belong_together(tmp_path: Path) -> None:
    paths = parts(tmp_path)
    with pytest.raises(CascadeError, match=r"the question 'q0' is in .*fit.* name each log once"):
        read_logs([paths[0], paths[0]])
    other = tmp_path / "other.jsonl"
    write_log(told(12, seed=5), other)
    with pytest.raises(CascadeError, match="give the questions of different logs different ids"):
        read_logs([paths[0], other])
    write_log(told(12, stages=3), other)
    with pytest.raises(CascadeError, match="not about the same stages and metric"):
        read_logs([paths[0], other])
    facts = [{**stage, "max_tokens": 99} for stage in LOG.extra["stages"]]
    write_log(replace(LOG.part("test"), extra={"stages": facts}), other)
    with pytest.raises(CascadeError, match="not about the same stages and metric"):
        read_logs([paths[0], other])
    row = LOG.part("fit").rows[0]
    moved = replace(LOG, rows=(replace(row, id="new", split="test"),))
    write_log(moved, other)
    with pytest.raises(CascadeError, match=f"the group {row.group!r} is in two splits"):
        read_logs([paths[0], other])
    dearer = [{**stage, "usd_basis": "$1 an hour"} for stage in LOG.extra["stages"]]
    write_log(replace(LOG.part("test"), extra={"stages": dearer}), other)
    assert len(read_logs([paths[0], other]).rows) == 400


def test_a_log_made_online_stays_one(tmp_path: Path) -> None:
    paths = parts(tmp_path)
    write_log(replace(LOG.part("test"), extra={**LOG.extra, "online": True}), paths[2])
    assert read_logs(paths).extra["online"] is True
    assert "online" not in read_logs(paths[:2]).extra
