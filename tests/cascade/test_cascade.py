"""The cascade as an engine, over scripted stages: who answers, what is shown, what it cost."""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed import END, StreamedEngine, Token, words

from featherweight.cascade import running
from featherweight.cascade.answers import answer_of
from featherweight.cascade.asking import prompt_key
from featherweight.cascade.budget import for_budget
from featherweight.cascade.cascade import WINDOW, Cascade
from featherweight.cascade.deciding import confidence, decided_at
from featherweight.cascade.learned import Learned, Linear
from featherweight.cascade.log import read_log, write_log
from featherweight.cascade.make import scored
from featherweight.cascade.rule import Decoding, DeferralRule, StageRule, alternatives
from featherweight.cascade.sample import answering, keys
from featherweight.cascade.scores import Score
from featherweight.cascade.tokens import FEATURES
from featherweight.cascade.trace import Trace
from featherweight.cascade.types import Answer, Log, Metric, Row, Threshold
from featherweight.engines import Delta, Generation, Prompt, Request
from featherweight.errors import CascadeError, EngineError

HASH = "0" * 64
LARGE = [Token(b"large", (0.99, 0.005)), Token(b" answer", (0.98, 0.01)), END]


@pytest.fixture(scope="module", autouse=True)
def looked_at_often() -> Iterator[None]:
    """A learned rule's bound after every token: answers here are shorter than its usual wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "FEWEST", 1)
        patch.setattr(running, "WORK", 10**9)
        yield


def stage(
    score: str | Learned | None = None,
    value: float = math.log(0.5),
    tie: float = 0.0,
    stop: tuple[str, ...] = (),
) -> StageRule:
    found = Score.parse(score) if isinstance(score, str) else score
    return StageRule(
        model="gguf:x",
        engine="gguf",
        identity={"spec": "gguf:x", "weights": HASH},
        template_sha256=None,
        max_tokens=16,
        decoding=Decoding(0.0, stop),
        top_logprobs=alternatives(found) if found else 0,
        score=found,
        threshold=None if found is None else Threshold(value, tie),
    )


def rule(*stages: StageRule) -> DeferralRule:
    metric = Metric("accuracy", 0, 1)
    return DeferralRule(stages, metric, {"kind": "budget"}, 100, 100, HASH)


def small(*chances: float, **settings: Any) -> StreamedEngine:
    return StreamedEngine(lambda request: words(*chances), **settings)


def large(**settings: Any) -> StreamedEngine:
    return StreamedEngine(lambda request: LARGE, **{"name": "large", **settings})


def two(engine: StreamedEngine, score: str | Learned = "mean", **settings: Any) -> Cascade:
    hold = settings.pop("hold", True)
    stages = stage(score, **settings), stage(None, stop=settings.get("stop", ()))
    return Cascade([engine, large()], rule(*stages), name="cascade:x", hold=hold)


def streamed(cascade: Cascade, request: Request) -> tuple[list[Delta], Trace]:
    """All pieces, and the trace; the last piece has the generation."""
    traces: list[Trace] = []
    deltas = list(cascade.stream(request, traces.append))
    [trace] = traces
    assert [d.generation is not None for d in deltas] == [False] * (len(deltas) - 1) + [True]
    return deltas, trace


def text(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def answer(cascade: Cascade, request: Request) -> tuple[Generation, Trace]:
    [found] = cascade.generate_traced([request])
    return found


# ---- who answers


def test_a_sure_answer_is_kept_and_a_doubtful_one_passed_on() -> None:
    cascade = two(
        StreamedEngine(lambda r: words(0.9, 0.9) if "easy" in str(r.prompt) else words(0.1))
    )
    requests = [Request("easy one"), Request("hard"), Request("easy two"), Request("hard again")]
    answers = list(cascade.generate_traced(requests))
    assert [a.text for a, _ in answers] == [" w0 w1", "large answer", " w0 w1", "large answer"]
    assert [a.model for a, _ in answers] == ["small", "large", "small", "large"]
    kept, passed = answers[0][1], answers[1][1]
    assert [a.outcome for a in kept.attempts] == ["answered"]
    assert [a.outcome for a in passed.attempts] == ["deferred", "answered"]
    assert kept.answered is not None and kept.answered.stage == 0
    assert kept.answered.score == pytest.approx((2 * math.log(0.9) + math.log(0.5)) / 3)
    assert kept.answered.threshold == math.log(0.5)
    assert passed.attempts[1].score is None and passed.attempts[1].threshold is None
    assert [g.text for g in cascade.generate(requests)] == [a.text for a, _ in answers]
    assert [len(engine.asked) for engine in cascade.engines] == [8, 4]  # type: ignore[attr-defined]


def test_every_paid_attempt_is_counted() -> None:
    cascade = two(small(0.1, 0.1))
    found, trace = answer(cascade, Request("one two three"))
    assert [(a.prompt_tokens, a.completion_tokens, a.seconds) for a in trace.attempts] == [
        (4, 3, 0.25),
        (4, 3, 0.25),
    ]
    assert (found.prompt_tokens, found.completion_tokens, found.seconds) == (8, 6, 0.5)
    assert found.token_logprobs == tuple(t.logprob for t in LARGE)
    kept, _ = answer(two(small(0.9)), Request("one two three"))
    assert (kept.prompt_tokens, kept.completion_tokens) == (4, 2)


def test_three_stages() -> None:
    engines = [small(0.1), small(0.2, name="medium"), large()]
    cascade = Cascade(engines, rule(stage("mean"), stage("min", math.log(0.3)), stage()))
    found, trace = answer(cascade, Request("x"))
    assert found.model == "large" and [a.stage for a in trace.attempts] == [0, 1, 2]
    cascade = Cascade(engines, rule(stage("mean"), stage("min", math.log(0.1)), stage()))
    assert answer(cascade, Request("x"))[0].model == "medium"
    assert text(streamed(cascade, Request("x"))[0]) == " w0"


def test_ties_are_decided_by_the_question() -> None:
    score = (math.log(0.25) + math.log(0.5)) / 2
    cascade = two(small(0.25), value=score, tie=0.5)
    requests = [Request(f"question {i}") for i in range(60)]
    first = [a.model for a in cascade.generate(requests)]
    assert 15 < first.count("small") < 45
    assert [a.model for a in cascade.generate(reversed(requests))] == first[::-1]
    assert [streamed(cascade, r)[0][-1].generation.model for r in requests] == first  # type: ignore[union-attr]
    never = two(small(0.25), value=score, tie=0.0)
    always = two(small(0.25), value=score, tie=1.0)
    assert answer(never, requests[0])[0].model == "small"
    assert answer(always, requests[0])[0].model == "large"


def test_ties_of_a_log_are_decided_as_the_cascade_decides_them(tmp_path: Path) -> None:
    """A third of the answers score alike, and the budget's threshold lies among them."""
    prompts: list[Prompt] = []
    for n in range(240):
        prompts.append(f"no {n}" if n % 2 else [{"role": "user", "content": f"no {n}"}])
    chances = dict(zip(map(prompt_key, prompts), [0.25, 0.5, 0.9] * 80, strict=True))
    engine = StreamedEngine(lambda request: words(chances[prompt_key(request.prompt)]))
    requests = [Request(prompt) for prompt in prompts]
    rows = []
    for n, said in enumerate(engine.generate(requests)):
        answers = tuple(replace(answer_of(said, requests[n]), quality=1.0) for _ in range(2))
        rows.append(Row(f"q{n}", f"q{n}", "calibrate", answers, prompt_key(prompts[n])))
    path = tmp_path / "log.jsonl"
    write_log(Log(Metric("m", 0, 100), ("small", "small"), tuple(rows)), path)

    def decided(log: Log) -> tuple[Threshold, list[int], str]:
        sample = scored(log, [Score("mean")])
        found = for_budget(sample, 0.5)
        (threshold,) = found.thresholds
        chosen = answering(sample.scores, [threshold], keys(log))[0].tolist()
        return threshold, chosen, found.promise["ties"]

    threshold, logged, ties = decided(read_log(path))
    assert 0.3 < threshold.tie < 0.7 and ties == "prompt_sha256"
    live = two(engine, value=threshold.value, tie=threshold.tie)
    traces = [trace for _, trace in live.generate_traced(requests)]
    assert [len(trace.attempts) - 1 for trace in traces] == logged
    streams = [streamed(live, request)[1] for request in requests]
    assert [len(trace.attempts) - 1 for trace in streams] == logged
    # without the hashes the ids decide, as the promise says: as many, but others
    unknown = tuple(replace(row, prompt_sha256=None) for row in rows)
    _, others, ties = decided(replace(read_log(path), rows=unknown))
    assert ties == "id" and others != logged and sum(others) == sum(logged)


def test_requests_are_taken_lazily_and_given_in_order() -> None:
    engine = StreamedEngine(lambda r: words(0.9 if int(str(r.prompt)) % 3 else 0.1))
    cascade = two(engine)
    taken = 0

    def requests() -> Any:
        nonlocal taken
        for number in range(5 * WINDOW):
            taken += 1
            yield Request(str(number))

    answers = cascade.generate(requests())
    for number in range(WINDOW + 1):
        assert next(answers).model == ("small" if number % 3 else "large")
    assert taken == 2 * WINDOW
    assert len(list(answers)) == 4 * WINDOW - 1


def test_an_answer_does_not_wait_for_the_rest_of_its_window() -> None:
    engine = small(0.9)
    answers = two(engine).generate([Request("a"), Request("b"), Request("c")])
    assert next(answers).model == "small"
    assert len(engine.asked) == 1


def test_an_abandoned_batch_stops_its_stage() -> None:
    class Batched(StreamedEngine):
        def generate(self, requests: Any) -> Any:
            try:
                yield from super().generate(requests)
            finally:
                self.closed_streams += 1

    engine = Batched(lambda request: words(0.9))
    answers = two(engine).generate(map(Request, "abc"))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert engine.closed_streams == 1 and len(engine.asked) == 1


# ---- what a request may ask


def test_another_decoding_is_refused() -> None:
    cascade = two(small(0.9), stop=("\n", "."))
    assert answer(cascade, Request("x", stop=(".", "\n")))[0].error is None  # order is nothing
    for request, message in (
        (Request("x"), r"the request's stop is \[\], but its rule was made for \['\\n', '\.'\]"),
        (Request("x", stop=("\n", "."), temperature=0.7), "temperature is 0.7.*made for 0.0; ask"),
        (Request("x", stop=("\n", "."), no_repeat=3), "no_repeat is 3.*made for 0; ask"),
        (Request("x", stop=("\n", "."), max_tokens=0), "max_tokens is 0"),
        (Request("\ud800", stop=("\n", ".")), "lone surrogate"),
        (Request([], stop=("\n", ".")), "no messages"),
    ):
        found, trace = answer(cascade, request)
        assert found.finish_reason == "error" and not trace.attempts
        assert found.error is not None and found.error == trace.error
        with pytest.raises(EngineError, match=message):
            list(cascade.stream(request))
    assert len(cascade.engines[0].asked) == 1  # type: ignore[attr-defined]


def test_a_refused_request_does_not_stop_the_rest() -> None:
    answers = list(two(small(0.9)).generate([Request("a", temperature=1), Request("b")]))
    assert [a.error is None for a in answers] == [False, True]


def test_alternatives_are_the_callers() -> None:
    """A margin needs two from the stage; the caller gets what it asked for."""
    for wanted in (0, 1, 2):
        cascade = two(small(0.9, 0.8), "margin", value=0.1)
        request = Request("x", top_logprobs=wanted)
        found, _ = answer(cascade, request)
        assert cascade.engines[0].asked[0].top_logprobs == 2  # type: ignore[attr-defined]
        assert found.model == "small"
        deltas, _ = streamed(cascade, request)
        if wanted:
            assert found.top_logprobs is not None
            assert {len(tops) for tops in found.top_logprobs} == {wanted}
            assert tuple(t for d in deltas for t in d.top_logprobs or ()) == found.top_logprobs
        else:
            assert found.top_logprobs is None
            assert all(d.top_logprobs is None for d in deltas)
        passed = two(small(0.1), "margin", value=0.99)
        list(passed.generate([request]))
        assert passed.engines[1].asked[0].top_logprobs == wanted  # type: ignore[attr-defined]


# ---- faults


def test_a_fault_falls_through_and_is_recorded() -> None:
    for cascade in (two(small(0.9, fails_after=0)), two(small(0.9, 0.9, fails_after=1))):
        found, trace = answer(cascade, Request("x"))
        assert found.model == "large" and found.error is None
        assert [a.outcome for a in trace.attempts] == ["failed", "answered"]
        assert trace.attempts[0].error == "small: it broke."
        assert found.seconds == pytest.approx(0.375)  # the failed try took its time too
        deltas, trace = streamed(cascade, Request("x"))
        assert text(deltas) == "large answer"
        assert [a.outcome for a in trace.attempts] == ["failed", "answered"]
        # a prompt was read, and paid for, where something was written
        wrote = trace.attempts[0].completion_tokens > 0
        assert trace.attempts[0].prompt_tokens == (2 if wrote else 0)
    assert trace.attempts[0].completion_tokens == 1  # what had come by then is paid


def test_where_all_fail_all_are_named() -> None:
    broken = large(fails_after=0)
    for first, told in (
        (small(0.9, fails_after=0), "stage 0, small, failed: small: it broke"),
        (small(0.1), "stage 0, small, was not sure enough"),
    ):
        cascade = Cascade([first, broken], rule(stage("mean"), stage()), name="cascade:x")
        found, trace = answer(cascade, Request("one two"))
        reason = f"{told}; stage 1, large, failed: large: it broke."
        assert found.error == f"cascade:x: no stage gave an answer: {reason}"
        assert trace.error == found.error
        assert found.prompt_tokens == 6 and trace.answered is None
        assert found.completion_tokens == trace.completion_tokens == (2 if "sure" in told else 0)
        traces: list[Trace] = []
        with pytest.raises(EngineError, match="stage 1, large, failed: large: it broke"):
            list(cascade.stream(Request("one two"), traces.append))
        assert [a.outcome for a in traces[0].attempts][1:] == ["failed"]


def test_an_engine_that_breaks_down_fails_for_the_rest_of_its_batch() -> None:
    class Breaks(StreamedEngine):
        def generate(self, requests: Any) -> Any:
            for number, request in enumerate(requests):
                if number == 1:
                    raise EngineError("small: the server is gone.")
                yield from super().generate([request])

    class Forgets(StreamedEngine):
        def generate(self, requests: Any) -> Any:
            yield from super().generate(list(requests)[:1])

    for kind, message in ((Breaks, "the server is gone"), (Forgets, "fewer answers")):
        answers = list(two(kind(lambda request: words(0.9))).generate_traced(map(Request, "abc")))
        assert [a.model for a, _ in answers] == ["small", "large", "large"]
        assert all(message in (t.attempts[0].error or "") for _, t in answers[1:])


def test_missing_numbers_are_an_error_that_names_the_engine() -> None:
    """Never confidence 0 or 1, never passed on in silence."""
    silent = small(0.9, logprobs=False)
    no_tops = small(0.9, gives_tops=False)
    for engine, score, what in (
        (silent, "mean", "log-probabilities"),
        (silent, "margin", "margins"),
        (no_tops, "margin", "margins"),
        (no_tops, "entropy", "entropies"),
    ):
        cascade = two(engine, score, value=-1.0)
        found, trace = answer(cascade, Request("x"))
        assert found.error is not None and found.error.startswith(f"small: it gave no {what}")
        assert [a.outcome for a in trace.attempts] == ["failed"]
        assert found.completion_tokens == 2  # paid all the same
        with pytest.raises(EngineError, match=f"small: it gave no {what}"):
            list(cascade.stream(Request("x")))
        assert cascade.engines[1].asked == []  # type: ignore[attr-defined]
    assert answer(two(no_tops), Request("x"))[0].model == "small"  # the mean needs none
    last = Cascade([small(0.1), large(logprobs=False)], rule(stage("mean"), stage()))
    assert answer(last, Request("x"))[0].model == "large"  # nobody scores the last


@pytest.mark.parametrize(
    "tokens",
    [
        [Token(b"stop here"), END],  # a stop string leaves neither text nor tokens
        [END],
        [Token(b" \n"), END],
    ],
)
def test_an_answer_that_says_nothing_is_passed_on_live_and_in_a_log(tokens: list[Token]) -> None:
    trusting = -1e9  # whatever has a score
    request = Request("x", stop=("stop",))
    cascade = two(StreamedEngine(lambda request: tokens), value=trusting, stop=("stop",))
    for found, trace in (
        answer(cascade, request),
        (lambda s: (s[0][-1].generation, s[1]))(streamed(cascade, request)),
    ):
        assert found is not None and found.model == "large"
        assert "wrote nothing" in (trace.attempts[0].error or "")
    (generation,) = StreamedEngine(lambda request: tokens).generate([request])
    logged = replace(answer_of(generation, request), quality=10.0)
    right = replace(logged, text="right", quality=90.0)
    log = Log(Metric("m", 0, 100), ("small", "large"), (Row("q", "q", "test", (logged, right)),))
    sample = scored(log, [Score("mean")])
    assert answering(sample.scores, [Threshold(trusting)], ["q"])[0].tolist() == [1]
    assert sample.quality.tolist() == [[10.0, 90.0]]  # its quality was measured all the same


def test_the_last_stage_may_say_nothing() -> None:
    last = StreamedEngine(lambda request: [END], name="large")
    cascade = Cascade([small(0.1), last], rule(stage("mean"), stage()))
    found = answer(cascade, Request("x"))[0]
    assert (found.text, found.error, found.model) == ("", None, "large")
    said = Answer("m", "B", 0.0, (-1.0,))
    nothing = Answer("large", "", 0.0, (-0.1,))
    log = Log(Metric("m", 0, 100), ("m", "large"), (Row("q", "q", "test", (said, nothing)),))
    assert scored(log, [Score("mean")]).loss.tolist() == [[0.0, 0.0]]


def test_an_impossible_number_is_an_error() -> None:
    class Wrong(Token):
        @property
        def logprob(self) -> float:
            return 0.5

    cascade = two(StreamedEngine(lambda request: [Token(b"a"), Wrong(b"b"), END]))
    assert "0.5 among its log-probabilities" in (answer(cascade, Request("x"))[0].error or "")
    with pytest.raises(EngineError, match=r"0\.5 among its log-probabilities"):
        list(cascade.stream(Request("x")))


# ---- streams


def test_a_stream_holds_back_until_the_answer_is_accepted() -> None:
    engine = small(0.9, 0.9, 0.9)
    stream = two(engine).stream(Request("x"))
    assert next(stream).text == " w0" and engine.written == 4  # all of it was there first
    rest = list(stream)
    assert [d.text for d in rest] == [" w1", " w2", ""]
    assert rest[-1].generation is not None and rest[-1].generation.model == "small"


def test_the_last_stage_is_shown_as_it_writes() -> None:
    cascade = two(small(0.1))
    stream = cascade.stream(Request("x"))
    assert next(stream).text == "large"
    assert cascade.engines[1].written == 1  # type: ignore[attr-defined]


def test_a_doubtful_answer_is_stopped() -> None:
    chances = [0.9, 0.01, *[0.9] * 13]
    engine = small(*chances)
    cascade = two(engine, "min")
    deltas, trace = streamed(cascade, Request("x y", max_tokens=40))
    assert text(deltas) == "large answer" and engine.written == 2 and engine.closed_streams == 1
    first = trace.attempts[0]
    assert (first.outcome, first.decided_at, first.completion_tokens) == ("deferred", 2, 2)
    assert first.score == math.log(0.01) and first.saved_tokens == 38 and first.prompt_tokens == 3
    generation = deltas[-1].generation
    assert generation is not None
    assert (generation.prompt_tokens, generation.completion_tokens) == (6, 5)
    found, whole = answer(cascade, Request("x y", max_tokens=40))
    assert found.text == generation.text and engine.written == 2 + 16
    assert whole.attempts[0].decided_at == 2 and whole.attempts[0].saved_tokens == 0


def test_a_draft_that_is_shown_at_once() -> None:
    """Not held back: one stage's pieces only, and the final generation alone is right."""
    engine = small(0.1, 0.1)
    cascade = two(engine, "sum", value=math.log(0.09), hold=False)
    stream = cascade.stream(Request("x"))
    assert next(stream).text == " w0" and engine.written == 1
    rest = list(stream)
    assert [d.text for d in rest] == [""]
    assert rest[0].generation is not None and rest[0].generation.text == "large answer"
    kept, _ = streamed(two(small(0.9, 0.9), hold=False), Request("x"))
    assert [d.text for d in kept] == [" w0", " w1", ""]
    silent, _ = streamed(two(small(0.9, fails_after=0), hold=False), Request("x"))
    assert text(silent) == "large answer"  # nothing was shown before


def test_a_closed_stream_stops_its_stage() -> None:
    for name in ("sync", "async"):
        engine, traces = small(0.9, 0.9, 0.9), []
        cascade = two(engine, hold=False)
        if name == "sync":
            stream = cascade.stream(Request("x"), traces.append)
            next(stream)
            stream.close()
        else:

            async def read(cascade: Cascade = cascade, traces: list[Trace] = traces) -> None:
                astream = cascade.astream(Request("x"), traces.append)
                await anext(astream)
                await astream.aclose()

            asyncio.run(read())
        assert engine.closed_streams == 1 and engine.written == 1
        assert [a.outcome for a in traces[0].attempts] == ["cancelled"]
        assert traces[0].completion_tokens == 1 and traces[0].error is None
        assert traces[0].prompt_tokens == engine.count_tokens("x") > 0


def test_a_cancelled_task_stops_a_stage_that_is_held_back() -> None:
    class Slow(StreamedEngine):
        async def astream(self, request: Request) -> Any:
            try:
                yield Delta(" a", (-0.1,))
                await asyncio.sleep(60)
            finally:
                self.closed_streams += 1

    engine, traces = Slow(lambda request: []), list[Trace]()
    cascade = two(engine)

    async def main() -> None:
        async def read() -> None:
            async for _ in cascade.astream(Request("x"), traces.append):
                raise AssertionError("nothing may be shown")

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert engine.closed_streams == 1
    assert [(a.outcome, a.completion_tokens) for a in traces[0].attempts] == [("cancelled", 1)]


def test_counting_what_a_cancelled_stage_read_keeps_nobody_waiting() -> None:
    class Counts(StreamedEngine):
        def count_tokens(self, prompt: Any) -> int:
            time.sleep(0.2)
            return 7

    engine, traces = Counts(lambda request: words(0.9, 0.9, 0.9)), list[Trace]()
    cascade = two(engine, hold=False)

    async def main() -> int:
        stream = cascade.astream(Request("x"), traces.append)
        await anext(stream)
        closing, turns = asyncio.create_task(stream.aclose()), 0  # type: ignore[arg-type]
        while not closing.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert asyncio.run(main()) > 5
    assert [(a.outcome, a.prompt_tokens) for a in traces[0].attempts] == [("cancelled", 7)]


def test_tokens_that_came_with_the_one_that_decided_are_counted() -> None:
    """Servers send several in a piece; they were paid for, and nobody saved them."""

    class Pieces(StreamedEngine):
        def stream(self, request: Request) -> Any:
            yield Delta(" a b c d e", (-5.0, -0.1, -0.1, -0.1, -0.1))
            raise AssertionError("it was not stopped")

        def generate_watched(self, requests: Any, watches: Any) -> Any:
            for watch in watches:
                logprobs = (-5.0, -0.1, -0.1, -0.1, -0.1)
                assert watch(Delta(" a b c d e", logprobs))
                of = None, logprobs, None, "stop", 1, 5, 0.1, "small"
                yield Generation(" a b c d e", *of)  # type: ignore[arg-type]

    cascade = two(Pieces(lambda request: []), "min")
    request = Request("x", max_tokens=16)
    for _, trace in (streamed(cascade, request), answer(cascade, request)):
        first = trace.attempts[0]
        assert (first.outcome, first.decided_at) == ("deferred", 1)
        assert (first.completion_tokens, first.saved_tokens) == (5, 11)


def test_a_stream_that_just_ends_is_a_fault() -> None:
    class Ends(StreamedEngine):
        def stream(self, request: Request) -> Any:
            yield Delta(" a", (-0.1,))

    deltas, trace = streamed(two(Ends(lambda request: [])), Request("x"))
    assert text(deltas) == "large answer"
    assert "without a last piece" in (trace.attempts[0].error or "")


# ---- the same decision, whichever way


PIECES = [b"a", b" b", b"st", b"op", b"stop", b"\xc3", b"\xa9", b"", b" stopper"]
LEARNED = Learned(
    "right",
    Linear(
        0.1,
        tuple(0.02 if name != "length" else -0.01 for name in FEATURES),
        (0.0,) * len(FEATURES),
        (1.0,) * len(FEATURES),
    ),
    tuple(1 if name != "length" else -1 for name in FEATURES),
)
SCORES: list[str | Learned] = [
    *("sum", "mean", "min", "quantile:0.3", "length", "sum,no-end", "mean,no-end", "min,no-end"),
    *("quantile:0.7,no-end", "margin", "margin,no-end", "entropy", "entropy,no-end"),
    LEARNED,
    replace(LEARNED, end=False),
]


@st.composite
def tokens(draw: st.DrawFn) -> list[Token]:
    found = []
    for _ in range(draw(st.integers(1, 12))):
        first = draw(st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.3, 0.2]) | st.floats(0.2, 1.0))
        chances = (first, *[max((1 - first) / 4, 1e-9)] * 4)
        found.append(Token(draw(st.sampled_from(PIECES)), chances, draw(st.booleans()) or False))
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[Cascade, Request, StreamedEngine]:
    script, score = draw(tokens()), draw(st.sampled_from(SCORES))
    stop = draw(st.sampled_from([(), ("stop",), ("op", "a b")]))
    request = Request("question", max_tokens=draw(st.integers(1, 14)), stop=stop)
    engine = StreamedEngine(lambda r: script)
    # thresholds where decisions are close: at the answer's own score and beside it
    probe = two(engine, score, value=-1e9, stop=stop)
    attempt = answer(probe, request)[1].attempts[0]
    at = attempt.score if attempt.score is not None else -1.0
    value = draw(
        st.sampled_from([at, math.nextafter(at, math.inf), math.nextafter(at, -math.inf)])
        | st.floats(-8, 1)
    )
    tie = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return two(engine, score, value=value, tie=tie, stop=stop), request, engine


def test_a_learned_rule_stops_a_stream() -> None:
    """So the properties below are about its bound too."""
    for score in (LEARNED, replace(LEARNED, end=False)):
        cascade = two(small(*[0.01] * 10), score, value=0.05)
        _, trace = streamed(cascade, Request("question", max_tokens=12))
        first = trace.attempts[0]
        assert first.outcome == "deferred" and first.saved_tokens > 0
        whole = answer(cascade, Request("question", max_tokens=12))[1].attempts[0]
        assert whole.decided_at == first.decided_at == first.completion_tokens < 11


@settings(max_examples=600, deadline=None)
@given(cases())
def test_streaming_decides_as_generate_does(case: tuple[Cascade, Request, StreamedEngine]) -> None:
    cascade, request, engine = case
    whole, trace = answer(cascade, request)
    engine.written = 0
    deltas, live = streamed(cascade, request)
    final = deltas[-1].generation
    assert final is not None
    assert [a.outcome for a in live.attempts] == [a.outcome for a in trace.attempts]
    assert (final.text, final.model) == (whole.text, whole.model)
    assert final.token_logprobs == whole.token_logprobs
    # the pieces are one stage's and all of it
    assert text(deltas) == final.text
    assert tuple(x for d in deltas for x in d.token_logprobs or ()) == final.token_logprobs
    first, before = live.attempts[0], trace.attempts[0]
    assert first.threshold == before.threshold
    if first.saved_tokens:  # stopped where the whole answer says it was decided, not later
        assert first.decided_at == before.decided_at == first.completion_tokens
        assert first.score is not None and before.score is not None
        assert first.score >= before.score
    else:
        assert first.score == before.score
        assert final.completion_tokens == whole.completion_tokens

    async def read() -> list[Delta]:
        return [delta async for delta in cascade.astream(request)]

    again = asyncio.run(read())
    assert text(again) == text(deltas)
    assert again[-1].generation is not None and again[-1].generation.model == final.model


@settings(max_examples=200, deadline=None)
@given(cases())
def test_a_draft_is_one_stages_and_the_generation_is_right(
    case: tuple[Cascade, Request, StreamedEngine],
) -> None:
    cascade, request, engine = case
    whole, _ = answer(cascade, request)
    own = next(engine.generate([request])).text
    cascade.hold = False
    deltas, _ = streamed(cascade, request)
    final = deltas[-1].generation
    assert final is not None and (final.text, final.model) == (whole.text, whole.model)
    draft = text(deltas)
    if final.model == "small" or not draft.strip() or "large" in draft:
        assert draft == final.text or not draft.strip()
    else:
        assert own.startswith(draft)


@settings(max_examples=300, deadline=None)
@given(cases(), st.data())
def test_a_prefix_that_decides_decides_for_every_ending(
    case: tuple[Cascade, Request, StreamedEngine], data: st.DataObject
) -> None:
    """The same beginning, any continuation."""
    cascade, request, engine = case
    first = cascade.rule.stages[0]
    generation = next(engine.generate([replace(request, top_logprobs=first.top_logprobs)]))
    asked = replace(request, top_logprobs=first.top_logprobs)
    found = answer_of(generation, asked)
    key = "key"
    at = decided_at(first, found, key, request.max_tokens)
    begun = engine.script(request)[: at or 0]
    if not begun or any(token.end for token in begun) or first.threshold is None:
        return
    script = [replace(token, piece=b"x") for token in (*begun, *data.draw(tokens()))]
    other = StreamedEngine(lambda r: script)
    continued = answer_of(next(other.generate([replace(asked, stop=())])), asked)
    assert first.threshold.defers(confidence(first, continued), key)


# ---- what the engine tells


def test_the_cascade_is_an_engine() -> None:
    engines = [small(0.9, context_length=100), large(context_length=4000)]
    cascade = Cascade(engines, rule(stage("mean"), stage()), name="cascade:x")
    assert cascade.name == "cascade:x" and cascade.context_length == 100
    assert cascade.params is None and cascade.attention_width is None
    assert cascade.counts_tokens and cascade.count_tokens("a b c") == 4
    for call in (
        lambda: cascade.score([("a", "b")]),
        lambda: cascade.encode("a"),
        lambda: cascade.score_tokens([[1]]),
    ):
        with pytest.raises(
            EngineError, match=r"cascade:x.*score with one of its stages: small, la"
        ):
            call()
    engines[1].counts_tokens = False
    assert not cascade.counts_tokens
    cascade.close()
    assert engines[0].closed and engines[1].closed


def test_engines_and_rule_must_go_together() -> None:
    with pytest.raises(CascadeError, match="2 stages and 1 engines"):
        Cascade([small(0.9)], rule(stage("mean"), stage()))
    with pytest.raises(CascadeError, match="one stage decides nothing"):
        Cascade([small(0.9)], rule(stage()))
    with pytest.raises(CascadeError, match="no stage of another; put its stages into one rule"):
        Cascade([two(small(0.9)), large()], rule(stage("mean"), stage()))
    engine: Any = small(0.9)
    engine.chat_template = "{{ messages }}"
    with pytest.raises(CascadeError, match=r"stage 0.*chat template that.*now sha256 .*then none"):
        Cascade([engine, large()], rule(stage("mean"), stage()))
