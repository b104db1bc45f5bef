from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.retrieve import BM25Locator, Locator, pack, windows

LENGTHS = st.lists(st.integers(0, 60), max_size=40)


@given(LENGTHS, st.integers(1, 100), st.data())
def test_every_text_is_in_a_window(lengths: list[int], size: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, size))
    found = windows(lengths, size, stride)
    assert {text for first, end in found for text in range(first, end)} == set(range(len(lengths)))
    for first, end in found:
        assert first < end <= len(lengths)
        assert end == first + 1 or sum(lengths[first:end]) <= size
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(found))


def test_windows_refuse_a_stride_that_skips_text() -> None:
    with pytest.raises(ValueError, match="stride"):
        windows([1, 2], 5, 6)


@given(LENGTHS, st.integers(0, 200), st.integers(0, 9))
def test_packing_keeps_the_budget(lengths: list[int], budget: int, seed: int) -> None:
    spans = windows(lengths, 50, 25)
    scores = np.random.default_rng(seed).random(len(spans)).astype(np.float32)
    chosen = pack(spans, scores, lengths, budget)
    assert chosen == sorted(set(chosen))
    assert sum(lengths[text] for text in chosen) <= budget


def test_the_best_window_is_packed_first() -> None:
    texts = ["red red", "battery life", "blue blue"]
    locator: Locator = BM25Locator()
    spans = [(0, 1), (1, 2), (2, 3)]
    assert pack(spans, locator.scores("the battery", texts), [2, 2, 2], 2) == [1]
    assert locator.scores("battery", []).shape == (0,)
