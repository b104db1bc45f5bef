"""Any OpenAI-compatible server: vLLM, Ollama, llama-server, SGLang, a hosted model.

One server is one `OpenAIEngine`. Requests run on an asyncio loop in a background thread, a bounded
number at a time; `astream` runs in the caller's own loop. What a server does not tell stays
`None`. The parts are `openai_address`, `openai_loop`, `openai_http` (retries, errors),
`openai_facts` (context length, counts, scores) and `wire` (the shapes of answers).
"""

import contextlib
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from typing import Any

import aiohttp

from featherweight.engines.openai_facts import Facts
from featherweight.engines.openai_http import Http, Question, Timeouts
from featherweight.engines.text import TextHolder, check_prompt, check_request
from featherweight.engines.types import (
    Delta,
    Generation,
    Prompt,
    Request,
    TopLogprob,
    failed,
)
from featherweight.engines.waiting import result_of
from featherweight.engines.wire import Answer, WireError, chat_fields, parse_choice, parse_usage
from featherweight.errors import EngineError

__all__ = ["OpenAIEngine", "Timeouts"]

DEFAULT_CONTEXT = 8192  # where neither the caller nor the server says


class OpenAIEngine:
    """A model behind an OpenAI-compatible API: `openai:URL#MODEL`, URL with or without /v1.

    The key is read from FEATHERWEIGHT_API_KEY, else OPENAI_API_KEY; it is sent to that server
    only (redirects are not followed) and appears in no message. `context_length` is what the
    server states (vLLM, llama-server, Ollama), else 8192; give it to override. `tokenizer` is a
    local model directory whose tokenizer and template count tokens where the server cannot.
    `concurrency` bounds `generate`; `astream` is as concurrent as its callers. Proxy variables of
    the environment are not read.

    A last message by the assistant is sent as it is, with the flags that make vLLM continue it;
    llama-server continues it without. Other servers may answer anew or refuse the flags: then
    leave the beginning out. Whether text in messages can pass for control tokens is the server's
    own doing.
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
        self._http = Http(
            url, model, concurrency=concurrency, tries=tries, timeouts=timeouts or Timeouts()
        )
        if concurrency < 1 or tries < 1:
            raise EngineError(
                f"openai:{self._http.base}: concurrency and tries must be at least 1."
            )
        if not model:
            raise EngineError(
                f"openai:{self._http.base} names no model; write openai:URL#MODEL, and see "
                f"{self._http.base}/models for the names."
            )
        self._model = model
        self._name = self._http.name
        self._concurrency = concurrency
        self._facts = Facts(self._http, model, context_length, tokenizer)
        # what this server was found not to take: logprobs, stream_options, max_tokens
        self._refused: set[str] = set()

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
    def attention_width(self) -> None:
        """Unknown: a server does not tell."""
        return None

    @property
    def context_length(self) -> int:
        """Given, else what the server states, else 8192; asked once and remembered."""
        return self._http.wait(self._facts.context()) or DEFAULT_CONTEXT

    @property
    def counts_tokens(self) -> bool:
        """Whether the server (or `tokenizer`) counts exactly; the server is asked once."""
        if self._facts.counts is None:
            with contextlib.suppress(EngineError):
                self.count_tokens([{"role": "user", "content": "a"}])
        return bool(self._facts.counts)

    def count_tokens(self, prompt: Prompt) -> int:
        """Exact count by the server's own tokenizer (vLLM, SGLang, llama-server) or `tokenizer`.

        Raises `EngineError` where there is neither: it is never an estimate.
        """
        check_prompt(self._name, prompt)
        return self._http.wait(self._facts.count(prompt))

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """Answer many requests at once, results in the order given."""
        iterator = iter(requests)
        running: deque[Future[Generation]] = deque()
        try:
            while True:
                # a few wait behind the ones in flight, so that one slow answer stops nobody
                for request in islice(iterator, 4 * self._concurrency - len(running)):
                    running.append(self._http.thread.start(self._answer(request)))
                if not running:
                    return
                yield result_of(running[0])
                running.popleft()
        finally:
            for future in running:
                future.cancel()

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Answer piece by piece; raises `EngineError` where `generate` would report."""
        deltas = self.astream(request)
        self._http.streams.add(deltas)
        try:
            while (delta := self._http.wait(_next(deltas))) is not None:
                yield delta
        finally:
            self._http.streams.discard(deltas)
            if not self._http.closed:
                self._http.wait(deltas.aclose())

    async def astream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """`stream` in the caller's event loop; closing or cancelling it closes the connection."""
        started = time.perf_counter()
        check_request(self._name, request)
        await self._facts.check_context(request)
        async with (
            self._http.send(self._question(request, stream=True)) as response,
            contextlib.aclosing(self._deltas(request, response, started)) as deltas,
        ):
            async for delta in deltas:
                yield delta

    def score(self, pairs: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        """Log-probabilities of continuations of raw text, from servers that echo (vLLM).

        Raises `EngineError` for chat messages (no API scores those) and for other servers.
        """
        for prompt, continuation in pairs:
            yield self._http.wait(self._facts.score(prompt, continuation))

    def encode(self, text: str) -> tuple[int, ...]:
        """Not offered: only `hf:` models score running text."""
        raise self._no_running_text()

    def score_tokens(
        self, rows: Iterable[Sequence[int]], start: bool = False, known: int = 1
    ) -> Iterator[tuple[float, ...]]:
        """Not offered: only `hf:` models score running text."""
        raise self._no_running_text()

    def _no_running_text(self) -> EngineError:
        return EngineError(
            f"{self._name}: a server gives no log-probabilities of running text; "
            "score with the same model opened as hf:DIR."
        )

    def close(self) -> None:
        """Close the connections and the background thread."""
        self._http.close()

    async def aclose(self) -> None:
        """`close` from inside an event loop that used `astream`."""
        await self._http.aclose()

    # ---- one request

    async def _answer(self, request: Request) -> Generation:
        """One request without streaming; every failure is a `Generation` that says why."""
        async with self._http.client().slots:
            started, answer = time.perf_counter(), Answer()
            try:
                check_request(self._name, request)
                await self._facts.check_context(request)
                async with self._http.send(self._question(request, stream=False)) as response:
                    body = await self._http.whole(response)
                self._read(answer, body, isinstance(request.prompt, str))
                return self._generation(request, answer, started)
            except EngineError as error:  # what was of no use was paid for all the same
                seconds = time.perf_counter() - started
                found = failed(self._name, str(error), seconds, answer.prompt_tokens)
                return replace(found, completion_tokens=answer.completion_tokens)

    def _question(self, request: Request, stream: bool) -> Question:
        return Question(
            "/completions" if isinstance(request.prompt, str) else "/chat/completions",
            lambda: self._body(request, stream),
            lambda complaint: self._adapt(complaint, request),
            stream,
        )

    def _body(self, request: Request, stream: bool) -> dict[str, Any]:
        """The JSON to send, without what this server is known to refuse."""
        prompt, raw = request.prompt, isinstance(request.prompt, str)
        body: dict[str, Any] = {"model": self._model, "temperature": request.temperature}
        if isinstance(prompt, str):
            body["prompt"] = prompt
        else:
            body |= chat_fields(prompt)
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

    def _read(self, answer: Answer, body: Any, raw: bool) -> None:
        """Add the one choice of a whole answer to `answer`, and what it took."""
        try:
            if not isinstance(body, dict):
                raise WireError("an answer that is not a JSON object")
            parse_usage(answer, body.get("usage"))
            if body.get("error"):
                raise WireError(f"an error: {self._http.message(body)}")
            choices = body.get("choices")
            if not isinstance(choices, list) or not choices:
                raise WireError("no choices")
            parse_choice(answer, choices[0], raw)
            answer.check()
        except WireError as error:
            raise EngineError(f"{self._http.where} gave {error}; {error.advice}.") from None

    def _generation(self, request: Request, answer: Answer, started: float) -> Generation:
        """An answer as a `Generation`, cut at a stop string that the server left in."""
        holder = TextHolder(request.stop)
        holder.feed(answer.text.encode())
        holder.finish()
        kept = answer.tokens_kept(request.stop)
        logprobs = answer.logprobs if answer.has_logprobs else None
        ids = answer.ids if answer.has_logprobs and answer.has_ids else None
        tops = None if logprobs is None else _tops(request, answer.tops[:kept])
        return Generation(
            text=holder.text,
            token_ids=None if ids is None else tuple(ids[:kept]),
            token_logprobs=None if logprobs is None else tuple(logprobs[:kept]),
            top_logprobs=tops,
            finish_reason="stop" if holder.stopped else answer.finish,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.written,
            seconds=time.perf_counter() - started,
            model=self._name,
        )

    async def _deltas(
        self, request: Request, response: aiohttp.ClientResponse, started: float
    ) -> AsyncGenerator[Delta, None]:
        """Server-sent events to deltas; raises `EngineError` where the stream goes wrong."""
        raw = isinstance(request.prompt, str)
        answer, holder, sent = Answer(), TextHolder(request.stop), 0
        try:
            async with contextlib.aclosing(self._http.events(response)) as events:
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
                        if answer.has_logprobs:
                            yield Delta(
                                shown,
                                tuple(answer.logprobs[sent:upto]),
                                top_logprobs=_tops(request, answer.tops[sent:upto]),
                            )
                        else:
                            yield Delta(shown)
                        sent = upto
                    if holder.stopped:
                        break
            answer.check()
        except WireError as error:
            raise EngineError(f"{self._http.where} gave {error}; {error.advice}.") from None
        rest = holder.finish()
        generation = self._generation(request, answer, started)
        logprobs, tops = generation.token_logprobs, generation.top_logprobs
        yield Delta(
            rest,
            None if logprobs is None else logprobs[sent:],
            generation,
            None if tops is None else tops[sent:],
        )

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


# words of a complaint about how many alternatives were asked for, not that any were
_LIMIT = re.compile(r"greater|less|at most|maximum|exceed|between|must be|range")


def _tops(
    request: Request, tops: Iterable[Sequence[TopLogprob]]
) -> tuple[tuple[TopLogprob, ...], ...] | None:
    """The likeliest alternatives, as many as were asked for.

    Some servers put the chosen token among them, in front and on top of their number.
    """
    count = request.top_logprobs
    if not count:
        return None
    return tuple(tuple(sorted(t, key=lambda one: -one.logprob)[:count]) for t in tops)


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta | None:
    return await anext(deltas, None)
