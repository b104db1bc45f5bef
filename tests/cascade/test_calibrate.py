"""Promises of quality: kept over many draws, the right unit, and what is refused."""

import hashlib
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cascade_logs import made, simulated
from scipy import stats

from featherweight.cascade.calibrate import for_quality, group_losses, proven
from featherweight.cascade.guarantee import betting_p, groups_needed
from featherweight.cascade.path import path
from featherweight.cascade.sample import Sample, answering, hashed_order, keys
from featherweight.cascade.types import Metric
from featherweight.errors import CascadeError

FIT = simulated(1, 150, 3, "fit")
CALIBRATE = simulated(2, 250, 3)


@pytest.mark.parametrize("stages", [2, 3])
def test_the_thresholds_are_the_last_on_the_path_that_are_proven(stages: int) -> None:
    fit, one = simulated(1, 150, 3, "fit", stages), simulated(2, 300, 3, stages=stages)
    found = for_quality(fit, one, 8, 0.05, seed=4)
    promise, steps = found.promise, path(fit, "seconds")
    count = promise["proven"]
    assert [threshold.value for threshold in found.thresholds] == steps[count - 1].tolist()
    assert len(promise["p"]) == count + 1 and promise["tried"] == len(steps)
    assert max(promise["p"][:-1]) <= 0.05 < promise["p"][-1]
    assert (promise["n"], promise["groups"], promise["fit_groups"]) == (900, 300, 150)
    assert (promise["kind"], promise["epsilon"], promise["metric"]) == ("quality", 8, "accuracy")
    # each p is what the test gives for that threshold alone, on groups in their hashes' order
    chosen, _ = answering(one.scores, found.thresholds, keys(one.log))
    lost = one.quality[:, -1] - one.quality[np.arange(900), chosen]
    by_group = {g: [x for x, h in zip(lost, one.groups, strict=True) if h == g] for g in one.groups}
    hashed = sorted(by_group, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    means = np.array([np.mean(by_group[group]) for group in hashed])
    before = (1 + group_losses(fit, steps[[count - 1]])) / 2
    p = betting_p((1 + means / 100) / 2, 0.54, before)
    assert promise["p"][count - 1] == pytest.approx(float(p[0]))
    assert found.realised.drop_of_groups.mean == pytest.approx(means.mean())
    on = chosen == stages - 1
    shares = [on[[h == g for h in one.groups]].mean() for g in by_group]
    assert found.realised.deferral_of_groups[-1].mean == pytest.approx(np.mean(shares))
    deferral = found.realised.deferral
    assert len(deferral) == stages - 1 and deferral[-1].mean == (chosen == stages - 1).mean()
    assert deferral[-1].mean < 0.95 and found.realised.drop.mean < 8


def test_no_option_changes_the_order_of_the_bets() -> None:
    """Else trying seeds until one proves it would break the promise."""
    found = [for_quality(FIT, CALIBRATE, 8, 0.05, seed=seed) for seed in range(4)]
    assert all(one.promise["p"] == found[0].promise["p"] for one in found)
    order = hashed_order(CALIBRATE.groups)
    assert sorted(order) == list(range(250)) != order.tolist()
    assert hashed_order(CALIBRATE.groups[::-1]).tolist() == order.tolist()


def test_everything_proven_trusts_everything() -> None:
    quality = np.full((400, 2), 50.0)
    rng = np.random.default_rng(1)
    fit, one = made(quality, rng.random(400), split="fit"), made(quality, rng.random(400))
    found = for_quality(fit, one, 5, 0.05)
    assert found.promise["proven"] == found.promise["tried"] == 100
    assert found.realised.deferral[0].mean < 0.02  # of scores below all of the fit split
    assert found.thresholds[0].value == fit.scores.min()


def test_wins_offset_losses() -> None:
    """The small model is as often better as worse: nothing is lost on average."""
    rng = np.random.default_rng(2)
    quality = np.column_stack([rng.choice([40.0, 60.0], 600), np.full(600, 50.0)])
    fit = made(quality, rng.random(600), split="fit")
    one = made(rng.permutation(quality), rng.random(600))
    assert for_quality(fit, one, 3, 0.05).promise["proven"] == 100


def test_a_failed_answer_is_never_trusted() -> None:
    quality = np.full((300, 2), 50.0)
    failed = quality.copy()
    failed[:150, 0] = math.nan
    rng = np.random.default_rng(3)
    fit, one = made(quality, rng.random(300), split="fit"), made(failed, rng.random(300))
    found = for_quality(fit, one, 5, 0.05)
    assert answering(one.scores, found.thresholds, keys(one.log))[0][:150].tolist() == [1] * 150
    assert found.realised.drop.mean == 0


def test_blocks_of_thresholds_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = for_quality(FIT, CALIBRATE, 8, 0.05)
    monkeypatch.setattr("featherweight.cascade.calibrate.TOGETHER", 3)
    assert for_quality(FIT, CALIBRATE, 8, 0.05).promise["p"] == pytest.approx(whole.promise["p"])


# ---- is it kept? Calibrated 2,000 times on groups of a population whose risks are known


def failures(epsilon: float, seed: int, alike: int = 1, draws: int = 2000) -> tuple[int, int]:
    """Draws of 80 groups for which the threshold chosen is too risky; and those proven.

    With `alike` groups have so many answers, all the same, and these are taken for independent.
    """
    size = 4 if alike == 1 else 1
    fit = simulated(seed, 40, size, "fit", noise=3)
    one = simulated(seed + 1, 4000, size, noise=3)
    steps = path(fit, "seconds")
    before, losses = group_losses(fit, steps), group_losses(one, steps)
    truth = losses.mean(axis=0) * 100
    rng = np.random.default_rng(seed)
    wrong = some = 0
    for _ in range(draws):
        drawn = np.repeat(losses[rng.integers(4000, size=80)], alike, axis=0)
        p = proven(drawn, before, epsilon / 100, 0.05)
        count = int((p <= 0.05).sum())
        some += count > 0
        wrong += count > 0 and bool(truth[count - 1] > epsilon)
    return wrong, some


@pytest.mark.parametrize(("epsilon", "seed"), [(8, 10), (12, 20)])
def test_the_promise_is_kept_over_many_calibrations(epsilon: float, seed: int) -> None:
    wrong, some = failures(epsilon, seed)
    print(f"epsilon {epsilon}: {wrong} of 2000 broken, proven {some}")
    assert stats.binomtest(wrong, 2000, 0.05, alternative="greater").pvalue >= 0.001
    assert some > 400


def test_counting_answers_for_groups_breaks_the_promise() -> None:
    wrong, _ = failures(12, 20, alike=8, draws=400)
    right, _ = failures(12, 20, alike=1, draws=400)
    print(f"of 400 broken: {wrong} by answers, {right} by groups")
    assert stats.binomtest(wrong, 400, 0.05, alternative="greater").pvalue < 0.001
    assert stats.binomtest(right, 400, 0.05, alternative="greater").pvalue >= 0.001


# ---- what is refused


def refused(message: str, **changes: Any) -> None:
    arguments = {"fit": FIT, "calibrate": CALIBRATE, "epsilon": 8, "delta": 0.05} | changes
    with pytest.raises(CascadeError, match=message):
        for_quality(**arguments)


def test_too_few_groups_say_how_many_are_needed() -> None:
    few = simulated(5, 35, 8)
    refused(
        r"35 groups can prove a drop of 8\.\d+ accuracy at the least, with 0.95 confidence, if no "
        r"group gains or loses; one of 1 needs \d+ groups \(and \d+ in the fit split\): "
        r"log more or raise epsilon",
        calibrate=few,
        epsilon=1,
    )
    refused("one of 1e-05 needs more than 100000 groups: log", calibrate=few, epsilon=1e-5)


def test_so_many_groups_as_it_says_are_enough() -> None:
    """The data that people are sent for is not refused again where nothing is lost."""
    few, rng = simulated(5, 35, 8), np.random.default_rng(4)
    with pytest.raises(CascadeError, match=r"needs \d+") as error:
        for_quality(simulated(1, 20, 3, "fit"), few, 3, 0.05)
    needed, fits = map(int, re.findall(r"needs (\d+) groups \(and (\d+)", str(error.value))[0])
    assert needed == groups_needed(3, 0.05, 100, 20 / 35) and fits == needed * 20 // 35

    def lossless(groups: int, split: Any) -> Sample:
        return made(np.full((groups, 2), 50.0), rng.random(groups), split=split)

    fit = lossless(fits, "fit")
    assert for_quality(fit, lossless(needed, "calibrate"), 3, 0.05).promise["proven"] > 0
    with pytest.raises(CascadeError, match="groups can prove a drop of"):
        for_quality(fit, lossless(needed - 2, "calibrate"), 3, 0.05)


def test_an_infeasible_target_says_what_is_feasible() -> None:
    """Never a rule that always defers."""
    rng = np.random.default_rng(6)
    quality = np.full((100, 2), 50.0)
    worse = quality.copy()
    worse[7, 0] = 30
    fit = made(quality, np.arange(100.0), split="fit")
    one = made(worse, rng.random(100) + 99)
    with pytest.raises(CascadeError) as error:
        for_quality(fit, one, 3.3, 0.05)
    found = re.fullmatch(
        r"a drop of at most 3.3 accuracy is not proven for even the threshold that trusts least: "
        r"100 groups prove 3.17 at best, on these a drop of (\d\.\d+) would be proven, and about "
        r"1\d\d are needed; raise epsilon and calibrate on fresh groups, or log more\.",
        str(error.value),
    )
    assert found is not None, str(error.value)
    best = float(found[1])
    assert for_quality(fit, one, best, 0.05).promise["proven"] > 0
    with pytest.raises(CascadeError, match="not proven for even"):
        for_quality(fit, one, best - 0.011, 0.05)
    # a score that trusts the worst first: the least trusting threshold already loses too much
    bad = made(
        np.column_stack([np.repeat([0.0, 100.0], 50), np.full(100, 100.0)]),
        np.concatenate([np.full(50, 9.0), rng.random(50)]),
    )
    refused("it loses 50 on them, so more groups will not do", calibrate=bad, epsilon=20)


def test_what_cannot_be_promised_is_refused() -> None:
    refused("a delta of 1 is no risk", delta=1)
    refused("an epsilon of 0 is no drop in accuracy; give one between 0 and 100", epsilon=0)
    refused("an epsilon of 100 is no drop", epsilon=100)
    refused("an epsilon of nan is no drop", epsilon=math.nan)
    other = replace(FIT, log=replace(FIT.log, metric=Metric("rouge1", 0, 100)))
    refused(r"the fit rows measure rouge1 \(0 to 100\) of m0, m1 and the calibrate", fit=other)
    refused("the group 'calibrate-0' is in the fit and in the calibrate rows", fit=CALIBRATE)
    flat = made(CALIBRATE.quality, np.ones(750), CALIBRATE.groups)
    refused("is 1 for all of the 750 answers in the calibrate split", calibrate=flat)
    for name, one in (("fit", FIT), ("calibrate", CALIBRATE)):
        online = replace(one, log=replace(one.log, extra={"online": True}))
        refused("comes from online learning", **{name: online})
    finished = replace(CALIBRATE, log=replace(CALIBRATE.log, extra={"online": False}))
    assert for_quality(FIT, finished, 8, 0.05)
