"""Exactly as many weights go as were asked for, and the right ones."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from featherweight.compress import masks  # noqa: E402


@st.composite
def scores(draw: st.DrawFn, columns: int = 1) -> "torch.Tensor":
    """A matrix of few different numbers, hence of many ties; a multiple of `columns` wide."""
    rows, wide = draw(st.integers(1, 7)), draw(st.integers(1, 12)) * columns
    numbers = draw(st.lists(st.integers(0, 3), min_size=rows * wide, max_size=rows * wide))
    return torch.tensor(numbers, dtype=torch.float32).view(rows, wide)


@given(scores(), st.data())
def test_the_smallest_go_exactly_as_many_and_of_equal_ones_the_first(
    found: "torch.Tensor", data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, found.numel()))
    mask = masks.smallest(found, number)
    flat = found.flatten().tolist()
    gone = sorted(range(len(flat)), key=lambda i: (flat[i], i))[:number]
    assert (~mask).flatten().nonzero()[:, 0].tolist() == sorted(gone)
    assert mask.shape == found.shape


@given(scores(), st.floats(0.01, 0.99))
def test_rows_lose_alike_and_the_total_is_exact(found: "torch.Tensor", sparsity: float) -> None:
    mask = masks.smallest_of_rows(found, sparsity)
    lost = (~mask).sum(1)
    assert int(lost.sum()) == masks.count(found.numel(), sparsity)
    assert int(lost.max() - lost.min()) <= 1
    for row, kept in zip(found, mask, strict=True):
        if kept.any() and not kept.all():
            assert row[~kept].max() <= row[kept].min()


@pytest.mark.parametrize("pattern", [(2, 4), (4, 8)])
@given(data=st.data())
@settings(max_examples=30)
def test_every_group_of_neighbours_loses_its_smallest(
    pattern: tuple[int, int], data: st.DataObject
) -> None:
    zeros, of = pattern
    found = data.draw(scores(of))
    mask = masks.smallest_of_neighbours(found, pattern)
    assert mask.shape == found.shape
    for row, kept in zip(found.view(-1, of), mask.view(-1, of), strict=True):
        assert int((~kept).sum()) == zeros
        assert row[~kept].max() <= row[kept].min()


def test_a_whole_matrix_is_cut_by_neighbours_or_over_all() -> None:
    found = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    assert masks.choose(found, 0.5, None).tolist() == [[False] * 4, [True] * 4]
    assert masks.choose(found, None, (2, 4)).tolist() == [[False, False, True, True]] * 2


def test_wanda_weighs_a_weight_with_how_loud_its_input_is() -> None:
    weight = torch.tensor([[3.0, -2, 1, 1], [1, 1, -1, 9]])
    square = torch.tensor([1.0, 4, 100, 0])
    # scores: 3, 4, 10, 0 and 1, 2, 10, 0
    assert masks.wanda(weight, square, 0.5, None).tolist() == [
        [False, True, True, False],
        [False, True, True, False],
    ]
    assert masks.wanda(weight, square, None, (2, 4)).equal(masks.wanda(weight, square, 0.5, None))
    odd = masks.wanda(weight, square, 3 / 8, None)  # 3 of 8: the first row loses one more
    assert (~odd).sum(1).tolist() == [2, 1]
    assert masks.wanda(weight[:, :3], square[:3], 1 / 6, None).sum() == 5


@given(st.integers(0, 2**31), st.floats(0.1, 0.9), st.floats(0.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_dsnot_keeps_each_rows_number_and_no_expected_error_grows(
    seed: int, sparsity: float, level: float
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(9, 40)
    mean = torch.randn(40) * level
    square = mean.square() + torch.rand(40) * 2
    before = masks.wanda(weight, square, sparsity, None)
    after = masks.dsnot(weight, square, mean, before)
    assert (after.sum(1) == before.sum(1)).all()

    def error(mask: "torch.Tensor") -> "torch.Tensor":
        return (weight.double() * mean * ~mask).sum(1).abs()

    worse = error(after) > error(before) + 1e-5
    assert not worse.any()
    moved = (after != before).any(1)
    assert (error(after)[moved] < error(before)[moved]).all()


def test_dsnot_swaps_where_much_is_missing() -> None:
    torch.manual_seed(0)
    weight, mean = torch.randn(64, 96), torch.randn(96) * 2
    square = mean.square() + 0.5
    before = masks.wanda(weight, square, 0.5, None)
    after = masks.dsnot(weight, square, mean, before)
    missing = [(weight * mean * ~mask).sum(1).abs().mean() for mask in (before, after)]
    assert missing[1] < missing[0] / 5
    untouched = masks.dsnot(weight, square, torch.zeros(96), before)
    assert untouched.equal(before)  # inputs of mean 0: nothing is expected to be missing
