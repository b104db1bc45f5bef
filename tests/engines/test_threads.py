"""A blocking stream in an event loop is closed whenever its reader goes away."""

import asyncio
import threading
from collections.abc import Generator

import pytest

from featherweight.engines.threads import in_thread
from featherweight.engines.types import Delta
from featherweight.errors import EngineError


class Source:
    """A blocking stream of words; waits before "c" until `go`, and fails at "!"."""

    def __init__(self, words: str) -> None:
        self.words, self.go, self.closed = words, threading.Event(), threading.Event()

    def stream(self) -> Generator[Delta, None, None]:
        try:
            for word in self.words:
                if word == "c":
                    assert self.go.wait(10)
                if word == "!":
                    raise EngineError("broken.")
                yield Delta(word)
        finally:
            self.closed.set()


async def read(source: Source, seen: list[str]) -> None:
    async for delta in in_thread(source.stream()):
        seen.append(delta.text)


def test_all_of_it() -> None:
    source, seen = Source("ab"), list[str]()
    asyncio.run(read(source, seen))
    assert seen == ["a", "b"] and source.closed.is_set()


def test_an_error_reaches_the_reader() -> None:
    source, seen = Source("a!"), list[str]()
    with pytest.raises(EngineError, match="broken"):
        asyncio.run(read(source, seen))
    assert seen == ["a"] and source.closed.is_set()


def test_closing_between_two_steps() -> None:
    source = Source("abc")

    async def main() -> None:
        stream = in_thread(source.stream())
        assert (await anext(stream)).text == "a"
        await stream.aclose()

    asyncio.run(main())
    assert source.closed.is_set()


@pytest.mark.parametrize("words", ["abc", "abc!"])
def test_cancelling_within_a_step(words: str) -> None:
    source, seen = Source(words), list[str]()

    async def main() -> None:
        task = asyncio.create_task(read(source, seen))
        while len(seen) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not source.closed.is_set()  # still inside its step
        source.go.set()
        while not source.closed.is_set():
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 20))
    assert seen == ["a", "b"]


def test_the_loop_ends_within_a_step() -> None:
    """`asyncio.run` cancels what is left; the source is closed although no loop is there to tell"""
    source, seen = Source("abcd"), list[str]()

    async def main() -> None:
        task = asyncio.create_task(read(source, seen))
        while len(seen) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        threading.Timer(0.3, source.go.set).start()

    asyncio.run(main())
    assert source.closed.wait(10) and seen == ["a", "b"]
