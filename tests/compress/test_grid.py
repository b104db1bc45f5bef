"""The grids that weights are rounded to."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from featherweight.compress import grid  # noqa: E402
from featherweight.engines.packed import on_grid  # noqa: E402

bits = st.sampled_from([2, 3, 4, 8])
numbers = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
groups = st.lists(st.lists(numbers, min_size=8, max_size=8), min_size=1, max_size=4)


@given(groups, bits)
def test_a_grid_holds_zero_and_lies_on_disk_as_it_is(rows: list[list[float]], width: int) -> None:
    weights = torch.tensor(rows)
    scale, zero = grid.fit(weights, width)
    assert scale.equal(scale.bfloat16().float()) and (scale > 0).all()
    assert zero.equal(zero.round()) and zero.min() >= 0 and zero.max() <= 2**width - 1
    nothing = grid.encode(torch.zeros_like(weights), scale[:, None], zero[:, None], width)
    assert ((nothing - zero[:, None]) * scale[:, None] == 0).all()


@given(groups, bits)
def test_rounding_is_off_by_half_a_step_inside_the_grid(
    rows: list[list[float]], width: int
) -> None:
    weights = torch.tensor(rows)
    codes, scale, zero = grid.rtn(weights, width, 4)
    assert codes.equal(codes.round()) and codes.min() >= 0 and codes.max() <= 2**width - 1
    low, high = -zero * scale, (2**width - 1 - zero) * scale
    near = weights.view(len(rows), -1, 4)
    inside = near.clamp(low[..., None], high[..., None])
    off = (on_grid(codes, scale, zero).view_as(near) - inside).abs()
    assert (off <= scale[..., None] * (0.5 + 1e-4)).all()
    # what sticks out does so by the rounding of the scale and of the zero
    out = (near - inside).abs()
    assert (out <= scale[..., None] * (0.5 + (2**width - 1) * 2**-8)).all()


@pytest.mark.parametrize("width", [2, 3, 4])
def test_what_lies_on_a_grid_stays(width: int) -> None:
    codes = torch.arange(2**width).float().repeat(3, 1)
    scale = torch.tensor([1.0, 0.25, 3.0])[:, None]
    zero = torch.tensor([0.0, 2**width - 1, 1])[:, None]
    weights = (codes - zero) * scale
    found, scales, zeros = grid.rtn(weights, width, 2**width)
    assert found.equal(codes) and scales.equal(scale) and zeros.equal(zero)


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_what_lies_on_a_symmetric_grid_stays(width: int) -> None:
    middle = 2 ** (width - 1)
    # with fewer bits than 8 the largest weight lies half a step above the highest code
    codes = torch.arange(1 if width == 8 else 0, 2**width).float()
    scale = torch.tensor([1.0, 0.25, 3.0])[:, None]
    weights = (codes - middle) * scale
    if width < 8:
        weights[:, 0] += scale[:, 0] / 2
    found, scales, zeros = grid.rtn(weights, width, len(codes), symmetric=True)
    assert scales.equal(scale) and (zeros == middle).all()
    assert found[:, 1:].equal(codes[1:].expand(3, -1))


@given(groups, bits)
def test_a_symmetric_grid_has_its_zero_in_the_middle(rows: list[list[float]], width: int) -> None:
    weights = torch.tensor(rows)
    codes, scale, zero = grid.rtn(weights, width, 4, symmetric=True)
    assert (zero == 2 ** (width - 1)).all()
    off = (on_grid(codes, scale, zero) - weights).abs().view(len(rows), -1, 4)
    assert (off <= scale[..., None] * (0.5 + 2**width * 2**-8)).all()


@pytest.mark.parametrize("value", [0.0, 0.7, -0.7, 1e-30, -1e30])
def test_a_group_of_one_number(value: float) -> None:
    codes, scale, zero = grid.rtn(torch.full((2, 8), value), 4, 8)
    found = on_grid(codes, scale, zero)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, torch.full((2, 8), value), rtol=2**-8, atol=1e-36)
