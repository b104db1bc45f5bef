"""The sweep against the slowest way to say the same, in float64.

The oracle inverts what is left of H anew before every column; nothing of the factor, the blocks or
the order of products is shared with what it judges. float32 may round a weight that lies half-way
between two codes the other way, and what follows then differs too: FLIPS is the share of weights
that may, RATIO by how much the layer's error may differ.
"""

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from featherweight.compress import grid  # noqa: E402
from featherweight.compress.solve import (  # noqa: E402
    DAMPING,
    DAMPINGS,
    Swept,
    inverse_factor,
    order,
    output_change,
    sweep,
)
from featherweight.engines.packed import on_grid  # noqa: E402
from featherweight.errors import CompressError  # noqa: E402

FLIPS, RATIO = 0.01, 1e-3
ROWS = 24


def problem(columns: int, dead: int = 0, rows: int = ROWS) -> tuple[Any, Any]:
    """Weights, and second moments of correlated inputs of which some are loud."""
    torch.manual_seed(columns + dead)
    inputs = torch.randn(2 * columns, columns) @ torch.randn(columns, columns) / columns**0.5
    inputs += torch.randn(2 * columns, 1) * torch.rand(columns)
    inputs *= torch.rand(columns).exp2() * torch.where(torch.rand(columns) < 0.03, 8, 1)
    inputs[:, :dead] = 0
    return torch.randn(rows, columns) * 0.1, inputs.t() @ inputs / len(inputs)


def swept(weight: Any, hessian: Any, actorder: bool = False, **how: Any) -> Swept:
    by = order(hessian) if actorder else torch.arange(len(hessian))
    factor = inverse_factor(hessian[by][:, by], "layer")
    return sweep(weight, hessian, factor.upper, actorder=actorder, **how)


def fitted(weights: Any, bits: int, symmetric: bool = False) -> tuple[Any, Any]:
    """Scale and zero of each row of a group."""
    if symmetric or bits == 8:
        reach = 127 if bits == 8 else 2 ** (bits - 1) - 0.5
        scale = (weights.abs().max(1).values / reach).bfloat16().double()
        return scale, torch.full_like(scale, 2 ** (bits - 1))
    low = weights.min(1).values.clamp(max=0)
    high = weights.max(1).values.clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).bfloat16().double()
    return scale, (-low / scale).round()


def oracle(
    weight: Any,
    hessian: Any,
    *,
    bits: int | None = None,
    group: int | None = None,
    symmetric: bool = False,
    actorder: bool = False,
    sparsity: float | None = None,
    pattern: tuple[int, int] | None = None,
    block: int = 128,
) -> tuple[Any, Any]:
    """The weight that the papers' algorithms leave, and which of it is kept."""
    rows, columns = weight.shape
    group = group or columns
    left, second = weight.double().clone(), hessian.double()
    heard = second.diagonal() > 0
    mean = second.diagonal()[heard].mean()
    second = second + torch.diag(torch.where(heard, DAMPING * mean, 1e-12 * mean))
    by = list(range(columns))
    grids: dict[int, tuple[Any, Any]] = {}
    if actorder:
        by.sort(key=lambda i: (-float(hessian[i, i]), i))
        grids = {
            g: fitted(left[:, g * group : (g + 1) * group], bits or 0, symmetric)
            for g in range(columns // group)
        }
        left, second = left[:, by], second[by][:, by]
    inverses = [torch.linalg.inv(second[i:, i:])[0] for i in range(columns)]
    scores = [float(inverse[0]) for inverse in inverses]
    done = torch.zeros_like(left)
    kept = torch.ones_like(left, dtype=torch.bool)
    for i in range(columns):
        if sparsity and i % block == 0:
            end = min(i + block, columns)
            number = round(end * rows * sparsity) - int((~kept).sum())
            loss = left[:, i:end] ** 2 / torch.tensor(scores[i:end])
            gone = loss.flatten().argsort()[:number]
            kept[:, i:end] = ~torch.zeros_like(loss).bool().flatten().index_fill(
                0, gone, True
            ).view(loss.shape)
        if pattern and i % pattern[1] == 0:
            span = slice(i, i + pattern[1])
            loss = left[:, span] ** 2 / torch.tensor(scores[span])
            kept[:, span] = kept[:, span].scatter(1, loss.argsort(1)[:, : pattern[0]], False)
        if bits and not actorder and i % group == 0:
            span = slice(i, i + group)
            grids[i // group] = fitted(left[:, span] * kept[:, span], bits, symmetric)
        wanted = left[:, i] * kept[:, i]
        if bits:
            scale, zero = grids[by[i] // group]
            code = (wanted / scale).round() + zero
            wanted = (code.clamp(0, 2**bits - 1) - zero) * scale * kept[:, i]
        done[:, i] = wanted
        inverse = inverses[i]
        left[:, i:] -= ((left[:, i] - wanted) / inverse[0])[:, None] * inverse
    back = torch.tensor(by).argsort()
    return done[:, back], kept[:, back]


CASES: list[tuple[int, dict[str, Any], int]] = [
    # columns, what, the block over which masks are chosen
    (96, {"bits": 4, "group": 16}, 128),
    (160, {"bits": 3, "group": 32}, 128),
    (144, {"bits": 2, "group": None}, 128),
    (150, {"bits": 3, "group": 50}, 128),
    (288, {"bits": 4, "group": 144}, 128),
    (160, {"bits": 8, "group": 32}, 128),
    (160, {"bits": 4, "group": 32, "symmetric": True}, 128),
    (160, {"bits": 3, "group": 32, "symmetric": True, "actorder": True}, 128),
    (160, {"bits": 3, "group": 32, "actorder": True}, 128),
    (96, {"bits": 2, "group": 96, "actorder": True}, 128),
    (200, {"sparsity": 0.5}, 128),
    (100, {"sparsity": 0.637}, 128),
    (136, {"pattern": (2, 4)}, 128),
    (152, {"pattern": (4, 8)}, 128),
    (160, {"sparsity": 0.5, "bits": 4, "group": 32}, 128),
    (192, {"sparsity": 0.4, "bits": 3, "group": 48}, 96),
    (288, {"sparsity": 0.5, "bits": 3, "group": 144}, 144),
    (144, {"sparsity": 0.5, "bits": 4, "group": None}, 128),
    (160, {"pattern": (2, 4), "bits": 4, "group": 16}, 128),
]


@pytest.mark.parametrize(
    ("columns", "how", "block"), CASES, ids=lambda one: str(one).replace("'", "")
)
@pytest.mark.parametrize("dead", [0, 7])
def test_the_sweep_finds_what_the_slow_way_finds(
    columns: int, how: dict[str, Any], block: int, dead: int
) -> None:
    weight, hessian = problem(columns, dead)
    found = swept(weight, hessian, **how)
    expected, kept = oracle(weight, hessian, block=block, **how)
    # a bfloat16's 8 bits apart: another code, not another rounding of the same
    flips = (found.weight - expected).abs() > 1e-2 * weight.abs().mean()
    assert float(flips.double().mean()) <= FLIPS
    error = output_change(weight - found.weight, hessian)
    off = weight - expected
    slow = float(((off @ hessian.double()) * off).sum())
    assert error == pytest.approx(slow, rel=RATIO)
    if "sparsity" in how or "pattern" in how:
        assert found.mask is not None
        assert float((found.mask != kept).double().mean()) <= FLIPS
        gone = int((~found.mask).sum())
        zeros, of = how.get("pattern", (how.get("sparsity"), 1))
        assert gone == round(weight.numel() * zeros / of)
        assert not found.weight[~found.mask].any()
        if "pattern" in how:
            assert ((~found.mask).view(-1, of).sum(1) == zeros).all()
    else:
        assert found.mask is None
    assert found.weight.shape == weight.shape and found.weight.is_contiguous()


@pytest.mark.parametrize(
    "how", [how for _, how, _ in CASES if "bits" in how], ids=lambda how: str(how).replace("'", "")
)
def test_codes_scales_and_zeros_are_the_weight(how: dict[str, Any]) -> None:
    weight, hessian = problem(288)
    if 288 % (how["group"] or 288):
        how = how | {"group": 36}
    found = swept(weight, hessian, **how)
    assert found.codes is not None and found.scales is not None and found.zeros is not None
    group = how["group"] or 288
    assert found.scales.shape == found.zeros.shape == (ROWS, 288 // group)
    assert found.scales.equal(found.scales.bfloat16().float())
    assert found.codes.equal(found.codes.round())
    assert found.codes.min() >= 0 and found.codes.max() <= 2 ** how["bits"] - 1
    dense = on_grid(found.codes, found.scales, found.zeros)
    if found.mask is not None:
        dense = dense * found.mask
    assert dense.equal(found.weight)


@pytest.mark.parametrize("actorder", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 32), (4, 64), (8, 64)])
def test_gptq_is_better_than_rounding(bits: int, group: int, actorder: bool) -> None:
    weight, hessian = problem(192)
    codes, scales, zeros = grid.rtn(weight, bits, group)
    plain = output_change(weight - on_grid(codes, scales, zeros), hessian)
    found = swept(weight, hessian, bits=bits, group=group, actorder=actorder)
    assert output_change(weight - found.weight, hessian) < 0.8 * plain


@pytest.mark.parametrize("how", [{"sparsity": 0.5}, {"pattern": (2, 4)}])
def test_sparsegpt_is_better_than_dropping_the_smallest(how: dict[str, Any]) -> None:
    from featherweight.compress.masks import choose

    weight, hessian = problem(192)
    mask = choose(weight.abs(), how.get("sparsity"), how.get("pattern"))
    plain = output_change(weight * ~mask, hessian)
    assert output_change(weight - swept(weight, hessian, **how).weight, hessian) < 0.6 * plain


@pytest.mark.parametrize(
    ("columns", "how", "block"), CASES[::3], ids=lambda one: str(one).replace("'", "")
)
def test_losses_are_the_damped_error_of_each_row(
    columns: int, how: dict[str, Any], block: int
) -> None:
    weight, hessian = problem(columns, dead=3)
    by = order(hessian) if how.get("actorder") else torch.arange(columns)
    damped = hessian.double()[by][:, by]
    damped = damped + torch.diag(inverse_factor(hessian[by][:, by], "layer").damped).double()
    found = swept(weight, hessian, **how)
    off = (weight - found.weight).double()[:, by]
    assert found.losses is not None
    torch.testing.assert_close(found.losses, ((off @ damped) * off).sum(1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [1, 2, 127, 128, 129, 130, 300])
def test_the_factor_is_made_in_the_room_of_one_matrix(size: int) -> None:
    _, hessian = problem(size)
    by = torch.randperm(size)
    upper = inverse_factor(hessian, "layer", by).upper
    assert upper.is_contiguous() and upper.untyped_storage().nbytes() == 8 * size**2
    turned = hessian[by][:, by].double()
    turned += DAMPING * turned.diagonal().mean() * torch.eye(size)
    expected = torch.linalg.cholesky(turned.inverse(), upper=True)
    torch.testing.assert_close(upper.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_factor_is_of_the_inverse() -> None:
    _, hessian = problem(130)
    found = inverse_factor(hessian, "layer")
    assert found.damping == DAMPING and found.upper.dtype == torch.float32
    assert found.upper.equal(found.upper.triu()) and (found.upper.diagonal() > 0).all()
    upper = found.upper.double()
    damped = hessian.double() + torch.diag(found.damped.double())
    torch.testing.assert_close(
        upper.t() @ upper @ damped, torch.eye(130, dtype=torch.float64), rtol=0, atol=1e-4
    )
    added = torch.full((130,), DAMPING * float(hessian.diagonal().mean()))
    torch.testing.assert_close(found.damped, added)


def test_fewer_tokens_than_inputs_do_with_the_usual_damping() -> None:
    inputs = torch.randn(20, 64)
    assert inverse_factor(inputs.t() @ inputs / 20, "layer").damping == DAMPING


@pytest.mark.parametrize("step", range(1, len(DAMPINGS)))
def test_damping_rises_until_a_hessian_can_be_inverted(step: int) -> None:
    """As rounded products leave it: a little below zero somewhere."""
    _, hessian = problem(64)
    mean = float(hessian.diagonal().mean())
    between = (DAMPINGS[step - 1] + DAMPINGS[step]) / 2
    values, vectors = torch.linalg.eigh(hessian.double())
    values[0] = -between * mean
    rotated = vectors @ torch.diag(values) @ vectors.t()
    # the diagonal's mean has moved with the eigenvalue, by less than what is between two steps
    assert inverse_factor(rotated, "layer").damping == DAMPINGS[step]


def test_a_hessian_beyond_help_is_refused() -> None:
    hopeless = torch.tensor([[1.0, 3], [3, 1]])
    with pytest.raises(CompressError, match=r"^q_proj: .* cannot be inverted .* up to 1; .*\.$"):
        inverse_factor(hopeless, "q_proj")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_statistics_that_are_no_numbers_are_refused(value: float) -> None:
    _, hessian = problem(16)
    hessian[3, 5] = value
    with pytest.raises(CompressError, match=r"^q_proj: .* hold NaN or infinity; .*\.$"):
        inverse_factor(hessian, "q_proj")


def test_inputs_that_are_never_heard() -> None:
    weight, hessian = problem(64, dead=20)
    found = inverse_factor(hessian, "layer")
    assert torch.isfinite(found.upper).all() and found.damping == DAMPING
    # loud inputs or quiet ones: what nobody hears goes before them
    for loudness in (1e-4, 1.0, 1e4):
        pruned = swept(weight, hessian * loudness, sparsity=20 / 64)
        assert pruned.mask is not None and not pruned.mask[:, :20].any()
        assert pruned.weight[:, 20:].equal(weight[:, 20:])
    rounded = swept(weight, hessian, bits=4, group=16)
    codes, scales, zeros = grid.rtn(weight[:, :16], 4, 16)
    assert rounded.weight[:, :16].equal(on_grid(codes, scales, zeros))


def test_inputs_of_which_none_was_ever_heard() -> None:
    weight, _ = problem(32)
    found = swept(weight, torch.zeros(32, 32), bits=4, group=16)
    codes, scales, zeros = grid.rtn(weight, 4, 16)
    assert found.weight.equal(on_grid(codes, scales, zeros))


@pytest.mark.parametrize("how", [{}, {"sparsity": 0.5}, {"pattern": (2, 4)}])
def test_rows_of_nothing_and_of_one_number(how: dict[str, Any]) -> None:
    weight, hessian = problem(64)
    weight[3], weight[4], weight[5] = 0, 15 / 32, -15 / 32
    found = swept(weight, hessian, bits=4, group=16, **how)
    assert torch.isfinite(found.weight).all() and not found.weight[3].any()
    if not how:  # 15 steps of a scale that bfloat16 has: nothing is lost, nothing pushed
        assert found.weight[4:6].equal(weight[4:6])


def test_the_weight_that_is_given_stays_as_it_is() -> None:
    weight, hessian = problem(64)
    before = weight.clone(), hessian.clone()
    swept(weight, hessian, bits=2, group=16, sparsity=0.5)
    swept(weight, hessian, bits=2, group=16, actorder=True)
    assert weight.equal(before[0]) and hessian.equal(before[1])
