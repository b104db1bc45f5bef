"""Logistic regression that learns one example at a time, on sparse vectors.

Adagrad (Duchi, Hazan and Singer 2011): each weight has its own rate, which falls with the squares
of its gradients, so that a rare word still counts when a frequent one has long settled.
"""

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.types import Floats

RATE = 0.3
FIRST = 0.1  # the squares' beginning: a weight's first step is no leap
PENALTY = 1e-4  # L2, of weights that an example touches


class Logistic:
    """`outputs` regressions over `size` features; `weights` and `squares` are [size, outputs].

    With `softmax` the outputs are exclusive and their chances add up to 1; else each has its own.
    """

    def __init__(self, size: int, outputs: int = 1, softmax: bool = False) -> None:
        self.softmax = softmax
        self.weights: Floats = np.zeros((size, outputs))
        self.squares: Floats = np.full((size, outputs), FIRST)

    @property
    def outputs(self) -> int:
        return int(self.weights.shape[1])

    def add_output(self) -> None:
        """One class more."""
        size = len(self.weights)
        self.weights = np.hstack([self.weights, np.zeros((size, 1))])
        self.squares = np.hstack([self.squares, np.full((size, 1), FIRST)])

    def chances(self, indices: NDArray[np.intp], values: Floats) -> Floats:
        """The probability of each output: [outputs]."""
        z = values @ self.weights[indices]
        if self.softmax:
            powers = np.exp(z - z.max())
            return np.asarray(powers / powers.sum())
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -30, 30))))

    def learn(self, indices: NDArray[np.intp], values: Floats, target: Floats) -> None:
        """One step down the log loss; `target` [outputs] are probabilities. No index twice."""
        error = self.chances(indices, values) - target
        touched = self.weights[indices]
        gradient = values[:, None] * error + PENALTY * touched
        squares = self.squares[indices] + gradient**2
        self.squares[indices] = squares
        self.weights[indices] = touched - RATE * gradient / np.sqrt(squares)
