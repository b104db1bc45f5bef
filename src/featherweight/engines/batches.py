"""Which items go through a model together: like lengths, so that little of a batch is padding."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

ENOUGH, PADDED = 256, 1.25  # tokens that keep a CPU busy; how much longer the longest may be

T = TypeVar("T")


def batches(
    items: Sequence[T], cost: Callable[[T], tuple[int, int]], budget: int
) -> Iterator[list[T]]:
    """Sort by length and cut so that rows x (longest first + longest second part) <= budget.

    Longest first, so that a batch too large for memory fails at once. A single item may exceed
    the budget.
    """
    return cut(sorted(items, key=lambda item: sum(cost(item)), reverse=True), cost, budget)


def cut(items: Iterable[T], cost: Callable[[T], tuple[int, int]], budget: int) -> Iterator[list[T]]:
    """`batches` of items that keep their order."""
    batch: list[T] = []
    first = second = 0
    for item in items:
        a, b = cost(item)
        if batch and (len(batch) + 1) * (max(first, a) + max(second, b)) > budget:
            yield batch
            batch, first, second = [], 0, 0
        batch.append(item)
        first, second = max(first, a), max(second, b)
    if batch:
        yield batch


def alike(items: Sequence[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """Sort by length, longest first, and cut where padding would cost more than a new batch does.

    A batch of `ENOUGH` tokens ends before an item that would be padded to more than `PADDED` times
    its length.
    """
    batch: list[T] = []
    for item in sorted(items, key=length, reverse=True):
        longest = length(batch[0]) if batch else 0
        if longest > PADDED * length(item) and len(batch) * longest >= ENOUGH:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
