"""Nothing is lost, budgets are kept, and little of a batch is padding."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from featherweight.engines.batches import ENOUGH, PADDED, alike, batches, cut

lengths = st.lists(st.integers(0, 400), max_size=60)


def test_batches_keep_to_their_budget() -> None:
    items = [(3, 4), (10, 1), (2, 2), (50, 50), (3, 3)]
    found = list(batches(items, lambda item: item, 30))
    assert sorted(item for batch in found for item in batch) == sorted(items)
    for batch in found:
        width = max(a for a, _ in batch) + max(b for _, b in batch)
        assert len(batch) == 1 or len(batch) * width <= 30


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), max_size=30), st.integers(1, 200)
)
def test_a_cut_keeps_the_order_and_the_budget(items: list[tuple[int, int]], budget: int) -> None:
    found = list(cut(items, lambda item: item, budget))
    assert [item for batch in found for item in batch] == items
    assert all(len(batch) == 1 or _padded(batch) <= budget for batch in found)
    for batch, after in pairwise(found):
        assert _padded([*batch, after[0]]) > budget


def _padded(batch: list[tuple[int, int]]) -> int:
    return len(batch) * (max(a for a, _ in batch) + max(b for _, b in batch))


@given(lengths)
def test_alike_pads_little(items: list[int]) -> None:
    found = list(alike(items, lambda item: item))
    assert [item for batch in found for item in batch] == sorted(items, reverse=True)
    for batch in found[:-1]:
        assert len(batch) * batch[0] >= ENOUGH
    for batch in found:
        filled = next((i for i in range(len(batch)) if i * batch[0] >= ENOUGH), len(batch))
        assert all(batch[0] <= PADDED * item for item in batch[filled:])
