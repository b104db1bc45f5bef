"""A cascade of two servers, over HTTP: what is asked of them, what they see of an early stop."""

import asyncio
import json
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from featherweight.cascade.cascade import Cascade
from featherweight.cascade.rule import DeferralRule, StageRule
from featherweight.cascade.scores import Score
from featherweight.cascade.stages import check_stages, facts
from featherweight.cascade.trace import Trace
from featherweight.cascade.types import Metric, Threshold
from featherweight.engines import Message, Request
from featherweight.engines.openai import OpenAIEngine
from featherweight.errors import EngineError

WORDS = 40


class Server:
    """Writes `WORDS` words for each model, all with its probability; an endless one never stops."""

    def __init__(self) -> None:
        self.chances = {"small": 0.9, "large": 0.99}
        self.tells = {"small", "large"}
        self.endless: set[str] = set()
        self.bodies: list[dict[str, Any]] = []
        self.cancelled = self.written = 0
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
        runner = web.AppRunner(self._app(), handler_cancellation=True, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        try:
            return await self._write(body, request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _write(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        model = body["model"]
        words = [f" {model}{number}" for number in range(WORDS)]
        usage = {"prompt_tokens": 7, "completion_tokens": WORDS}
        if not body.get("stream"):
            choice = {"message": {"content": "".join(words)}, "finish_reason": "stop"}
            choice |= {"logprobs": {"content": [self._entry(model, word) for word in words]}}
            if model not in self.tells:
                choice["logprobs"] = None
            return web.json_response({"choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        events: list[dict[str, Any]] = [
            {
                "choices": [
                    {
                        "delta": {"content": word},
                        "logprobs": {"content": [self._entry(model, word)]}
                        if model in self.tells
                        else None,
                    }
                ]
            }
            for word in words
        ]
        for event in events:
            self.written += model == "small"
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(0.002)
        if model in self.endless:
            await asyncio.sleep(60)
        for event in (
            {"choices": [{"delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        ):
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    def _entry(self, model: str, word: str) -> dict[str, Any]:
        chance = self.chances[model]
        return {
            "token": word,
            "bytes": list(word.encode()),
            "logprob": math.log(chance),
            "top_logprobs": [
                {"token": word, "bytes": None, "logprob": math.log(chance)},
                {"token": "x", "bytes": None, "logprob": math.log((1 - chance) / 2)},
            ],
        }


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        yield found


@pytest.fixture
def cascade(server: Server) -> Iterator[Cascade]:
    found = cascade_of(server, "mean", math.log(0.5))
    yield found
    found.close()


def cascade_of(server: Server, score: str, value: float) -> Cascade:
    engines = [OpenAIEngine(server.url, name, context_length=4096) for name in ("small", "large")]
    top = 2 if score == "margin" else 0
    stages = (
        StageRule(
            **facts(engines[0]),
            max_tokens=WORDS,
            top_logprobs=top,
            score=Score.parse(score),
            threshold=Threshold(value),
        ),
        StageRule(**facts(engines[1]), max_tokens=WORDS),
    )
    metric = Metric("accuracy", 0.0, 1.0)
    rule = DeferralRule(stages, metric, {"kind": "budget"}, 10, 10, "0" * 64)
    check_stages(rule, engines)
    return Cascade(engines, rule)


def ask(prompt: str = "hi") -> Request:
    message: Message = {"role": "user", "content": prompt}
    return Request([message], max_tokens=WORDS)


def streamed(cascade: Cascade, request: Request) -> tuple[str, Trace]:
    traces: list[Trace] = []
    text = "".join(delta.text for delta in cascade.stream(request, traces.append))
    return text, traces[0]


@pytest.mark.parametrize("chance", [0.2, 0.45, 0.55, 0.9])
@pytest.mark.parametrize("score", ["mean", "min", "margin"])
def test_both_ways_ask_alike_and_decide_alike(server: Server, score: str, chance: float) -> None:
    """Log-probabilities are asked for upstream in both, and no stream holds two models' text."""
    server.chances["small"] = chance
    value = math.log(0.5) if score != "margin" else 0.5 - 0.25
    cascade = cascade_of(server, score, value)
    [(answer, trace)] = cascade.generate_traced([ask()])
    text, live = streamed(cascade, ask())
    assert text == answer.text and ("small" in text) != ("large" in text)
    assert [a.outcome for a in live.attempts] == [a.outcome for a in trace.attempts]
    assert ("small" in text) == (chance > 0.5)
    for body in server.bodies:
        assert body["logprobs"] is True
        assert body.get("top_logprobs") == (
            2 if score == "margin" and body["model"] == "small" else None
        )
    assert answer.prompt_tokens == 7 * len(trace.attempts) and answer.completion_tokens >= WORDS
    cascade.close()


def test_a_server_that_is_stopped_early_sees_it(server: Server, cascade: Cascade) -> None:
    server.chances["small"] = 0.01
    server.endless.add("small")  # it would write for ever
    started = time.monotonic()
    text, trace = streamed(cascade, ask())
    assert "large39" in text and "small" not in text
    assert time.monotonic() - started < 30
    assert trace.attempts[0].saved_tokens > 0
    wait_for(lambda: server.cancelled == 1)


def test_a_client_that_leaves_is_felt_by_the_server(server: Server, cascade: Cascade) -> None:
    server.endless.add("small")

    async def leave() -> None:
        async def read() -> None:
            async for _ in cascade.astream(ask()):
                raise AssertionError("it is held back")

        task = asyncio.create_task(read())
        while server.written < 5:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for engine in cascade.engines:
            await engine.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    wait_for(lambda: server.cancelled == 1)


def test_a_server_without_logprobs_is_named(server: Server, cascade: Cascade) -> None:
    server.tells.remove("small")
    [answer] = cascade.generate([ask()])
    assert answer.error is not None and "#small: it gave no log-probabilities" in answer.error
    with pytest.raises(EngineError, match="#small: it gave no log-probabilities"):
        list(cascade.stream(ask()))
    assert {body["model"] for body in server.bodies} == {"small"}


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
