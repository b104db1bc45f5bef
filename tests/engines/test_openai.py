"""The OpenAI engine against a small server that does everything servers do wrong."""

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from featherweight.engines import openai_http as module
from featherweight.engines.openai import OpenAIEngine, Timeouts
from featherweight.engines.types import Delta, Generation, Message, Request
from featherweight.errors import ContextLengthError, EngineError

CHAT: list[Message] = [{"role": "user", "content": "hi"}]
KEY = "sk-very-secret-0123456789"
WORDS = ["One", " two", " thrée", " four"]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers with what a test puts into `answers` (a dict is JSON), by path; records requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.running = self.most = self.cancelled = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            self.paths.append(request.path)
            self.headers.append(dict(request.headers))
            if request.can_read_body:
                self.bodies.append(await request.json())
            answer = self.answers.get(request.path)
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if answer is None:
                return web.json_response({"error": {"message": "no route"}}, status=404)
            if callable(answer):
                found: web.StreamResponse = await answer(request)
                return found
            if isinstance(answer, tuple):
                status, body, headers = answer
                return web.json_response(body, status=status, headers=headers)
            return web.json_response(answer)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        yield found


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("FEATHERWEIGHT_API_KEY", raising=False)
    monkeypatch.setattr(module, "BACKOFF", 0.01)


@pytest.fixture
def engine(server: Server) -> Iterator[OpenAIEngine]:
    found = OpenAIEngine(server.url, "m", tries=3, timeouts=Timeouts(2, 0.5, 2))
    yield found
    found.close()


def entries(words: list[str], top: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "token": word,
            "bytes": list(word.encode()),
            "logprob": -0.25 * (i + 1),
            "top_logprobs": [
                {"token": f"t{k}", "bytes": None, "logprob": -1.0 - k} for k in range(top)
            ],
        }
        for i, word in enumerate(words)
    ]


def chat(words: list[str] = WORDS, finish: str | None = "stop", **extra: Any) -> dict[str, Any]:
    """A chat completion as servers give it; `extra` replaces parts of the choice."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(words)},
        "logprobs": {"content": entries(words)},
        "finish_reason": finish,
    }
    usage = {"prompt_tokens": 7, "completion_tokens": len(words)}
    return {"choices": [choice | extra], "usage": usage}


def completion(words: list[str] = WORDS, **logprobs: Any) -> dict[str, Any]:
    """A completion in the older shape of parallel lists."""
    lists = {
        "tokens": words,
        "token_logprobs": [-0.25 * (i + 1) for i in range(len(words))],
        "top_logprobs": [{word: -0.1, "other": -3.0} for word in words],
    }
    choice = {"text": "".join(words), "logprobs": lists | logprobs, "finish_reason": "length"}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": len(words)}}


def events(words: list[str] = WORDS, raw: bool = False, top: int = 0) -> list[bytes]:
    """The pieces of a stream, one event each: tokens, ending, usage, [DONE]."""
    found: list[dict[str, Any]] = []
    for entry, word in zip(entries(words, top), words, strict=True):
        if raw:
            lists = {"tokens": [word], "token_logprobs": [entry["logprob"]], "top_logprobs": None}
            found.append({"choices": [{"text": word, "logprobs": lists, "finish_reason": None}]})
        else:
            choice = {"delta": {"content": word}, "logprobs": {"content": [entry]}}
            found.append({"choices": [choice | {"finish_reason": None}]})
    last = {"text": ""} if raw else {"delta": {}}
    found.append({"choices": [last | {"finish_reason": "stop"}]})
    found.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(words)}})
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in found] + [
        b"data: [DONE]\n\n"
    ]


def sse(pieces: list[bytes], pause: float = 0.0, hang: bool = False) -> Handler:
    """Sends the pieces as they are, then ends the body or hangs."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(pause)
        if hang:
            await asyncio.sleep(60)
        return response

    return handler


def text(body: str, content_type: str = "application/json") -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text=body, content_type=content_type)

    return handler


async def stall(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut_short(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.abort()
    return response


def one(engine: OpenAIEngine, request: Request | None = None) -> Generation:
    return next(engine.generate([request or Request(CHAT)]))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


CHAT_PATH, RAW_PATH = "/v1/chat/completions", "/v1/completions"


# ---- good answers


def test_a_chat_answer(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = chat(logprobs={"content": entries(WORDS, top=2)})
    answer = one(engine, Request(CHAT, max_tokens=9, stop=("x",), top_logprobs=1))
    assert answer.text == "One two thrée four" and answer.finish_reason == "stop"
    assert answer.token_logprobs == (-0.25, -0.5, -0.75, -1.0) and answer.token_ids is None
    assert answer.top_logprobs is not None and len(answer.top_logprobs[0]) == 1
    assert answer.top_logprobs[0][0].bytes == b"t0" and answer.top_logprobs[0][0].id is None
    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 4)
    assert answer.model == engine.name == f"openai:{server.url}/v1#m" and answer.seconds > 0
    assert server.bodies == [
        {
            "model": "m",
            "temperature": 0.0,
            "messages": CHAT,
            "max_tokens": 9,
            "stop": ["x"],
            "logprobs": True,
            "top_logprobs": 1,
        }
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_completion_and_its_older_logprobs(server: Server, engine: OpenAIEngine) -> None:
    server.answers[RAW_PATH] = completion()
    answer = one(engine, Request("One", temperature=0.5, seed=3, top_logprobs=2))
    assert answer.token_logprobs == (-0.25, -0.5, -0.75, -1.0)
    assert answer.top_logprobs is not None
    assert [t.bytes for t in answer.top_logprobs[1]] == [b" two", b"other"]
    assert answer.finish_reason == "length"
    assert server.bodies[0]["logprobs"] == 2 and server.bodies[0]["seed"] == 3
    assert one(engine, Request("One")).top_logprobs is None


def test_token_ids_where_they_are_stated(server: Server, engine: OpenAIEngine) -> None:
    stated = [entry | {"id": 40 + i} for i, entry in enumerate(entries(WORDS))]
    server.answers[CHAT_PATH] = chat(logprobs={"content": stated})
    assert one(engine).token_ids == (40, 41, 42, 43)


@pytest.mark.parametrize("raw", [False, True])
def test_a_stream(server: Server, engine: OpenAIEngine, raw: bool) -> None:
    server.answers[RAW_PATH if raw else CHAT_PATH] = sse([b": ping\n\n", *events(raw=raw)])
    deltas = list(engine.stream(Request("a" if raw else CHAT)))
    assert [delta.text for delta in deltas] == [*WORDS, ""]
    final = deltas[-1].generation
    assert final is not None and final.text == "One two thrée four"
    assert final.token_logprobs == (-0.25, -0.5, -0.75, -1.0)
    assert [x for d in deltas for x in d.token_logprobs or ()] == list(final.token_logprobs)
    assert (final.finish_reason, final.prompt_tokens, final.completion_tokens) == ("stop", 7, 4)
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


def test_a_stream_with_alternatives(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = sse(events(top=3))
    deltas = list(engine.stream(Request(CHAT, top_logprobs=2, stop=("four",))))
    final = deltas[-1].generation
    assert final is not None and final.top_logprobs is not None
    assert [[top.logprob for top in tops] for tops in final.top_logprobs] == [[-1.0, -2.0]] * 4
    assert tuple(top for delta in deltas for top in delta.top_logprobs or ()) == final.top_logprobs
    assert deltas[0].top_logprobs == final.top_logprobs[:1]  # with the token, not at the end


def test_the_chosen_token_in_front_is_one_too_many(server: Server, engine: OpenAIEngine) -> None:
    """vLLM's older completions give a sampled token first, then as many as were asked for."""
    tops = [{"sampled": -4.0, "likeliest": -0.5, "next": -1.5}]
    server.answers[RAW_PATH] = completion(["a"], top_logprobs=tops)
    answer = one(engine, Request("x", top_logprobs=2))
    assert answer.top_logprobs is not None
    assert [top.logprob for top in answer.top_logprobs[0]] == [-0.5, -1.5]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_stream_in_any_pieces(server: Server, engine: OpenAIEngine, size: int) -> None:
    body = b"".join(events()).replace(b"\n", b"\r\n").rstrip()
    server.answers[CHAT_PATH] = sse([body[i : i + size] for i in range(0, len(body), size)])
    assert "".join(delta.text for delta in engine.stream(Request(CHAT))) == "".join(WORDS)


def test_an_empty_answer_is_an_answer(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = chat([], message={"content": None}, logprobs=None)
    answer = one(engine)
    assert (answer.text, answer.finish_reason, answer.error) == ("", "stop", None)


def test_a_stop_string_left_in_by_the_server(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = chat(finish="length")
    answer = one(engine, Request(CHAT, stop=(" thr",)))
    assert answer.text == "One two" and answer.finish_reason == "stop"
    assert answer.token_logprobs == (-0.25, -0.5)
    server.answers[CHAT_PATH] = sse(events())
    deltas = list(engine.stream(Request(CHAT, stop=(" thr",))))
    assert deltas[-1].generation is not None
    assert deltas[-1].generation.token_logprobs == (-0.25, -0.5)
    assert "".join(delta.text for delta in deltas) == "One two"


def test_tokens_cut_off_by_the_server_are_not_counted(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = chat(message={"content": "One two"})  # all four tokens reported
    answer = one(engine, Request(CHAT, stop=(" thr",)))
    assert answer.text == "One two" and answer.token_logprobs == (-0.25, -0.5)
    assert answer.completion_tokens == 4


@pytest.mark.parametrize("logprobs", [None, {"content": []}, {"content": None}, {"tokens": None}])
def test_missing_logprobs_are_none(server: Server, engine: OpenAIEngine, logprobs: Any) -> None:
    server.answers[CHAT_PATH] = chat(logprobs=logprobs)
    answer = one(engine, Request(CHAT, top_logprobs=2))
    assert answer.text and answer.token_logprobs is None and answer.top_logprobs is None


def test_what_a_useless_answer_took_is_kept(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = chat(logprobs={"content": [{"token": "a", "logprob": 0.9}]})
    answer = one(engine)
    assert answer.error and (answer.prompt_tokens, answer.completion_tokens) == (7, len(WORDS))


@pytest.mark.parametrize(
    ("words", "shown", "finish", "written"),
    [
        (["One", " two"], "One two", "stop", 3),  # the end token has no log-probability
        (["One", " two", ""], "One two", "stop", 3),
        (["One", " two", "<|end|>"], "One two", "stop", 3),
        (["One", " two"], "One two", "length", 2),
    ],
)
def test_tokens_are_counted_where_the_server_does_not(
    server: Server, engine: OpenAIEngine, words: list[str], shown: str, finish: str, written: int
) -> None:
    server.answers[CHAT_PATH] = chat(words, finish, message={"content": shown}) | {"usage": None}
    answer = one(engine)
    assert (len(answer.token_logprobs or ()), answer.completion_tokens) == (len(words), written)


def test_logprobs_of_some_tokens_are_none_at_all(server: Server, engine: OpenAIEngine) -> None:
    # llama-server tells only the last token of a character that takes several
    server.answers[CHAT_PATH] = chat(["🎉", "🎉"]) | {"usage": {"completion_tokens": 8}}
    assert one(engine).token_logprobs is None
    server.answers[CHAT_PATH] = chat(["One", " two"], message={"content": "One two more"}) | {
        "usage": {}
    }
    assert one(engine).token_logprobs is None


# ---- beginnings to continue


@pytest.mark.parametrize("stream", [False, True])
def test_a_beginning_is_sent_to_be_continued(
    server: Server, engine: OpenAIEngine, stream: bool
) -> None:
    begun: list[Message] = [*CHAT, {"role": "assistant", "content": "Well, "}]
    empty: list[Message] = [*CHAT, {"role": "assistant", "content": ""}]
    server.answers[CHAT_PATH] = sse(events()) if stream else chat()
    for messages in (begun, empty, CHAT):
        if stream:
            *_, last = engine.stream(Request(messages))
            assert last.generation is not None and last.generation.text == "".join(WORDS)
        else:
            assert one(engine, Request(messages)).text == "".join(WORDS)  # only what was added
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    assert server.bodies[0].items() >= (flags | {"messages": begun}).items()
    for body in server.bodies[1:]:
        assert body["messages"] == CHAT and not flags.keys() & body.keys()


def test_a_beginning_is_counted_as_it_is_read(server: Server, engine: OpenAIEngine) -> None:
    vllm(server)
    begun: list[Message] = [*CHAT, {"role": "assistant", "content": "Well, "}]
    assert engine.count_tokens(begun) == 2001 and engine.count_tokens(CHAT) == 2001
    assert server.bodies[0]["messages"] == begun and server.bodies[0]["continue_final_message"]
    assert server.bodies[0]["add_generation_prompt"] is False
    assert server.bodies[1]["add_generation_prompt"] is True


def test_a_beginning_that_is_refused_is_an_error(server: Server, engine: OpenAIEngine) -> None:
    message = "Unrecognized request argument supplied: continue_final_message"
    server.answers[CHAT_PATH] = refusing("continue_final_message", message, chat())
    begun: list[Message] = [*CHAT, {"role": "assistant", "content": "Well, "}]
    assert message in str(one(engine, Request(begun)).error) and len(server.bodies) == 1


def test_text_in_messages_is_sent_as_it_is(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = chat()
    hostile: list[Message] = [{"role": "user", "content": "<|im_end|></s>"}]
    assert one(engine, Request(hostile)).text and server.bodies[0]["messages"] == hostile


# ---- order, concurrency, cancellation


def test_results_come_in_order_and_bounded(server: Server) -> None:
    async def slow_first(request: web.Request) -> web.StreamResponse:
        content = (await request.json())["messages"][0]["content"]
        await asyncio.sleep(0.2 if content == "0" else 0.02)
        return web.json_response(chat([content]))

    server.answers[CHAT_PATH] = slow_first
    engine = OpenAIEngine(server.url, "m", concurrency=3)
    requests = (Request([{"role": "user", "content": str(i)}]) for i in range(40))
    assert [answer.text for answer in engine.generate(requests)] == [str(i) for i in range(40)]
    assert 1 < server.most <= 3
    engine.close()


def test_one_failure_does_not_stop_the_rest(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = [chat(), (400, {"error": {"message": "bad"}}, {}), chat()]
    answers = [one(engine) for _ in range(3)]
    assert [a.finish_reason for a in answers] == ["stop", "error", "stop"]
    mixed = list(engine.generate([Request(CHAT), Request(CHAT, max_tokens=0), Request(CHAT)]))
    assert [a.finish_reason for a in mixed] == ["stop", "error", "stop"]


def test_closing_a_stream_closes_the_connection(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = sse(events()[:2], hang=True)
    stream = engine.stream(Request(CHAT))
    assert next(stream).text == "One"
    stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: server.cancelled == 1)


def test_a_cancelled_astream_closes_the_connection(server: Server) -> None:
    server.answers[CHAT_PATH] = sse(events()[:2], hang=True)
    engine = OpenAIEngine(server.url, "m")

    async def read() -> list[Delta]:
        return [delta async for delta in engine.astream(Request(CHAT))]

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.to_thread(wait_until, lambda: server.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: server.cancelled == 1)
        closing = engine.astream(Request(CHAT))
        assert (await anext(closing)).text == "One"
        await closing.aclose()
        await asyncio.to_thread(wait_until, lambda: server.cancelled == 2)
        server.answers[CHAT_PATH] = sse(events())
        assert [delta.text for delta in await read()] == [*WORDS, ""]
        await engine.aclose()

    asyncio.run(main())


def test_an_abandoned_batch_is_cancelled(server: Server, engine: OpenAIEngine) -> None:
    async def first_only(request: web.Request) -> web.StreamResponse:
        if len(server.bodies) > 1:
            await asyncio.sleep(60)
        return web.json_response(chat())

    server.answers[CHAT_PATH] = first_only
    answers = engine.generate(Request(CHAT) for _ in range(4))
    assert next(answers).text
    answers.close()  # type: ignore[attr-defined]
    wait_until(lambda: server.running == 0)


# ---- retries


def test_a_busy_server_is_asked_again(server: Server, engine: OpenAIEngine) -> None:
    for status in (408, 425, 429, 500, 502, 503, 504):
        server.bodies.clear()
        server.answers[CHAT_PATH] = [(status, {}, {}), (status, {}, {}), chat()]
        assert one(engine).text and len(server.bodies) == 3
        server.answers[CHAT_PATH] = (status, {"error": {"message": "so busy"}}, {})
        error = str(one(engine).error)
        assert f"after 3 tries, {server.url}/v1 (m) answered {status} (so busy)" in error


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_final(server: Server, engine: OpenAIEngine, status: int) -> None:
    server.answers[CHAT_PATH] = (status, {"detail": "no"}, {})
    assert f"answered {status}" in str(one(engine).error) and len(server.bodies) == 1
    with pytest.raises(EngineError, match=f"answered {status}"):
        list(engine.stream(Request(CHAT)))


def test_an_empty_account_is_not_asked_again(server: Server, engine: OpenAIEngine) -> None:
    error = {"error": {"message": "no money", "code": "insufficient_quota"}}
    server.answers[CHAT_PATH] = (429, error, {})
    assert "no money" in str(one(engine).error) and len(server.bodies) == 1


def test_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF", 1.0)
    assert module.pause(1, 3.0) == 3.0 and module.pause(1, 9999.0) == module.LONGEST_WAIT
    assert all(0 <= module.pause(tries, None) <= 2 ** (tries - 1) for tries in range(1, 5))
    assert module.pause(60, None) <= module.LONGEST_WAIT
    assert module.retry_after("2") == 2.0
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 15 < (module.retry_after(date) or 0) <= 20
    assert module.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    for nonsense in (None, "", "soon", "-1", "nan"):
        assert module.retry_after(nonsense) is None


def test_the_server_sees_the_pause(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = [(503, {}, {"Retry-After": "1"}), chat()]
    started = time.monotonic()
    assert one(engine).text and time.monotonic() - started >= 1


def test_a_connection_that_fails_is_tried_again(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = [reset, reset, chat()]
    assert one(engine).text
    server.answers[CHAT_PATH] = reset
    assert "after 3 tries" in str(one(engine).error)
    nobody = OpenAIEngine("http://127.0.0.1:9", "m", tries=2)
    assert "after 2 tries" in str(one(nobody).error) and "server runs" in str(one(nobody).error)
    nobody.close()


# ---- everything a server does wrong

BAD_BODIES: list[tuple[Any, str]] = [
    (text("<html><body>proxy</body></html>", "text/html"), "page of HTML"),
    (text('{"choices": [,,'), "broken JSON"),
    (text("[]"), "not a JSON object"),
    (text("[" * 100_000), "broken JSON"),
    ({"choices": []}, "no choices"),
    ({"choices": ["x"]}, "not a JSON object"),
    ({"error": {"message": "model crashed"}}, "model crashed"),
    (chat(finish=None), "breaks off"),
    (chat(finish="content_filter"), "content_filter"),
    (chat(finish="tool_calls"), "tool_calls"),
    (chat(finish="gave up"), "gave up"),
    (chat(message={"content": None, "refusal": "I cannot"}), "refusal"),
    (chat(message={"content": 5}), "not text"),
    (chat(logprobs={"content": [{"token": "a", "logprob": None}]}), "log-probability of None"),
    (chat(logprobs={"content": [{"token": "a", "logprob": 0.9}]}), "log-probability of 0.9"),
    (chat(logprobs={"content": [{"token": "a", "logprob": -1, "bytes": [999]}]}), "0 to 255"),
    (chat(logprobs={"content": [7]}), "not a JSON object"),
    (text(json.dumps(chat()).replace("-0.25", "NaN")), "log-probability of nan"),
    (text(json.dumps(chat()).replace("-0.25", "-Infinity")), "log-probability of -inf"),
    (cut_short, "broke off"),
    (stall, "no answer in time"),
    (sse([b'{"choices"'], hang=True), "stalled"),
]


@pytest.mark.parametrize(("answer", "message"), BAD_BODIES)
def test_a_bad_answer_is_one_sentence(
    server: Server, engine: OpenAIEngine, answer: Any, message: str
) -> None:
    server.answers[CHAT_PATH] = answer
    found = one(engine)
    assert found.finish_reason == "error" and found.text == "" and found.token_logprobs is None
    assert message in str(found.error) and server.url in str(found.error)
    assert str(found.error).endswith(".") and "\n" not in str(found.error)
    assert len(server.bodies) == 1  # an answer that was bad is not asked for again


BAD_STREAMS: list[tuple[Any, str, int]] = [
    (sse(events()[:3]), "breaks off", 3),
    (sse([*events()[:2], b"data: {broken\n\n", *events()[2:]]), "broken JSON", 2),
    (sse([*events()[:2], b'data: {"error": {"message": "oom"}}\n\n']), "oom", 2),
    (sse([*events()[:1], b"data: 7\n\n"]), "not a JSON object", 1),
    (sse(events()[:2], hang=True), "stalled", 2),
    (text("<html></html>", "text/html"), "page of HTML", 0),
    (chat(), "no stream", 0),
    (stall, "no answer in time", 0),
    (sse([*events()[:1], b"data: [DONE]\n\n"]), "breaks off", 1),
]


@pytest.mark.parametrize(("answer", "message", "pieces"), BAD_STREAMS)
def test_a_stream_that_began_is_never_tried_again(
    server: Server, engine: OpenAIEngine, answer: Any, message: str, pieces: int
) -> None:
    server.answers[CHAT_PATH] = answer
    shown = []
    with pytest.raises(EngineError, match=message):
        for delta in engine.stream(Request(CHAT)):
            shown.append(delta.text)
    assert shown == WORDS[:pieces] and len(server.bodies) == 1


def test_a_stream_that_is_refused_is_tried_again(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = [(503, {}, {}), sse(events())]
    assert "".join(delta.text for delta in engine.stream(Request(CHAT))) == "".join(WORDS)


def test_answers_without_end_are_cut(
    server: Server, engine: OpenAIEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BODY", 1 << 20)
    monkeypatch.setattr(module, "MAX_LINE", 1 << 20)
    server.answers[CHAT_PATH] = text(" " * (3 << 20))
    assert "more than 1 MB" in str(one(engine).error)
    server.answers[CHAT_PATH] = sse([b"data: " + b"x" * (3 << 20)])
    with pytest.raises(EngineError, match="more than 1 MB"):
        list(engine.stream(Request(CHAT)))


# ---- what a server does not take


def refusing(field: str, message: str, good: Any) -> Handler:
    """400 while the body has `field`, else `good`."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if field in await request.json():
            return web.json_response({"error": {"message": message}}, status=400)
        if callable(good):
            found: web.StreamResponse = await good(request)
            return found
        return web.json_response(good)

    return handler


def test_logprobs_that_are_refused_are_left_out(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = refusing("logprobs", "logprobs: unknown", chat(logprobs=None))
    assert one(engine).token_logprobs is None and len(server.bodies) == 2
    assert one(engine).text and len(server.bodies) == 3  # remembered


def test_too_many_alternatives_are_an_error(server: Server, engine: OpenAIEngine) -> None:
    message = "top_logprobs must be at most 5"
    server.answers[CHAT_PATH] = refusing("top_logprobs", message, chat())
    assert message in str(one(engine, Request(CHAT, top_logprobs=9)).error)
    assert one(engine).token_logprobs is not None


def test_the_other_name_of_max_tokens(server: Server, engine: OpenAIEngine) -> None:
    message = "'max_tokens' is not supported, use 'max_completion_tokens'"
    server.answers[CHAT_PATH] = refusing("max_tokens", message, chat())
    assert one(engine, Request(CHAT, max_tokens=5)).text
    assert server.bodies[1]["max_completion_tokens"] == 5 and len(server.bodies) == 2
    assert one(engine).text and len(server.bodies) == 3


def test_stream_options_that_are_refused(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = refusing("stream_options", "stream_options?", sse(events()))
    assert len(list(engine.stream(Request(CHAT)))) == 5 and len(server.bodies) == 2


def test_a_server_that_refuses_for_ever(server: Server, engine: OpenAIEngine) -> None:
    message = "logprobs, stream_options, max_completion_tokens: all wrong"
    server.answers[CHAT_PATH] = (400, {"error": message}, {})
    assert "all wrong" in str(one(engine).error) and len(server.bodies) <= 4


# ---- keys and addresses


def test_the_key_is_in_no_message(server: Server, engine: OpenAIEngine) -> None:
    server.answers[CHAT_PATH] = (401, {"error": {"message": f"bad key {KEY}\n\x1b[31m"}}, {})
    error = str(one(engine).error)
    assert KEY not in error and "***" in error and "OPENAI_API_KEY" in error
    assert "\x1b" not in error and KEY not in engine.name


def test_a_redirect_is_not_followed(server: Server, engine: OpenAIEngine) -> None:
    with Server() as other:
        other.answers[CHAT_PATH] = chat()
        headers = {"Location": other.url + CHAT_PATH}
        server.answers[CHAT_PATH] = (307, {}, headers)
        assert "redirects to 127.0.0.1" in str(one(engine).error)
        assert other.headers == []


def test_which_key_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def sent() -> str | None:
        server.answers[CHAT_PATH] = chat()
        engine = OpenAIEngine(server.url, "m")
        assert one(engine).text
        engine.close()
        return server.headers[-1].get("Authorization")

    monkeypatch.setenv("FEATHERWEIGHT_API_KEY", " own \n")
    assert sent() == "Bearer own"
    monkeypatch.delenv("FEATHERWEIGHT_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert sent() is None
    monkeypatch.setenv("OPENAI_API_KEY", "a\nb")
    with pytest.raises(EngineError, match="OPENAI_API_KEY"):
        OpenAIEngine(server.url, "m")


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://a:1", "http://a:1/v1"),
        ("http://a:1/", "http://a:1/v1"),
        ("http://a/v1/", "http://a/v1"),
        ("https://a/api/v1", "https://a/api/v1"),
        ("https://a/v1/chat/completions", "https://a/v1"),
    ],
)
def test_addresses_with_and_without_v1(url: str, base: str) -> None:
    assert OpenAIEngine(url, "m").name == f"openai:{base}#m"


@pytest.mark.parametrize(
    "url", ["", "a:1", "ftp://a", "http://", "http://a:99999", "http://a?x=1", "//a"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(EngineError):
        OpenAIEngine(url, "m")


def test_a_key_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(EngineError) as caught:
        OpenAIEngine("http://me:hunter2@a", "m")
    assert "hunter2" not in str(caught.value) and "FEATHERWEIGHT_API_KEY" in str(caught.value)
    with pytest.raises(EngineError, match="names no model"):
        OpenAIEngine("http://a", "")
    with pytest.raises(EngineError, match="at least 1"):
        OpenAIEngine("http://a", "m", concurrency=0)


# ---- context length, token counts, scores

LONG: list[Message] = [{"role": "user", "content": "word " * 2000}]


def vllm(server: Server, count: int = 2001, context: int = 4000) -> None:
    model = {"id": "m", "owned_by": "vllm", "max_model_len": context}
    server.answers["/v1/models"] = {"data": [{"id": "other", "max_model_len": 1}, model]}
    server.answers["/tokenize"] = {"count": count, "max_model_len": context, "tokens": [1]}


def test_vllm_counts_and_states_its_context(server: Server, engine: OpenAIEngine) -> None:
    vllm(server)
    assert engine.context_length == 4000 and engine.context_length == 4000
    assert server.paths == ["/v1/models"]  # asked once
    assert engine.counts_tokens and engine.count_tokens(CHAT) == 2001
    assert server.bodies[-1]["messages"] == CHAT
    assert engine.count_tokens("text") == 2001 and server.bodies[-1]["prompt"] == "text"


def test_a_prompt_that_is_too_long_is_not_sent(server: Server, engine: OpenAIEngine) -> None:
    vllm(server)
    server.answers[CHAT_PATH] = chat()
    error = str(one(engine, Request(LONG, max_tokens=2000)).error)
    assert "2001 tokens" in error and "4000" in error and CHAT_PATH not in server.paths
    with pytest.raises(ContextLengthError):
        list(engine.stream(Request(LONG, max_tokens=2000)))
    assert one(engine, Request(LONG, max_tokens=1999)).text
    server.paths.clear()
    assert one(engine).text and server.paths == [CHAT_PATH]  # a short one asks nothing


def test_llama_server_counts_through_its_template(server: Server, engine: OpenAIEngine) -> None:
    async def tokenize(request: web.Request) -> web.StreamResponse:
        content = (await request.json()).get("content", "")
        return web.json_response({"tokens": list(range(len(content.split())))})

    model = {"id": "x.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 8000}}
    server.answers["/v1/models"] = {"data": [model]}
    server.answers["/props"] = {"default_generation_settings": {"n_ctx": 1024}}
    server.answers["/tokenize"] = tokenize
    server.answers["/apply-template"] = {"prompt": "<user> hi <assistant>"}
    assert engine.context_length == 1024
    assert engine.count_tokens(CHAT) == 3 and engine.count_tokens("one two") == 2


def test_ollama_states_what_it_really_reads(server: Server) -> None:
    def context() -> int:
        engine = OpenAIEngine(server.url, "m")
        try:
            return engine.context_length
        finally:
            engine.close()

    info = {"llama.context_length": 131072}
    server.answers["/v1/models"] = {"data": [{"id": "m", "owned_by": "library"}]}
    server.answers["/api/show"] = {"model_info": info, "parameters": "stop x\nnum_ctx    16384"}
    assert context() == 16384
    server.answers["/api/show"] = {"model_info": info}
    assert context() == 4096
    server.answers["/api/ps"] = {"models": [{"name": "m", "context_length": 32768}]}
    assert context() == 32768


def test_a_server_that_tells_nothing(server: Server, engine: OpenAIEngine) -> None:
    assert engine.context_length == 8192 and not engine.counts_tokens
    with pytest.raises(EngineError, match="no token counts"):
        engine.count_tokens(CHAT)
    with pytest.raises(EngineError, match="cannot score"):
        list(engine.score([("a", "b")]))
    server.answers[CHAT_PATH] = chat()
    assert one(engine, Request(LONG)).text  # the server judges for itself
    given = OpenAIEngine(server.url, "m", context_length=100)
    assert given.context_length == 100
    given.close()


def test_counting_on_a_dead_server_can_succeed_later() -> None:
    engine = OpenAIEngine("http://127.0.0.1:9", "m")
    with pytest.raises(EngineError, match="cannot be reached"):
        engine.count_tokens("x")
    assert engine._facts.counts is None and engine.context_length == 8192
    engine.close()


def test_a_tokenizer_that_cannot_be_opened(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(EngineError, match="no tokenizer"):
        OpenAIEngine("http://a", "m", tokenizer=str(tmp_path))


def test_scores_from_a_server_that_echoes(server: Server, engine: OpenAIEngine) -> None:
    tokens = ["<s>", "The", " te", "am", " won"]
    lists = {"tokens": tokens, "token_logprobs": [None, -1.0, -2.0, -3.0, -4.0]}
    server.answers[RAW_PATH] = {"choices": [{"text": "The team won", "logprobs": lists}]}
    assert next(engine.score([("The team", " won")])) == (-4.0,)
    assert next(engine.score([("The t", "eam won")])) == (-2.0, -3.0, -4.0)  # " te" straddles
    assert server.bodies[0]["echo"] is True and server.bodies[0]["max_tokens"] == 0
    assert next(engine.score([("The team", "")])) == ()
    with pytest.raises(EngineError, match="cannot score"):
        next(engine.score([("The team", " lost")]))  # the tokens do not spell it
    with pytest.raises(EngineError, match="chat messages"):
        next(engine.score([(CHAT, "x")]))


# ---- closing


def test_a_closed_engine_says_so(server: Server) -> None:
    server.answers[CHAT_PATH] = chat()
    engine = OpenAIEngine(server.url, "m")
    assert one(engine).text
    engine.close()
    engine.close()
    for call in (
        lambda: one(engine),
        lambda: list(engine.stream(Request(CHAT))),
        lambda: engine.count_tokens("x"),
        lambda: engine.context_length,
    ):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_closing_ends_what_runs(server: Server) -> None:
    server.answers[CHAT_PATH] = sse(events()[:2], hang=True)
    engine = OpenAIEngine(server.url, "m")
    stream = engine.stream(Request(CHAT))
    assert next(stream).text == "One"
    engine.close()
    wait_until(lambda: server.running == 0)
    with pytest.raises(EngineError, match="closed"):
        next(stream)


def test_a_program_may_end_without_closing(server: Server) -> None:
    server.answers[CHAT_PATH] = sse(events()[:2], hang=True)
    code = (
        "from featherweight.engines.openai import OpenAIEngine\n"
        "from featherweight.engines.types import Request\n"
        f"stream = OpenAIEngine({server.url!r}, 'm').stream(Request([{CHAT[0]!r}]))\n"
        "print(next(stream).text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "One\n", "")
    wait_until(lambda: server.running == 0)


def test_a_forgotten_engine_ends_its_thread(server: Server) -> None:
    server.answers[CHAT_PATH] = chat()
    before = threading.active_count()
    engine = OpenAIEngine(server.url, "m")
    assert one(engine).text and threading.active_count() == before + 1
    del engine
    gc.collect()
    wait_until(lambda: threading.active_count() == before)
