"""Logistic regression, one example at a time: against dense float64, and against scikit-learn."""

import numpy as np
import pytest

from featherweight.cascade.logistic import FIRST, PENALTY, RATE, Logistic


def test_a_step_is_adagrads_on_the_gradient_of_the_log_loss() -> None:
    rng = np.random.default_rng(0)
    for softmax, outputs in ((True, 3), (False, 1), (False, 2)):
        model = Logistic(6, outputs, softmax)
        model.weights = rng.normal(size=(6, outputs))
        before, squares = model.weights.copy(), model.squares.copy()
        indices, values = np.array([1, 4]), np.array([0.6, -0.8])
        target = rng.dirichlet(np.ones(outputs)) if softmax else rng.uniform(size=outputs)

        def loss(
            weights: np.ndarray, softmax: bool = softmax, target: np.ndarray = target
        ) -> float:
            z = np.array([0, 0.6, 0, 0, -0.8, 0]) @ weights
            touched = PENALTY / 2 * (weights[[1, 4]] ** 2).sum()
            if softmax:
                return float(np.log(np.exp(z).sum()) - target @ z + touched)
            return float((np.logaddexp(0, z) - target * z).sum() + touched)

        model.learn(indices, values, target)
        for place in np.ndindex(before.shape):
            up, down = before.copy(), before.copy()
            up[place] += 1e-6
            down[place] -= 1e-6
            gradient = (loss(up) - loss(down)) / 2e-6 if place[0] in (1, 4) else 0.0
            wanted = squares[place] + gradient**2
            assert model.squares[place] == pytest.approx(wanted, abs=1e-7)
            step = RATE * gradient / wanted**0.5
            assert model.weights[place] == pytest.approx(before[place] - step, abs=1e-7)


def test_two_exclusive_outputs_are_one_of_their_difference() -> None:
    both, one = Logistic(3, 2, softmax=True), Logistic(3)
    both.weights = np.array([[0.3, 1.0], [0.0, -2.0], [0.5, 0.5]])
    one.weights = both.weights[:, 1:] - both.weights[:, :1]
    x = np.array([0, 1]), np.array([2.0, 0.25])
    assert both.chances(*x)[1] == pytest.approx(float(one.chances(*x)[0]))


def test_huge_scores_give_numbers() -> None:
    for softmax in (True, False):
        model = Logistic(1, 2, softmax)
        model.weights[0] = [1e6, -1e6]
        found = model.chances(np.array([0]), np.array([1.0]))
        assert np.isfinite(found).all() and found[0] > 0.999 > 0.001 > found[1]


def test_a_further_class_changes_nothing_between_the_others() -> None:
    model = Logistic(2, 2, softmax=True)
    model.weights = np.array([[1.0, -1.0], [0.5, 2.0]])
    x = np.array([0, 1]), np.array([1.0, 0.5])
    before = model.chances(*x)
    model.add_output()
    after = model.chances(*x)
    assert model.outputs == 3 and after.sum() == pytest.approx(1)
    assert after[0] / after[1] == pytest.approx(before[0] / before[1])
    assert (model.squares[:, 2] == FIRST).all()


def test_it_comes_to_what_scikit_learn_finds() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(400), rng.normal(size=(400, 3))])
    chance = 1 / (1 + np.exp(-(x @ [0.3, 1.5, -1.0, 0.0])))
    y = (rng.uniform(size=400) < chance).astype(float)
    model = Logistic(4)
    for row in rng.integers(400, size=20_000):
        model.learn(np.arange(4), x[row], y[row : row + 1])
    wanted = linear_model.LogisticRegression(C=1e6, fit_intercept=False).fit(x, y)
    np.testing.assert_allclose(model.weights[:, 0], wanted.coef_[0], atol=0.1)
