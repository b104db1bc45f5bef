"""The check of a promise: it passes where the promise is kept and fails where it is not."""

import numpy as np
import pytest
from cascade_logs import made, simulated
from scipy import stats

from featherweight.cascade import validity as module
from featherweight.cascade.path import path
from featherweight.cascade.validity import at_least, validity
from featherweight.errors import CascadeError

FIT, POPULATION = simulated(1, 60, 4, "fit"), simulated(2, 200, 4)


def test_a_promise_that_is_kept_passes() -> None:
    found = validity(FIT, POPULATION, 8, 0.1)
    assert found.kept and found.p >= 0.001
    assert found.groups == 200 and len(found.risks) == 200
    assert found.proven > 100
    assert found.failures == (found.risks > 8).sum() < found.proven
    fewer = validity(FIT, POPULATION, 8, 0.1, groups=60, draws=50, seed=1)
    assert len(fewer.risks) == 50 and fewer.groups == 60


def test_risks_are_the_populations() -> None:
    found = validity(FIT, POPULATION, 8, 0.1, draws=20)
    steps = path(FIT, "seconds")
    group = np.array(POPULATION.groups)
    possible = []
    for value in steps[:, 0]:
        lost = np.where(POPULATION.scores[:, 0] >= value, POPULATION.loss[:, 0], 0.0)
        possible.append(np.mean([lost[group == name].mean() for name in set(POPULATION.groups)]))
    for risk in found.risks[np.isfinite(found.risks)]:
        assert np.abs(np.array(possible) - risk).min() < 1e-9


def test_a_promise_that_is_broken_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that proves what the mean of the drawn groups allows, and looks no further."""

    def careless(losses, before, epsilon, delta):  # type: ignore[no-untyped-def]
        p = np.where(losses.mean(axis=0) <= epsilon, 0.0, 1.0)
        return p[: np.argmax(p) + 1]

    monkeypatch.setattr(module, "proven", careless)
    found = validity(FIT, POPULATION, 8, 0.1)
    print(f"{found.failures} of 200 broken, p {found.p:.1e}")
    assert not found.kept and found.failures > 40


def test_draws_that_prove_nothing_promise_nothing() -> None:
    """The answers trusted first are those that are lost."""
    rng = np.random.default_rng(3)
    quality = np.column_stack([np.repeat([0.0, 100.0], 50), np.full(100, 100.0)])
    fit = made(quality, rng.random(100), split="fit")
    bad = made(quality, np.repeat([2.0, 1.0], 50) + 0.1 * rng.random(100))
    found = validity(fit, bad, 20, 0.05, draws=20)
    assert found.proven == 0 and np.isnan(found.risks).all()
    assert found.failures == 0 and found.p == 1 and found.kept


def test_what_no_data_of_that_size_supports_is_refused() -> None:
    with pytest.raises(CascadeError, match="30 groups can prove a drop of"):
        validity(FIT, POPULATION, 3, 0.05, groups=30)


def test_the_binomial_test_is_scipys() -> None:
    for failures in (0, 1, 15, 30, 200):
        expected = stats.binomtest(failures, 200, 0.07, alternative="greater").pvalue
        assert at_least(failures, 200, 0.07) == pytest.approx(expected, rel=1e-6, abs=1e-13)
