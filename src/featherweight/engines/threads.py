"""A blocking stream inside an event loop: each step runs in a thread, the loop stays free."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator

from featherweight.engines.types import Delta


async def in_thread(deltas: Generator[Delta, None, None]) -> AsyncGenerator[Delta, None]:
    """`deltas` as an asynchronous stream; closing or cancelling it closes `deltas`.

    A step that is being computed cannot be stopped: it is left to end, and the stream ends there,
    even if the loop is gone by then.
    """
    turn = threading.Lock()

    def step() -> Delta | None:
        with turn:
            return next(deltas, None)

    def end() -> None:
        with turn:
            deltas.close()

    try:
        while (delta := await asyncio.to_thread(step)) is not None:
            yield delta
    finally:
        if turn.acquire(blocking=False):
            try:
                deltas.close()
            finally:
                turn.release()
        else:
            threading.Thread(target=end).start()
