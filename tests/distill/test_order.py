"""The order of examples: each once an epoch, windows that do not depend on micro-batches."""

import random

from hypothesis import given
from hypothesis import strategies as st

from featherweight.distill.order import Order, epoch_order

LENGTHS = st.lists(st.integers(1, 900), min_size=1, max_size=700)


@given(LENGTHS, st.integers(1, 16), st.integers(0, 99), st.integers(0, 9))
def test_every_example_once(lengths: list[int], batch: int, seed: int, epoch: int) -> None:
    order = epoch_order(lengths, batch, seed, epoch)
    assert sorted(order) == list(range(len(lengths)))
    assert order == epoch_order(lengths, batch, seed, epoch)


@given(LENGTHS, st.sampled_from([(8, 1), (4, 1), (4, 2), (1, 8), (2, 4)]))
def test_blanks_fill_a_round_of_micro_batches(lengths: list[int], cut: tuple[int, int]) -> None:
    micro, world = cut
    found = list(Order(lengths, 8, 0, micro * world))
    assert len(found) % (micro * world) == 0 and found.count(-1) < micro * world
    windows = [{i for i in found[a : a + 8] if i >= 0} for a in range(0, len(found), 8)]
    plain = epoch_order(lengths, 8, 0, 0)
    assert windows == [set(plain[a : a + 8]) for a in range(0, len(plain), 8)]


def test_epochs_and_seeds_differ() -> None:
    lengths = list(range(100))
    orders = {tuple(epoch_order(lengths, 8, s, e)) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4
    order = Order(lengths, 8, 0, 8)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first


def test_windows_are_of_like_length() -> None:
    """Padding of a window is a small part of what random windows would have."""
    lengths = random.Random(0).choices(range(10, 1000), k=800)

    def padded(order: list[int]) -> int:
        windows = [order[a : a + 8] for a in range(0, len(order), 8)]
        return sum(8 * max(lengths[i] for i in w) - sum(lengths[i] for i in w) for w in windows)

    assert padded(epoch_order(lengths, 8, 0, 0)) < 0.05 * padded(list(range(800)))
