"""An event loop in a background thread, and what belongs to each loop that uses an engine.

aiohttp's sessions belong to one loop each: the background one, which serves blocking callers, and
those of asynchronous callers. All of them end with the engine, or with the program.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from featherweight.engines.types import Delta

T = TypeVar("T")


@dataclass
class Client:
    """What belongs to one event loop."""

    session: aiohttp.ClientSession
    slots: asyncio.Semaphore
    asking: asyncio.Lock


class LoopThread:
    """An event loop in a daemon thread, started when first needed."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Schedule `work`; the future's `cancel` cancels it."""
        with self._lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self.loop.run_forever, name="featherweight-openai", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self, last: Coroutine[Any, Any, None]) -> None:
        """Run `last`, then end the loop and its thread."""
        with self._lock:
            loop, thread, self.loop = self.loop, self._thread, None
        if loop is None or thread is None:
            last.close()
            return
        if thread is threading.current_thread():  # collected as garbage on the loop itself
            loop.create_task(last).add_done_callback(lambda _: loop.stop())
            return
        asyncio.run_coroutine_threadsafe(last, loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def shut_down(
    thread: LoopThread,
    clients: dict[asyncio.AbstractEventLoop, Client],
    streams: set[AsyncGenerator[Delta, None]],
) -> None:
    """Close every session in its own loop, then the background loop."""
    mine = clients.pop(thread.loop, None) if thread.loop else None
    for loop, client in clients.items():
        if loop.is_running():
            asyncio.run_coroutine_threadsafe(client.session.close(), loop)
    clients.clear()
    thread.stop(_wind_up(streams, mine))


async def _wind_up(streams: set[AsyncGenerator[Delta, None]], client: Client | None) -> None:
    """Cancel what runs on this loop, close the streams left open, then the session."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for stream in list(streams):
        await stream.aclose()
    if client is not None:
        await client.session.close()
