"""One server over HTTP: requests, retries, and every way to go wrong as one sentence.

A status, a page of HTML, a broken or unfinished answer, a stall: each becomes an `EngineError`
that names the server and what to do. A stream that has begun is never tried again.
"""

import asyncio
import contextlib
import json
import random
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from featherweight.engines.openai_address import KEY_VARIABLES, base_url, read_key
from featherweight.engines.openai_loop import Client, LoopThread, shut_down
from featherweight.engines.types import Delta
from featherweight.engines.waiting import result_of
from featherweight.engines.wire import WireError
from featherweight.errors import EngineError

RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
BACKOFF = 0.5  # seconds; doubles with every try, full jitter
LONGEST_WAIT = 30.0  # seconds between two tries, whatever Retry-After says
MAX_BODY = 64 << 20  # bytes of one answer
MAX_LINE = 8 << 20  # bytes of one line of a stream
CHECK_URL = "check the URL, which should end in /v1"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, between two pieces of an answer that has begun, for one whole try.

    An answer that is not streamed begins when it is finished, so only `total` bounds it.
    """

    connect: float = 10.0
    read: float = 120.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class Question:
    """A request to send: `body` is made anew for every try, after `adapt` has learned why not.

    `adapt` is told the server's complaint and says whether the next body differs.
    """

    path: str
    body: Callable[[], dict[str, Any]]
    adapt: Callable[[str], bool]
    stream: bool


class Http:
    """The connections to one server, one session for each event loop that asks."""

    def __init__(
        self, url: str, model: str, *, concurrency: int, tries: int, timeouts: Timeouts
    ) -> None:
        self.base = base_url(url)
        self.root = self.base.removesuffix("/v1")
        self.name = f"openai:{self.base}#{model}"
        self.where = f"{self.base} ({model})"
        self._key = read_key()
        self._concurrency = concurrency
        self._tries = tries
        self.timeouts = timeouts
        self.thread = LoopThread()
        self.streams: set[AsyncGenerator[Delta, None]] = set()  # open ones of blocking callers
        self._clients: dict[asyncio.AbstractEventLoop, Client] = {}
        # also runs when the engine is forgotten or the program ends, and once only
        self.close = weakref.finalize(self, shut_down, self.thread, self._clients, self.streams)

    @property
    def closed(self) -> bool:
        return not self.close.alive

    def client(self) -> Client:
        """This event loop's session and limits; aiohttp's belong to one loop."""
        if self.closed:
            raise EngineError(f"{self.name} is closed; open it again.")
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
            slots = asyncio.Semaphore(self._concurrency)
            client = self._clients[loop] = Client(session, slots, asyncio.Lock())
        return client

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the background loop and wait; an interrupt cancels the work."""
        if self.closed:
            work.close()
            raise EngineError(f"{self.name} is closed; open it again.")
        future = self.thread.start(work)
        try:
            return result_of(future)
        except BaseException:
            future.cancel()
            raise

    async def aclose(self) -> None:
        """Close this loop's session, then everything else."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.session.close()
        await asyncio.to_thread(self.close)

    @contextlib.asynccontextmanager
    async def send(self, question: Question) -> AsyncIterator[aiohttp.ClientResponse]:
        """A 200 response to the request; its connection is closed unless it was read whole."""
        response = await self._open(question)
        try:
            yield response
        except TimeoutError:
            raise EngineError(
                f"{self.where} stalled in the middle of an answer; "
                "look at the server's load or raise the timeouts."
            ) from None
        except aiohttp.ClientError:
            raise EngineError(
                f"{self.where} broke off in the middle of an answer; try again, or "
                "look at the server's log."
            ) from None
        finally:
            response.close()

    async def _open(self, question: Question) -> aiohttp.ClientResponse:
        """Send until there is a 200, a final refusal, or no try is left."""
        tries = 0
        while True:
            tries += 1
            wait: float | None = None
            try:
                response = await self.request(
                    "POST", self.base + question.path, question.body(), question.stream
                )
            except aiohttp.ConnectionTimeoutError as error:
                problem = self.unreachable(error)
            except TimeoutError:  # it may still be working on the answer: do not ask twice
                raise EngineError(
                    f"{self.where} gave no answer in time; look at the server's "
                    "load or raise the timeouts."
                ) from None
            except aiohttp.ClientConnectionError as error:
                problem = self.unreachable(error)
            except (aiohttp.ClientError, ValueError) as error:
                raise EngineError(self.unreachable(error)) from None
            else:
                if response.status == 200:
                    return response
                problem, again, wait = await self._refusal(response, question)
                if again == "changed":
                    tries -= 1  # what was refused is now left out; each name is dropped once
                    continue
                if again == "no":
                    raise EngineError(problem)
            if tries >= self._tries:
                raise EngineError(problem if tries == 1 else f"after {tries} tries, {problem}")
            await asyncio.sleep(pause(tries, wait))

    async def _refusal(
        self, response: aiohttp.ClientResponse, question: Question
    ) -> tuple[str, str, float | None]:
        """What a status other than 200 means: one sentence, changed/no/yes, seconds to wait."""
        status = response.status
        wait = retry_after(response.headers.get("Retry-After"))
        location = response.headers.get("Location", "")
        message = await self._error_text(response)
        if status in (400, 422) and question.adapt(message):
            return "", "changed", None
        problem = f"{self.where} answered {status}"
        if message:
            problem += f" ({message})"
        if 300 <= status < 400:
            host = urlsplit(location).hostname or "another address"
            return f"{problem}: it redirects to {host}; give the final URL.", "no", None
        again = status in RETRY_STATUS and "insufficient_quota" not in message
        return f"{problem}; {_advice(status)}.", "yes" if again else "no", wait

    async def _error_text(self, response: aiohttp.ClientResponse) -> str:
        """The server's own words about an error, shortened; empty where it has none."""
        try:
            async with asyncio.timeout(self.timeouts.connect):
                data = await response.content.read(65536)
            response.close()
            return self.message(read_json(data))
        except (WireError, aiohttp.ClientError, TimeoutError):
            response.close()
            return ""

    def message(self, body: Any) -> str:
        if not isinstance(body, dict):
            return ""
        error = body.get("error", body)
        if isinstance(error, dict):
            code = error.get("code") or error.get("type")
            text = error.get("message") or error.get("detail") or ""
            error = f"{text} [{code}]" if isinstance(code, str) and code not in str(text) else text
        return self._clean(str(error))

    def _clean(self, text: str) -> str:
        """One short printable line without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        text = "".join(char if char.isprintable() else " " for char in text)
        return " ".join(text.split())[:200]

    def unreachable(self, error: Exception) -> str:
        reason = self._clean(str(error)) or type(error).__name__
        return (
            f"{self.base} cannot be reached ({reason}); check that the server runs and that the "
            "URL is right."
        )

    async def request(
        self, method: str, url: str, body: Any = None, stream: bool = False, total: float = 0
    ) -> aiohttp.ClientResponse:
        limits = self.timeouts
        timeout = aiohttp.ClientTimeout(
            total=total or limits.total,
            sock_connect=limits.connect,
            sock_read=limits.read if stream else None,
        )
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        return await self.client().session.request(
            method, url, data=data, headers=headers, timeout=timeout, allow_redirects=False
        )

    async def whole(self, response: aiohttp.ClientResponse) -> Any:
        """The JSON of a whole answer, at most MAX_BODY bytes."""
        data = bytearray()
        try:
            while chunk := await asyncio.wait_for(response.content.readany(), self.timeouts.read):
                data += chunk
                if len(data) > MAX_BODY:
                    raise WireError(f"an answer of more than {MAX_BODY >> 20} MB")
            return read_json(bytes(data))
        except WireError as error:
            raise EngineError(f"{self.where} gave {error}; {error.advice}.") from None

    async def events(
        self, response: aiohttp.ClientResponse
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Server-sent events as JSON objects, up to [DONE] or the end of the body."""
        if "html" in response.content_type:
            raise WireError("a page of HTML instead of an answer", CHECK_URL)
        async with contextlib.aclosing(_lines(response.content)) as lines:
            async for line in lines:
                if line.startswith((b"{", b"<")):
                    raise WireError("no stream although one was asked for")
                if not line.startswith(b"data:"):
                    continue  # comments that keep the connection open, event names
                data = line[5:].strip()
                if data == b"[DONE]":
                    break
                event = read_json(data)
                if not isinstance(event, dict):
                    raise WireError("an event that is not a JSON object")
                if event.get("error"):
                    raise WireError(f"an error in mid-stream: {self.message(event)}", "try again")
                yield event
        # the end of the body follows at once; reading it lets the connection be used again
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(0.05):
                await response.content.read()

    async def ask(self, method: str, url: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of a small question; status 0 where there was no answer at all."""
        try:
            response = await self.request(method, url, body, total=self.timeouts.connect)
            try:
                return response.status, read_json(await response.read())
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0, None
        except WireError:
            return -1, None  # it answered, but no JSON


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Lines of a body of any length, none longer than MAX_LINE."""
    held = b""
    async for chunk in content.iter_any():
        *lines, held = (held + chunk).split(b"\n")
        if len(held) > MAX_LINE:
            raise WireError(f"a line of more than {MAX_LINE >> 20} MB")
        for line in lines:
            yield line
    if held:
        yield held


def read_json(data: bytes) -> Any:
    """JSON as servers write it, NaN included; `WireError` where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        if data.lstrip()[:1] == b"<":
            raise WireError("a page of HTML instead of an answer", CHECK_URL) from None
        raise WireError("broken JSON", "try again, or look at the server's log") from None


def pause(tries: int, retry_after: float | None) -> float:
    """Seconds until the next try: what the server asks for, else backoff with full jitter."""
    if retry_after is not None:
        return min(retry_after, LONGEST_WAIT)
    return random.uniform(0, min(LONGEST_WAIT, BACKOFF * 2 ** (tries - 1)))


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _advice(status: int) -> str:
    if status in (401, 403):
        return f"set {KEY_VARIABLES[0]} or {KEY_VARIABLES[1]} to a key that this server accepts"
    if status == 404:
        return "check the URL and the model's name (GET /v1/models lists them)"
    if status == 429:
        return "wait, or send fewer requests at once"
    if status >= 500:
        return "look at the server's log, or try later"
    return "change the request or the server's settings"
