"""Waits that an interrupt always ends.

Python runs a signal's handler between two steps of the main thread. A signal that comes just before
that thread begins to wait, or that another thread is given, does not end the wait: Ctrl-C would be
seen when the answer is there. So no wait is longer than `STEP`.
"""

import queue
from concurrent.futures import Future, wait
from typing import TypeVar

STEP = 0.5  # seconds
T = TypeVar("T")


def result_of(future: Future[T]) -> T:
    """What `future` comes to; raises what it raises."""
    while not future.done():
        wait((future,), STEP)
    return future.result()


def next_of(pieces: queue.Queue[T]) -> T:
    """The next of `pieces`, when there is one."""
    while True:
        try:
            return pieces.get(timeout=STEP)
        except queue.Empty:
            continue
