"""GPTQ, SparseGPT and both at once: one sweep over a layer's columns.

A column is pruned, rounded or both, and the error is pushed into the columns still to come, in the
proportions that the inputs' second moments H = mean of x x^T ask for (GPTQ, arXiv 2210.17323,
algorithm 1; SparseGPT, arXiv 2301.00774, algorithm 1). R rows (outputs), C columns (inputs).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featherweight.compress import grid
from featherweight.compress.masks import count, smallest, smallest_of_neighbours
from featherweight.compress.statistics import finite
from featherweight.errors import CompressError

DAMPING = 0.01
DAMPINGS = (DAMPING, 0.03, 0.1, 0.3, 1.0)
"""Shares of H's mean diagonal that are added to it, the next where the one before does not do."""
SILENT = 1e-12  # the share of H's mean diagonal that an input weighs which was never heard
BLOCK = 128  # columns between two products with everything to their right
SUB = 16  # columns between two products inside a block


@dataclass(frozen=True)
class Swept:
    """What a sweep leaves: the weight, and how it is made where it was rounded or pruned."""

    weight: Tensor  # [R, C]
    codes: Tensor | None = None  # [R, C], whole numbers in float32
    scales: Tensor | None = None  # [R, C/group]
    zeros: Tensor | None = None  # [R, C/group]
    mask: Tensor | None = None  # [R, C] bool, True = kept
    losses: Tensor | None = None  # [R], float64: (w - q) H (w - q)^T of each row, H damped


class Factor(NamedTuple):
    """Upper U [C, C] with U^T U = (H + damped)^-1, float32."""

    upper: Tensor
    damped: Tensor  # [C], what was added to H's diagonal
    damping: float  # its share of H's mean diagonal


def inverse_factor(hessian: Tensor, name: str, by: Tensor | None = None) -> Factor:
    """The factor of H with the least damping that makes it positive definite.

    `by` [C] puts the columns into another order first. From one Cholesky of H reversed in both axes
    and one triangular inverse, in float64, all in the room of one matrix: twice that of H. Inputs
    that were never other than 0 weigh next to nothing, so that what reads them is pruned first.
    Raises `CompressError` where H holds no finite numbers or no damping helps.
    """
    if not finite(hessian):
        raise CompressError(
            f"{name}: the statistics of its inputs hold NaN or infinity; look for broken weights "
            "or texts."
        )
    size = len(hessian)
    by = torch.arange(size, device=hessian.device) if by is None else by
    diagonal = hessian.diagonal()[by].double()
    live = diagonal > 0
    mean = float(diagonal[live].mean()) if live.any() else 1.0
    lower = torch.empty(size, size, dtype=torch.float64, device=hessian.device)
    for damping in DAMPINGS:
        added = torch.where(live, damping * mean, SILENT * mean - diagonal)
        turned = by.flip(0)
        for rows, places in zip(lower.split(BLOCK), turned.split(BLOCK), strict=True):
            rows.copy_(hessian[places][:, turned])
        lower.diagonal().add_(added.flip(0))
        # LAPACK reads columns: the upper factor of what it sees is the lower one of this
        columns = lower.t()
        failed = torch.empty(0, dtype=torch.int32, device=lower.device)
        torch.linalg.cholesky_ex(columns, upper=True, out=(columns, failed))
        if int(failed):
            continue
        _invert(lower)
        return Factor(_turned(lower), added.float(), damping)
    raise CompressError(
        f"{name}: its inputs' second moments cannot be inverted at any damping up to "
        f"{DAMPINGS[-1]:g}; give more and more varied calibration texts."
    )


def _turned(matrix: Tensor) -> Tensor:
    """`matrix` [C, C], float64, reversed in both axes, as float32 in the same room."""
    exact = matrix.view(-1)
    size, step = exact.numel(), BLOCK * len(matrix)
    turned = exact.view(torch.float32)[:size]
    for at in range(0, size, step):  # half as wide: written behind what is still to be read
        turned[at : at + step] = exact[at : at + step].float()
    for at in range(0, size // 2, step):
        end = min(at + step, size // 2)
        left, right = turned[at:end].flip(0), turned[size - end : size - at].flip(0)
        turned[at:end] = right
        turned[size - end : size - at] = left
    return turned.view(matrix.shape)


def _invert(lower: Tensor) -> None:
    """Invert a lower triangular matrix in its place, by halves: a third of a solve's products."""
    size = len(lower)
    if size <= BLOCK:
        eye = torch.eye(size, dtype=lower.dtype, device=lower.device)
        lower.copy_(torch.linalg.solve_triangular(lower, eye, upper=False))
        return
    first, last = lower[: size // 2, : size // 2], lower[size // 2 :, size // 2 :]
    corner = lower[size // 2 :, : size // 2]
    _invert(first)
    _invert(last)
    for rows in corner.split(BLOCK):
        rows.copy_(rows @ first)
    for columns in corner.split(BLOCK, dim=1):
        columns.copy_((last @ columns).neg_())


def sweep(
    weight: Tensor,
    hessian: Tensor,
    factor: Tensor,
    *,
    bits: int | None = None,
    group: int | None = None,
    symmetric: bool = False,
    actorder: bool = False,
    sparsity: float | None = None,
    pattern: tuple[int, int] | None = None,
) -> Swept:
    """Prune and round `weight` [R, C], float32, given H and `inverse_factor`'s U.

    `factor` belongs to columns in `order(hessian)` where `actorder` is set. A group's grid is
    fitted when its first column comes (what earlier columns pushed into it included, what is known
    to be pruned left out: of a pattern the first neighbours); with `actorder` before the sweep, so
    that groups stay neighbours on disk.
    """
    rows, columns = weight.shape
    group = group or columns
    by = order(hessian) if actorder else torch.arange(columns, device=weight.device)
    at = by.tolist()
    ordered = weight[:, by] if actorder else weight
    # [C, R]: a column's weights lie side by side
    left = ordered.t().clone(memory_format=torch.contiguous_format)
    block, sub = _blocks(columns, group, bits, pattern)
    diagonal = factor.diagonal()[:, None]
    along = diagonal[:, 0].tolist()
    done = torch.empty_like(left)
    mask = torch.ones_like(left, dtype=torch.bool) if sparsity or pattern else None
    codes = scales = zeros = None
    if bits:
        codes = torch.empty_like(left)
        scales, zeros = weight.new_empty(2, columns // group, rows).unbind()
        if actorder:
            fitted = grid.fit(weight.view(rows, -1, group), bits, symmetric)
            scales, zeros = (part.t().contiguous() for part in fitted)
    errors = weight.new_empty(block, rows)
    losses = torch.zeros(rows, dtype=torch.float64, device=weight.device)
    gone = 0
    for start in range(0, columns, block):
        end = min(start + block, columns)
        here = left[start:end]
        if sparsity:
            assert mask is not None
            # so many go by here that the whole comes out exact
            number = count(end * rows, sparsity) - gone
            gone += number
            mask[start:end] = smallest((here / diagonal[start:end]).square_(), number)
        for first in range(start, end, sub):
            last = min(first + sub, end)
            for i in range(first, last):
                if pattern and i % pattern[1] == 0:
                    assert mask is not None
                    near = slice(i, i + pattern[1])
                    scores = (left[near] / diagonal[near]).square_()
                    mask[near] = smallest_of_neighbours(scores.t(), pattern).t()
                if bits and not actorder and i % group == 0:
                    assert scales is not None and zeros is not None
                    span = left[i : i + group]
                    if mask is not None:
                        span = span * mask[i : i + group]
                    scales[i // group], zeros[i // group] = grid.fit(span.t(), bits, symmetric)
                wanted, kept, error = left[i], done[i], errors[i - start]
                if mask is None:
                    kept.copy_(wanted)
                else:
                    torch.mul(wanted, mask[i], out=kept)
                if bits:
                    assert codes is not None and scales is not None and zeros is not None
                    code, scale, zero = codes[i], scales[at[i] // group], zeros[at[i] // group]
                    grid.encode(kept, scale, zero, bits, out=code)
                    torch.sub(code, zero, out=kept).mul_(scale)
                    if mask is not None:
                        kept.mul_(mask[i])
                torch.sub(wanted, kept, out=error).div_(along[i])
                if i + 1 < last:
                    left[i + 1 : last].addr_(factor[i, i + 1 : last], error, alpha=-1)
            if last < end:
                pushed = errors[first - start : last - start]
                left[last:end].addmm_(factor[first:last, last:end].t(), pushed, alpha=-1)
        losses += errors[: end - start].square().sum(0)
        if end < columns:
            left[end:].addmm_(factor[start:end, end:].t(), errors[: end - start], alpha=-1)
    back = torch.empty_like(by)
    back[by] = torch.arange(columns, device=by.device)

    def rowwise(found: Tensor | None, sort: bool = True) -> Tensor | None:
        if found is None:
            return None
        return (found[back] if sort and actorder else found).t().contiguous()

    whole = rowwise(done)
    assert whole is not None
    grids = (rowwise(scales, False), rowwise(zeros, False))
    return Swept(whole, rowwise(codes), *grids, rowwise(mask), losses)


def order(hessian: Tensor) -> Tensor:
    """Columns by falling second moment (act-order): what is heard loudest is rounded first."""
    return hessian.diagonal().argsort(descending=True, stable=True)


def _blocks(
    columns: int, group: int, bits: int | None, pattern: tuple[int, int] | None
) -> tuple[int, int]:
    """Columns of a block and of a part of it: a group or pattern never begins in mid-part."""
    steps = [SUB]
    if bits and group < columns:
        steps.append(group)
    if pattern:
        steps.append(pattern[1])
    sub = math.gcd(*steps)
    block = math.lcm(*steps)
    return block * max(1, BLOCK // block), sub


def output_change(difference: Tensor, hessian: Tensor) -> float:
    """Mean square of what a layer's outputs change by: tr(D H D^T), D = W - Q [R, C].

    As the sum of D^T D times H, of which one triangle is enough.
    """
    total = 0.0
    for start in range(0, len(hessian), BLOCK):
        end = min(start + BLOCK, len(hessian))
        products = difference[:, start:end].t() @ difference[:, :end]
        products *= hessian[start:end, :end]
        left, corner = products[:, :start], products[:, start:]
        total += float(2 * left.sum(dtype=torch.float64) + corner.sum(dtype=torch.float64))
    return total
