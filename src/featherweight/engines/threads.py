"""A blocking stream inside an event loop: each step runs in a thread, the loop stays free."""

import asyncio
from collections.abc import AsyncGenerator, Generator

from featherweight.engines.types import Delta


async def in_thread(deltas: Generator[Delta, None, None]) -> AsyncGenerator[Delta, None]:
    """`deltas` as an asynchronous stream; closing or cancelling it closes `deltas`.

    A step that is being computed cannot be stopped: it is left to end, and the stream ends there.
    """
    step: asyncio.Task[Delta | None] | None = None
    try:
        while True:
            step = asyncio.create_task(asyncio.to_thread(next, deltas, None))
            delta = await asyncio.shield(step)
            if delta is None:
                return
            yield delta
    finally:
        if step is None or step.done():
            deltas.close()
        else:
            step.add_done_callback(lambda done: _close(done, deltas))


def _close(done: asyncio.Task[Delta | None], deltas: Generator[Delta, None, None]) -> None:
    if not done.cancelled():
        done.exception()  # nobody is left to hear of it
    deltas.close()
