"""Any OpenAI-compatible server: vLLM, Ollama, llama-server, SGLang, a hosted model.

One server is one `OpenAIEngine`. Requests run on an asyncio loop in a background thread, a bounded
number at a time; `astream` runs in the caller's own loop. What a server does not tell stays
`None`, and whatever a server does wrong becomes one sentence: a status, a page of HTML, a broken
or unfinished answer, a stall. A stream that has begun is never tried again or joined to another.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from featherweight.engines.text import TextHolder, check_context, check_prompt, check_request
from featherweight.engines.types import Delta, Generation, Prompt, Request, failed
from featherweight.engines.wire import Answer, WireError, parse_choice, parse_usage
from featherweight.errors import EngineError

KEY_VARIABLES = ("FEATHERWEIGHT_API_KEY", "OPENAI_API_KEY")
DEFAULT_CONTEXT = 8192  # where neither the caller nor the server says
RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
BACKOFF = 0.5  # seconds; doubles with every try, full jitter
LONGEST_WAIT = 30.0  # seconds between two tries, whatever Retry-After says
MAX_BODY = 64 << 20  # bytes of one answer
MAX_LINE = 8 << 20  # bytes of one line of a stream
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, between two pieces of an answer that has begun, for one whole try.

    An answer that is not streamed begins when it is finished, so only `total` bounds it.
    """

    connect: float = 10.0
    read: float = 120.0
    total: float = 600.0


class OpenAIEngine:
    """A model behind an OpenAI-compatible API: `openai:URL#MODEL`, URL with or without /v1.

    The key is read from FEATHERWEIGHT_API_KEY, else OPENAI_API_KEY; it is sent to that server
    only (redirects are not followed) and appears in no message. `context_length` is what the
    server states (vLLM, llama-server, Ollama), else 8192; give it to override. `tokenizer` is a
    local model directory whose tokenizer and template count tokens where the server cannot.
    `concurrency` bounds `generate`; `astream` is as concurrent as its callers. Proxy variables of
    the environment are not read.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        context_length: int | None = None,
        tokenizer: str | None = None,
        concurrency: int = 8,
        tries: int = 4,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._base = _base_url(url)
        if not model:
            raise EngineError(
                f"openai:{self._base} names no model; write openai:URL#MODEL, and see "
                f"{self._base}/models for the names."
            )
        if concurrency < 1 or tries < 1:
            raise EngineError(f"openai:{self._base}: concurrency and tries must be at least 1.")
        self._model = model
        self._name = f"openai:{self._base}#{model}"
        self._key = _key()
        self._concurrency = concurrency
        self._tries = tries
        self._timeouts = timeouts or Timeouts()
        self._known_context = context_length
        self._tokenizer = _open_tokenizer(tokenizer) if tokenizer else None
        self._counts: bool | None = True if self._tokenizer else None
        # what this server was found not to take: logprobs, stream_options, max_tokens
        self._refused: set[str] = set()
        self._clients: dict[asyncio.AbstractEventLoop, _Client] = {}
        self._thread = _LoopThread()
        self._streams: set[AsyncGenerator[Delta, None]] = set()  # open ones of `stream`
        # also runs when the engine is forgotten or the program ends, and once only
        self._shut_down = weakref.finalize(
            self, _shut_down, self._thread, self._clients, self._streams
        )

    # ---- the engine protocol

    @property
    def name(self) -> str:
        """The spec, without anything secret."""
        return self._name

    @property
    def params(self) -> None:
        """Unknown: a server does not tell."""
        return None

    @property
    def context_length(self) -> int:
        """Given, else what the server states, else 8192; asked once and remembered."""
        return self._wait(self._context()) or DEFAULT_CONTEXT

    @property
    def counts_tokens(self) -> bool:
        """Whether the server (or `tokenizer`) counts exactly; the server is asked once."""
        if self._counts is None:
            with contextlib.suppress(EngineError):
                self.count_tokens([{"role": "user", "content": "a"}])
        return bool(self._counts)

    def count_tokens(self, prompt: Prompt) -> int:
        """Exact count by the server's own tokenizer (vLLM, SGLang, llama-server) or `tokenizer`.

        Raises `EngineError` where there is neither: it is never an estimate.
        """
        check_prompt(self._name, prompt)
        return self._wait(self._count(prompt))

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """Answer many requests at once, results in the order given."""
        iterator = iter(requests)
        running: deque[Future[Generation]] = deque()
        try:
            while True:
                # a few wait behind the ones in flight, so that one slow answer stops nobody
                for request in islice(iterator, 4 * self._concurrency - len(running)):
                    running.append(self._thread.start(self._answer(request)))
                if not running:
                    return
                yield running[0].result()
                running.popleft()
        finally:
            for future in running:
                future.cancel()

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Answer piece by piece; raises `EngineError` where `generate` would report."""
        deltas = self.astream(request)
        self._streams.add(deltas)
        try:
            while (delta := self._wait(_next(deltas))) is not None:
                yield delta
        finally:
            self._streams.discard(deltas)
            if self._shut_down.alive:
                self._wait(deltas.aclose())

    async def astream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """`stream` in the caller's event loop; closing or cancelling it closes the connection."""
        started = time.perf_counter()
        check_request(self._name, request)
        await self._check_context(request)
        async with (
            self._send(request, stream=True) as response,
            contextlib.aclosing(self._deltas(request, response, started)) as deltas,
        ):
            async for delta in deltas:
                yield delta

    def score(self, pairs: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        """Log-probabilities of continuations of raw text, from servers that echo (vLLM).

        Raises `EngineError` for chat messages (no API scores those) and for other servers.
        """
        for prompt, continuation in pairs:
            yield self._wait(self._score(prompt, continuation))

    def close(self) -> None:
        """Close the connections and the background thread."""
        self._shut_down()

    async def aclose(self) -> None:
        """`close` from inside an event loop that used `astream`."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.session.close()
        await asyncio.to_thread(self.close)

    # ---- one request

    async def _answer(self, request: Request) -> Generation:
        """One request without streaming; every failure is a `Generation` that says why."""
        client = self._client()
        async with client.slots:
            started = time.perf_counter()
            try:
                check_request(self._name, request)
                await self._check_context(request)
                body = await self._post(request)
                answer = self._read(body, isinstance(request.prompt, str))
                return self._generation(request, answer, started)
            except EngineError as error:
                return failed(self._name, str(error), time.perf_counter() - started)

    def _path(self, request: Request) -> str:
        return "/completions" if isinstance(request.prompt, str) else "/chat/completions"

    def _body(self, request: Request, stream: bool) -> dict[str, Any]:
        """The JSON to send, without what this server is known to refuse."""
        prompt, raw = request.prompt, isinstance(request.prompt, str)
        body: dict[str, Any] = {"model": self._model, "temperature": request.temperature}
        if isinstance(prompt, str):
            body["prompt"] = prompt
        else:
            body["messages"] = [dict(message) for message in prompt]
        limit = "max_completion_tokens" if "max_tokens" in self._refused else "max_tokens"
        body[limit] = request.max_tokens
        if request.stop:
            body["stop"] = list(request.stop)
        if request.temperature > 0:  # greedy needs no seed, and some servers refuse the field
            body["seed"] = request.seed
        if "logprobs" not in self._refused:
            if raw:
                body["logprobs"] = max(1, request.top_logprobs)
            else:
                body["logprobs"] = True
                if request.top_logprobs:
                    body["top_logprobs"] = request.top_logprobs
        if stream:
            body["stream"] = True
            if "stream_options" not in self._refused:
                body["stream_options"] = {"include_usage": True}
        return body

    def _read(self, body: Any, raw: bool) -> Answer:
        """The one choice of a whole answer."""
        where = f"{self._base} ({self._model})"
        try:
            if not isinstance(body, dict):
                raise WireError("an answer that is not a JSON object")
            if body.get("error"):
                raise WireError(f"an error: {self._message(body)}")
            choices = body.get("choices")
            if not isinstance(choices, list) or not choices:
                raise WireError("no choices")
            answer = Answer()
            parse_choice(answer, choices[0], raw)
            parse_usage(answer, body.get("usage"))
            answer.check()
            return answer
        except WireError as error:
            raise EngineError(f"{where} gave {error}; {error.advice}.") from None

    def _generation(self, request: Request, answer: Answer, started: float) -> Generation:
        """An answer as a `Generation`, cut at a stop string that the server left in."""
        holder = TextHolder(request.stop)
        holder.feed(answer.text.encode())
        holder.finish()
        kept = answer.tokens_kept(request.stop)
        logprobs = answer.logprobs if answer.has_logprobs else None
        ids = answer.ids if answer.has_logprobs and answer.has_ids else None
        tops = answer.tops if logprobs is not None and request.top_logprobs else None
        return Generation(
            text=holder.text,
            token_ids=None if ids is None else tuple(ids[:kept]),
            token_logprobs=None if logprobs is None else tuple(logprobs[:kept]),
            top_logprobs=None
            if tops is None
            else tuple(t[: request.top_logprobs] for t in tops[:kept]),
            finish_reason="stop" if holder.stopped else answer.finish,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens or len(answer.logprobs),
            seconds=time.perf_counter() - started,
            model=self._name,
        )

    async def _deltas(
        self, request: Request, response: aiohttp.ClientResponse, started: float
    ) -> AsyncGenerator[Delta, None]:
        """Server-sent events to deltas; raises `EngineError` where the stream goes wrong."""
        where = f"{self._base} ({self._model})"
        raw = isinstance(request.prompt, str)
        answer, holder, sent = Answer(), TextHolder(request.stop), 0
        try:
            async with contextlib.aclosing(self._events(response)) as events:
                async for event in events:
                    parse_usage(answer, event.get("usage"))
                    choices = event.get("choices")
                    if not choices:
                        continue  # the last event has usage alone
                    shown = holder.feed(parse_choice(answer, choices[0], raw).encode())
                    if holder.stopped:
                        answer.ending = answer.ending or "stop"
                    if shown:
                        # only tokens whose text is out: a stop string may still cut the others
                        upto = max(sent, answer.tokens_before(len(holder.text.encode())))
                        fresh = tuple(answer.logprobs[sent:upto]) if answer.has_logprobs else None
                        sent = upto
                        yield Delta(shown, fresh)
                    if holder.stopped:
                        break
            answer.check()
        except WireError as error:
            raise EngineError(f"{where} gave {error}; {error.advice}.") from None
        rest = holder.finish()
        generation = self._generation(request, answer, started)
        logprobs = generation.token_logprobs
        yield Delta(rest, None if logprobs is None else logprobs[sent:], generation)

    # ---- HTTP

    @contextlib.asynccontextmanager
    async def _send(self, request: Request, stream: bool) -> AsyncIterator[aiohttp.ClientResponse]:
        """A 200 response to the request; its connection is closed unless it was read whole."""
        response = await self._open(request, stream)
        try:
            yield response
        except TimeoutError:
            raise EngineError(
                f"{self._base} ({self._model}) stalled in the middle of an answer; "
                "look at the server's load or raise the timeouts."
            ) from None
        except aiohttp.ClientError:
            raise EngineError(
                f"{self._base} ({self._model}) broke off in the middle of an answer; try again, or "
                "look at the server's log."
            ) from None
        finally:
            response.close()

    async def _post(self, request: Request) -> Any:
        async with self._send(request, stream=False) as response:
            return await self._whole(response)

    async def _open(self, request: Request, stream: bool) -> aiohttp.ClientResponse:
        """Send until there is a 200, a final refusal, or no try is left."""
        tries = 0
        while True:
            tries += 1
            wait: float | None = None
            try:
                response = await self._request(
                    "POST", self._base + self._path(request), self._body(request, stream), stream
                )
            except aiohttp.ConnectionTimeoutError as error:
                problem = self._unreachable(error)
            except TimeoutError:  # it may still be working on the answer: do not ask twice
                raise EngineError(
                    f"{self._base} ({self._model}) gave no answer in time; look at the server's "
                    "load or raise the timeouts."
                ) from None
            except aiohttp.ClientConnectionError as error:
                problem = self._unreachable(error)
            except (aiohttp.ClientError, ValueError) as error:
                raise EngineError(self._unreachable(error)) from None
            else:
                if response.status == 200:
                    return response
                problem, again, wait = await self._refusal(response, request)
                if again == "changed":
                    tries -= 1  # what was refused is now left out; each name is dropped once
                    continue
                if again == "no":
                    raise EngineError(problem)
            if tries >= self._tries:
                raise EngineError(problem if tries == 1 else f"after {tries} tries, {problem}")
            await asyncio.sleep(_pause(tries, wait))

    async def _refusal(
        self, response: aiohttp.ClientResponse, request: Request
    ) -> tuple[str, str, float | None]:
        """What a status other than 200 means: one sentence, changed/no/yes, seconds to wait."""
        status = response.status
        wait = _retry_after(response.headers.get("Retry-After"))
        location = response.headers.get("Location", "")
        message = await self._error_text(response)
        if status in (400, 422) and self._adapt(message, request):
            return "", "changed", None
        problem = f"{self._base} ({self._model}) answered {status}"
        if message:
            problem += f" ({message})"
        if 300 <= status < 400:
            host = urlsplit(location).hostname or "another address"
            return f"{problem}: it redirects to {host}; give the final URL.", "no", None
        again = status in RETRY_STATUS and "insufficient_quota" not in message
        return f"{problem}; {_advice(status)}.", "yes" if again else "no", wait

    def _adapt(self, message: str, request: Request) -> bool:
        """Note what the server refuses by name, so that it is left out from now on."""
        text = message.lower()
        refused = None
        if "max_completion_tokens" in text and not isinstance(request.prompt, str):
            refused = "max_tokens"
        elif "stream_options" in text or "include_usage" in text:
            refused = "stream_options"
        elif "logprob" in text and not (request.top_logprobs and _LIMIT.search(text)):
            refused = "logprobs"
        if refused is None or refused in self._refused:
            return False
        self._refused.add(refused)
        return True

    async def _error_text(self, response: aiohttp.ClientResponse) -> str:
        """The server's own words about an error, shortened; empty where it has none."""
        try:
            async with asyncio.timeout(self._timeouts.connect):
                data = await response.content.read(65536)
            response.close()
            return self._message(_json(data))
        except (WireError, aiohttp.ClientError, TimeoutError):
            response.close()
            return ""

    def _message(self, body: Any) -> str:
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

    def _unreachable(self, error: Exception) -> str:
        reason = self._clean(str(error)) or type(error).__name__
        return (
            f"{self._base} cannot be reached ({reason}); check that the server runs and that the "
            "URL is right."
        )

    async def _request(
        self, method: str, url: str, body: Any = None, stream: bool = False, total: float = 0
    ) -> aiohttp.ClientResponse:
        limits = self._timeouts
        timeout = aiohttp.ClientTimeout(
            total=total or limits.total,
            sock_connect=limits.connect,
            sock_read=limits.read if stream else None,
        )
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        return await self._client().session.request(
            method, url, data=data, headers=headers, timeout=timeout, allow_redirects=False
        )

    async def _whole(self, response: aiohttp.ClientResponse) -> Any:
        """The JSON of a whole answer, at most MAX_BODY bytes."""
        data = bytearray()
        try:
            while chunk := await asyncio.wait_for(response.content.readany(), self._timeouts.read):
                data += chunk
                if len(data) > MAX_BODY:
                    raise WireError(f"an answer of more than {MAX_BODY >> 20} MB")
            return _json(bytes(data))
        except WireError as error:
            raise EngineError(
                f"{self._base} ({self._model}) gave {error}; {error.advice}."
            ) from None

    async def _events(
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
                event = _json(data)
                if not isinstance(event, dict):
                    raise WireError("an event that is not a JSON object")
                if event.get("error"):
                    raise WireError(f"an error in mid-stream: {self._message(event)}", "try again")
                yield event
        # the end of the body follows at once; reading it lets the connection be used again
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(0.05):
                await response.content.read()

    # ---- what the server knows: context length, token counts, scores

    async def _ask(self, method: str, url: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of a small question; status 0 where there was no answer at all."""
        try:
            response = await self._request(method, url, body, total=self._timeouts.connect)
            try:
                return response.status, _json(await response.read())
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0, None
        except WireError:
            return -1, None  # it answered, but no JSON

    @property
    def _root(self) -> str:
        return self._base.removesuffix("/v1")

    async def _context(self) -> int | None:
        """The context length where it is known, else `None`; a server is asked once."""
        async with self._client().asking:
            if self._known_context is None and "context" not in self._refused:
                status, models = await self._ask("GET", self._base + "/models")
                self._known_context = await self._stated_context(models)
                if status != 0 and self._known_context is None:
                    self._refused.add("context")
        return self._known_context

    async def _stated_context(self, models: Any) -> int | None:
        entry = _entry_of(models, self._model)
        if entry.get("owned_by") == "llamacpp":  # the slot's size, not the size trained at
            _, props = await self._ask("GET", self._root + "/props")
            if size := _positive(_dig(props, "default_generation_settings", "n_ctx")):
                return size
        for key in ("max_model_len", "context_length", "context_window", "max_context_length"):
            if size := _positive(entry.get(key)):
                return size
        return _positive(_dig(entry, "meta", "n_ctx_train")) or await self._ollama_context()

    async def _ollama_context(self) -> int | None:
        """Ollama cuts long prompts without a word, so its real setting matters.

        That is num_ctx of the model, else what it is loaded with now, else 4096.
        """
        _, shown = await self._ask("POST", self._root + "/api/show", {"model": self._model})
        info = _dig(shown, "model_info")
        if not isinstance(info, dict):
            return None
        parameters = str(_dig(shown, "parameters") or "")
        if found := re.search(r"^\s*num_ctx\s+(\d+)", parameters, re.MULTILINE):
            return int(found[1])
        _, loaded = await self._ask("GET", self._root + "/api/ps")
        for model in _dig(loaded, "models") or []:
            if _dig(model, "name") == self._model and _positive(_dig(model, "context_length")):
                return int(model["context_length"])
        trained = next((v for k, v in info.items() if k.endswith(".context_length")), None)
        return min(_positive(trained) or OLLAMA_CONTEXT, OLLAMA_CONTEXT)

    async def _check_context(self, request: Request) -> None:
        """Raise `ContextLengthError` before sending, where the server lets us know.

        A text has at most as many tokens as bytes (plus what the template adds), so most requests
        need no question at all.
        """
        texts = [request.prompt] if isinstance(request.prompt, str) else _contents(request.prompt)
        most = sum(len(text.encode("utf-8", "replace")) + 32 for text in texts) + 64
        if most + request.max_tokens <= SMALLEST_CONTEXT:
            return
        context = await self._context()
        if context is None or most + request.max_tokens <= context or self._counts is False:
            return
        try:
            count = await self._count(request.prompt)
        except EngineError:
            return  # the server judges for itself
        check_context(self._name, count, request.max_tokens, context)

    async def _count(self, prompt: Prompt) -> int:
        if self._tokenizer is not None:
            return _count_locally(self._tokenizer, prompt)
        url = self._root + "/tokenize"
        if isinstance(prompt, str):
            status, body = await self._ask("POST", url, self._question(prompt))
        else:
            messages = [dict(message) for message in prompt]
            question = {"model": self._model, "messages": messages, "add_generation_prompt": True}
            status, body = await self._ask("POST", url, question)
            if isinstance(_dig(body, "tokens"), list) and "count" not in body:  # llama-server
                _, filled = await self._ask(
                    "POST", self._root + "/apply-template", {"messages": messages}
                )
                text = _dig(filled, "prompt")
                body = None
                if isinstance(text, str):
                    status, body = await self._ask("POST", url, self._question(text))
        count = _dig(body, "count")
        tokens = _dig(body, "tokens")
        if not isinstance(count, int) and isinstance(tokens, list):
            count = len(tokens)
        if isinstance(count, int):
            self._counts = True
            return count
        if status == 0:
            raise EngineError(
                f"{self._base} cannot be reached to count tokens; check that the server runs."
            )
        self._counts = False
        raise EngineError(
            f"{self._name} gives no token counts; name the model's own tokenizer directory "
            "(tokenizer=DIR), or split by an estimate."
        )

    def _question(self, text: str) -> dict[str, Any]:
        """One body for both kinds of /tokenize: vLLM reads `prompt`, llama-server `content`."""
        return {
            "model": self._model,
            "prompt": text,
            "content": text,
            "add_special": True,
            "parse_special": True,
        }

    async def _score(self, prompt: Prompt, continuation: str) -> tuple[float, ...]:
        if not isinstance(prompt, str):
            raise EngineError(
                f"{self._name} cannot score an answer to chat messages; score raw text, or open "
                "the model with hf: or gguf:."
            )
        if not continuation:
            return ()
        joined = prompt + continuation
        body = {
            "model": self._model,
            "prompt": joined,
            "echo": True,
            "max_tokens": 0,
            "logprobs": 1,
            "temperature": 0,
        }
        status, found = await self._ask_score(body)
        logprobs = _dig((_dig(found, "choices") or [None])[0], "logprobs")
        tokens, values = _dig(logprobs, "tokens"), _dig(logprobs, "token_logprobs")
        if status == 200 and isinstance(tokens, list) and isinstance(values, list):
            scored = _last_tokens(tokens, values, continuation)
            if scored is not None:
                return scored
        why = f"answered {status}" if status > 0 and status != 200 else "gave none"
        raise EngineError(
            f"{self._name} cannot score: its /completions must echo the prompt with its "
            f"log-probabilities (vLLM does) and {why}; open the model with hf: or gguf:."
        )

    async def _ask_score(self, body: Any) -> tuple[int, Any]:
        try:
            response = await self._request("POST", self._base + "/completions", body)
            try:
                return response.status, _json(await response.read())
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(self._unreachable(error)) from None
        except WireError:
            return -1, None

    # ---- loops and threads

    def _client(self) -> "_Client":
        """This event loop's session and limits; aiohttp's belong to one loop."""
        if not self._shut_down.alive:
            raise EngineError(f"{self._name} is closed; open it again.")
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
            slots = asyncio.Semaphore(self._concurrency)
            client = self._clients[loop] = _Client(session, slots, asyncio.Lock())
        return client

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the background loop and wait; an interrupt cancels the work."""
        if not self._shut_down.alive:
            work.close()
            raise EngineError(f"{self._name} is closed; open it again.")
        future = self._thread.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


@dataclass
class _Client:
    """What belongs to one event loop."""

    session: aiohttp.ClientSession
    slots: asyncio.Semaphore
    asking: asyncio.Lock


class _LoopThread:
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


def _shut_down(
    thread: _LoopThread,
    clients: dict[asyncio.AbstractEventLoop, _Client],
    streams: set[AsyncGenerator[Delta, None]],
) -> None:
    """Close every session in its own loop, then the background loop."""
    mine = clients.pop(thread.loop, None) if thread.loop else None
    for loop, client in clients.items():
        if loop.is_running():
            asyncio.run_coroutine_threadsafe(client.session.close(), loop)
    clients.clear()
    thread.stop(_wind_up(streams, mine))


async def _wind_up(streams: set[AsyncGenerator[Delta, None]], client: _Client | None) -> None:
    """Cancel what runs on this loop, close the streams left open, then the session."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for stream in list(streams):
        await stream.aclose()
    if client is not None:
        await client.session.close()


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


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta | None:
    return await anext(deltas, None)


# words of a complaint about how many alternatives were asked for, not that any were
_LIMIT = re.compile(r"greater|less|at most|maximum|exceed|between|must be|range")
CHECK_URL = "check the URL, which should end in /v1"
OLLAMA_CONTEXT = 4096
SMALLEST_CONTEXT = 2048  # every server in use has this much; below it nothing is asked


def _base_url(url: str) -> str:
    """The URL with /v1 and without a trailing slash; refuses what cannot be right."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    if parts.username is not None or parts.password is not None:
        raise EngineError(
            f"openai: the URL of {parts.hostname} holds a user name or password; put the key in "
            f"{KEY_VARIABLES[0]} instead."
        )
    try:
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good:
        raise EngineError(
            f"openai:{url} is not a web address; write openai:http://HOST:PORT#MODEL."
        )
    if parts.query:
        raise EngineError(
            f"openai:{parts.scheme}://{parts.netloc}{parts.path} has a query after it, which is "
            "not supported; give the plain address of the API."
        )
    path = parts.path.rstrip("/")
    for ending in ("/chat/completions", "/completions", "/models"):
        path = path.removesuffix(ending)
    if not path:
        path = "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _key() -> str | None:
    for variable in KEY_VARIABLES:
        key = os.environ.get(variable, "").strip()
        if key:
            if not (key.isascii() and key.isprintable()):
                raise EngineError(f"the key in {variable} has characters no key has; set it again.")
            return key
    return None


def _json(data: bytes) -> Any:
    """JSON as servers write it, NaN included; `WireError` where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        if data.lstrip()[:1] == b"<":
            raise WireError("a page of HTML instead of an answer", CHECK_URL) from None
        raise WireError("broken JSON", "try again, or look at the server's log") from None


def _pause(tries: int, retry_after: float | None) -> float:
    """Seconds until the next try: what the server asks for, else backoff with full jitter."""
    if retry_after is not None:
        return min(retry_after, LONGEST_WAIT)
    return random.uniform(0, min(LONGEST_WAIT, BACKOFF * 2 ** (tries - 1)))


def _retry_after(value: str | None) -> float | None:
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


def _contents(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


def _dig(body: Any, *keys: str) -> Any:
    """`body[key][key]...`, or `None` where a step is missing."""
    for key in keys:
        body = body.get(key) if isinstance(body, dict) else None
    return body


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _entry_of(models: Any, model: str) -> dict[str, Any]:
    """The model's entry in /v1/models; of a server with one model, that one."""
    data = _dig(models, "data")
    entries = [e for e in data if isinstance(e, dict)] if isinstance(data, list) else []
    for entry in entries:
        if entry.get("id") == model:
            return entry
    return entries[0] if len(entries) == 1 else {}


def _last_tokens(
    tokens: list[Any], values: list[Any], continuation: str
) -> tuple[float, ...] | None:
    """Log-probabilities of the last tokens that cover `continuation`; `None` if they do not."""
    covered = ""
    for i in range(len(tokens) - 1, -1, -1):
        if len(covered) >= len(continuation):
            break
        covered = str(tokens[i]) + covered
        last = i
    if not covered.endswith(continuation) or len(tokens) != len(values):
        return None
    found = values[last:]
    return tuple(map(float, found)) if all(isinstance(v, int | float) for v in found) else None


def _open_tokenizer(folder: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise EngineError(
            "counting tokens with a tokenizer directory needs transformers; install "
            "featherweight[train]."
        ) from None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EngineError(f"{folder} holds no tokenizer that can be opened: {reason}") from None


def _count_locally(tokenizer: Any, prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(tokenizer(prompt, verbose=False).input_ids)
    messages = [dict(message) for message in prompt]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template raises what it likes; there may be none at all
        reason = " ".join(str(error).split())[:200]
        raise EngineError(
            f"the tokenizer of {tokenizer.name_or_path} cannot count these messages ({reason}); "
            "name a directory that has the model's chat template."
        ) from error
    return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
