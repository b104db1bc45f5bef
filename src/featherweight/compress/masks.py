"""Which weights go: exactly as many as asked for, ties included.

Scores [R, C] say what a weight is worth; masks [R, C] bool are True where it stays.
"""

import numpy as np
import torch
from torch import Tensor

CYCLES = 50  # DSnoT's swaps a row at most; its authors' setting
SETTLED = 0.1  # DSnoT: an expected error below this is left alone; its authors' setting


def count(total: int, sparsity: float) -> int:
    """How many of `total` go."""
    return round(total * sparsity)


def smallest(scores: Tensor, number: int) -> Tensor:
    """Mask without the `number` smallest scores of all; among equal ones the first go."""
    flat = scores.flatten()
    gone = torch.zeros_like(flat, dtype=torch.bool)
    if number:
        limit = _limit(flat, number)
        gone = flat < limit
        ties = (flat == limit).nonzero()[:, 0]
        gone[ties[: number - int(gone.count_nonzero())]] = True
    return ~gone.view(scores.shape)


def _limit(scores: Tensor, number: int) -> Tensor:
    """The `number`-th smallest of the last axis, which stays as one entry."""
    if scores.is_cpu:  # where numpy's selection takes a tenth of torch's time
        found = np.partition(scores.numpy(), number - 1)[..., number - 1 : number]
        return torch.from_numpy(found.copy())
    return scores.kthvalue(number, keepdim=True).values


def smallest_of_rows(scores: Tensor, sparsity: float) -> Tensor:
    """Mask without each row's smallest; rows lose one more or less so that the total is exact."""
    rows, columns = scores.shape
    base, extra = divmod(count(rows * columns, sparsity), rows)
    parts = ((scores[:extra], base + 1), (scores[extra:], base))
    return torch.cat([_smallest_of_each(part, number) for part, number in parts])


def _smallest_of_each(scores: Tensor, number: int) -> Tensor:
    """Mask without the `number` smallest of every row; among equal ones the first go."""
    if not (number and len(scores)):
        return torch.ones_like(scores, dtype=torch.bool)
    gone = scores <= _limit(scores, number)
    for row in (gone.count_nonzero(1) > number).nonzero()[:, 0].tolist():
        gone[row] = ~smallest(scores[row], number)
    return ~gone


def smallest_of_neighbours(scores: Tensor, pattern: tuple[int, int]) -> Tensor:
    """Mask without the `pattern[0]` smallest of every `pattern[1]` neighbours of a row."""
    zeros, of = pattern
    grouped = scores.reshape(scores.shape[0], -1, of)
    before = torch.zeros_like(grouped, dtype=torch.int8)  # how many of its neighbours go first
    for place in range(of):
        one = grouped[..., place, None]
        before[..., :place] += one < grouped[..., :place]
        before[..., place + 1 :] += one <= grouped[..., place + 1 :]
    return (before >= zeros).reshape(scores.shape)


def choose(scores: Tensor, sparsity: float | None, pattern: tuple[int, int] | None) -> Tensor:
    """Mask of a whole matrix: by neighbours where there is a pattern, else over all entries."""
    if pattern is not None:
        return smallest_of_neighbours(scores, pattern)
    assert sparsity is not None
    return smallest(scores, count(scores.numel(), sparsity))


def wanda(
    weight: Tensor, square: Tensor, sparsity: float | None, pattern: tuple[int, int] | None
) -> Tensor:
    """Wanda's mask (eq. 1): score |w_ij| * ||x_j||, compared within a row.

    `square` [C] is the mean of x_j^2.
    """
    scores = weight.abs() * square.sqrt()
    if pattern is not None:
        return smallest_of_neighbours(scores, pattern)
    assert sparsity is not None
    return smallest_of_rows(scores, sparsity)


def dsnot(weight: Tensor, square: Tensor, mean: Tensor, mask: Tensor) -> Tensor:
    """Swap pruned against kept weights, row by row, until a row's expected error is small.

    The error of a row is what its pruned weights no longer add: e = -sum over pruned of
    w_j * mean_j. In each step the pruned weight comes back that moves e most towards 0 for its
    input's variance, and of the kept ones whose loss does not undo that, the one of the lowest
    Wanda score goes (DSnoT, arXiv 2310.08915, sections 3.2 and 3.3). Each row keeps its number.
    """
    mask = mask.clone()
    adds = weight * mean  # what each weight adds to its row's output, on average
    variance = (square - mean.square()).clamp(min=1e-12)
    worth = weight.abs() * square.sqrt()
    growth = adds / variance
    error = -(adds * ~mask).sum(1)
    live = error.abs() > SETTLED
    infinity = float("inf")
    for _ in range(CYCLES):
        rows = live.nonzero()[:, 0]
        if not len(rows):
            break
        sign = error[rows].sign()[:, None]
        # what comes back must add against the error: e < 0 means that too little is there
        gain = (-sign * growth[rows]).masked_fill(mask[rows], -infinity)
        best, back = gain.max(1)
        undone = sign * adds[rows] <= 0
        cost = worth[rows].masked_fill(~mask[rows] | undone, infinity)
        least, gone = cost.min(1)
        picked = torch.arange(len(rows), device=rows.device)
        after = error[rows] + adds[rows][picked, back] - adds[rows][picked, gone]
        better = (best > 0) & least.isfinite() & (after.abs() < error[rows].abs())
        live[rows[~better]] = False
        rows, back, gone = rows[better], back[better], gone[better]
        mask[rows, back] = True
        mask[rows, gone] = False
        error[rows] = after[better]
        live[rows] = error[rows].abs() > SETTLED
    return mask
