"""An interrupt ends a wait, whichever thread the signal is given to."""

import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from featherweight.engines.waiting import next_of, result_of


def test_a_result_and_an_error() -> None:
    done: Future[int] = Future()
    threading.Timer(0.1, done.set_result, (3,)).start()
    assert result_of(done) == 3 == result_of(done)
    failed: Future[int] = Future()
    failed.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        result_of(failed)


def test_pieces_in_their_order() -> None:
    pieces: queue.Queue[int] = queue.Queue()
    pieces.put(1)
    threading.Timer(0.1, pieces.put, (2,)).start()
    assert [next_of(pieces), next_of(pieces)] == [1, 2]


@pytest.mark.parametrize("kind", ["future", "queue"])
def test_a_signal_that_another_thread_is_given(kind: str) -> None:
    """The main thread's wait is not woken by it: it must look by itself."""
    over = threading.Event()
    future: Future[int] = Future()
    pieces: queue.Queue[int] = queue.Queue()
    wait: Callable[[], Any] = lambda: (  # noqa: E731
        result_of(future) if kind == "future" else next_of(pieces)
    )

    def finish() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        over.wait(20)
        future.set_result(0)
        pieces.put(0)

    timer = threading.Timer(0.3, finish)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
        assert not future.done() and pieces.empty()
    finally:
        over.set()
        timer.join()
