"""Online learning with engines: as in the replay of their log, faults, stops, and its own log."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from question_streams import made
from streamed import END, StreamedEngine, Token

from featherweight.cascade.answers import answer_of
from featherweight.cascade.cascade import Cascade
from featherweight.cascade.events import STUDENT
from featherweight.cascade.journal import journal_of
from featherweight.cascade.learning import (
    NAME,
    SAVED,
    Passed,
    learn_requests,
    learner_for,
)
from featherweight.cascade.online import BATCH, Learner, Settings
from featherweight.cascade.replay import replay, stream
from featherweight.cascade.rule import Decoding, DeferralRule, StageRule
from featherweight.cascade.scores import Score
from featherweight.cascade.types import Log, Metric, Row, Threshold
from featherweight.engines import Engine, Generation, Request
from featherweight.errors import CascadeError, OutputError
from featherweight.tasks import Example

HASH = "0" * 64
SETTINGS = Settings(0.3, warmup=48)
LOG, EXAMPLES = made(320)
REQUESTS = [Request(EXAMPLES[row.id].prompt, max_tokens=4) for row in LOG.rows]
ANSWERS = {EXAMPLES[row.id].prompt: row.stages for row in LOG.rows}


def stage(model: str, score: str | None, **changes: object) -> StageRule:
    found = StageRule(
        model=f"gguf:{model}",
        engine="gguf",
        identity={"spec": f"gguf:{model}", "weights": HASH, "path": "anywhere"},
        template_sha256=None,
        max_tokens=4,
        score=score and Score.parse(score),  # type: ignore[arg-type]
        threshold=None if score is None else Threshold(-0.4),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def rule(*stages: StageRule) -> DeferralRule:
    found = stages or (stage("small", "mean"), stage("large", None))
    return DeferralRule(found, Metric("accuracy", 0, 1), {"kind": "budget"}, 9, 9, HASH)


def engine(number: int, **settings: object) -> StreamedEngine:
    """Says what the log says, as sure of it."""

    def script(request: Request) -> Sequence[Token]:
        answer = ANSWERS[request.prompt][number]  # type: ignore[index]
        chance = math.exp((answer.token_logprobs or (0,))[0])
        return [Token(answer.text.encode(), (chance, 0.01)), END]

    return StreamedEngine(script, **{"name": ("small", "large")[number], **settings})  # type: ignore[arg-type]


def cascade(**settings: object) -> Cascade:
    return Cascade([engine(0, **settings), engine(1)], rule(), name="cascade:x")


def run(found: Cascade, state: Path, requests: Sequence[Request] = REQUESTS) -> list[Passed]:
    return list(learn_requests(found, requests, state, SETTINGS, paid))


def paid(engine: Engine, generation: Generation) -> float:
    """The large one is dearer; both take the same time."""
    return {"small": 1.0, "large": 10.0}[engine.name]


def decided(passed: Sequence[Passed]) -> list[tuple[str, str, bool]]:
    return [
        (p.generation.text, p.generation.model, p.course is not None and p.course.explored)
        for p in passed
    ]


def test_engines_and_the_replay_of_their_log_decide_alike(tmp_path: Path) -> None:
    live = run(cascade(), tmp_path / "s.json")
    rows = []
    for row, request in zip(LOG.rows, REQUESTS, strict=True):
        answers = [
            replace(answer_of(next(engine(n).generate([request])), request), quality=0.0, flops=p)
            for n, p in enumerate((1.0, 10.0))
        ]
        rows.append(Row(row.id, row.id, "test", tuple(answers)))
    log = Log(Metric("accuracy", 0, 100), ("small", "large"), tuple(rows))
    examples = {id: Example(id, example.prompt) for id, example in EXAMPLES.items()}
    learner = Learner(2, SETTINGS, centres=(-0.4,))
    wanted = replay(stream(log, examples, [Score("mean")], "flops"), learner)
    for n, passed in enumerate(live):
        course = passed.course
        assert course is not None and course.answered == wanted.level[n]
        assert course.explored == wanted.explored[n]
        asked = {attempt.stage for attempt in passed.trace.attempts}
        assert [stage in asked for stage in (0, 1)] == wanted.asked[n].tolist()
        assert passed.generation.seconds == 0.25 * wanted.asked[n].sum()
    assert {-1, 0, 1} == set(wanted.level.tolist())
    assert (tmp_path / "s.json").exists()


def test_the_trace_tells_what_was_tried_and_why(tmp_path: Path) -> None:
    passed = run(cascade(), tmp_path / "s.json")
    for generation, trace, course in passed:
        assert course is not None and trace.error is None and generation.error is None
        [answered] = [a for a in trace.attempts if a.outcome == "answered"]
        assert answered.stage == course.answered and generation.text == course.text
        assert generation.prompt_tokens == trace.prompt_tokens
        assert generation.completion_tokens == trace.completion_tokens
        assert generation.seconds == 0.25 * sum(a.stage >= 0 for a in trace.attempts)
        for attempt in trace.attempts:
            if attempt.stage == 1:
                assert attempt.score is None and attempt.threshold is None
                assert attempt.model == generation.model == "large"
            elif not course.explored:
                assert attempt.score is not None and attempt.threshold is not None
                kept = attempt.outcome == "answered"
                assert kept == (attempt.score >= attempt.threshold - 1e-12)
    student = [p for p in passed if p.generation.model == NAME]
    assert student and all(p.trace.attempts[0].stage == STUDENT for p in student)
    assert all(p.generation.prompt_tokens == 0 for p in student)
    assert passed[0].trace.attempts[0].stage == 0  # at first the student has nothing to say


@pytest.mark.parametrize("stops", [[1], [5, 23, BATCH], [64, 65, 100]])
def test_stopped_anywhere_it_goes_on_as_if_it_had_not(tmp_path: Path, stops: list[int]) -> None:
    whole = decided(run(cascade(), tmp_path / "whole.json"))
    state, got = tmp_path / "s.json", []
    for count in (*stops, None):
        answers = learn_requests(cascade(), REQUESTS[len(got) :], state, SETTINGS, paid)
        got += decided(list(islice(answers, count)))
        answers.close()  # type: ignore[attr-defined]
    assert got == whole
    assert state.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_the_state_is_written_every_so_often(tmp_path: Path) -> None:
    state = tmp_path / "s.json"
    answers = learn_requests(cascade(), REQUESTS, state, SETTINGS)
    for asked in range(1, SAVED + BATCH):
        next(answers)
        written = json.loads(state.read_text())["requests"]
        assert written == (SAVED if asked >= SAVED else 0)
        # what came since is in the journal
        assert learner_for(rule(), SETTINGS, state).requests == asked
    answers.close()  # type: ignore[attr-defined]
    assert json.loads(state.read_text())["requests"] == SAVED + BATCH - 1
    assert not journal_of(state).exists()


SCRIPT = """
import sys, time
from pathlib import Path
import test_learning as here
from featherweight.cascade.learning import learn_requests

state, log = map(Path, sys.argv[1:])
with log.open("a") as file:
    for passed in learn_requests(here.cascade(), here.REQUESTS, state, here.SETTINGS, here.paid):
        file.write(passed.generation.text + "\\n")
        file.flush()
        time.sleep(0.005)
"""


@pytest.mark.parametrize("least", [10, SAVED + 30])
def test_a_killed_process_forgets_nothing_and_holds_nothing(tmp_path: Path, least: int) -> None:
    """Until then no other one gets at the file."""
    state, log = tmp_path / "s.json", tmp_path / "log"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, state, log], env=env)
    try:
        while not log.exists() or log.read_bytes().count(b"\n") < least:
            assert process.poll() is None
            time.sleep(0.01)
        with pytest.raises(OutputError, match=r"s\.json: another run is learning with it"):
            run(cascade(), state)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    answered = log.read_bytes().count(b"\n")
    learner = learner_for(rule(), SETTINGS, state)
    # one may have been learned from and not yet written down by who asked
    assert answered <= learner.requests <= answered + 1 < len(REQUESTS)
    found = run(cascade(), state, REQUESTS[learner.requests :])
    whole = run(cascade(), tmp_path / "whole.json")
    assert decided(found) == decided(whole)[learner.requests :]
    assert state.read_bytes() == (tmp_path / "whole.json").read_bytes()


def journalled(state: Path, stop: int) -> None:
    """A state and a journal as a killed process leaves them: after `stop` requests."""
    answers = learn_requests(cascade(), REQUESTS, state, SETTINGS, paid)
    list(islice(answers, stop))
    kept = {path: path.read_bytes() for path in (state, journal_of(state))}
    answers.close()  # type: ignore[attr-defined]
    for path, raw in kept.items():
        path.write_bytes(raw)


def test_a_journal_is_read_with_its_own_state_only(tmp_path: Path) -> None:
    state = tmp_path / "s.json"
    journalled(state, 20)
    journal = journal_of(state)
    whole = journal.read_bytes()
    assert learner_for(rule(), SETTINGS, state).requests == 20
    journal.write_bytes(whole[:-5])  # the last line was being written
    assert learner_for(rule(), SETTINGS, state).requests == 19
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join([HASH.encode() + b"\n", *lines[1:]]))
    assert learner_for(rule(), SETTINGS, state).requests == 0  # of an older state, so in it already
    state.unlink()
    journal.write_bytes(whole)
    assert learner_for(rule(), SETTINGS, state).requests == 0  # begun anew


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b"{", r"s\.json\.journal line 2 is not JSON .*; remove the file, and with it what"),
        (b"[]", "journal line 2 is a list, no object; correct the file or remove"),
        (b'{"seen": null}', "journal line 2 has no 'event'"),
        (b'{"seen": 1, "event": null, "checked": null}', r"line 2\.seen is 1, no object"),
        (
            b'{"seen": {"scores": [1], "costs": [1, "x"], "said": null}, "event": null, '
            b'"checked": null}',
            r"seen\.costs\[1\] is 'x'; write a finite number",
        ),
        (b'{"seen": {}, "event": null, "checked": [1]}', r"checked has 1 items; write 2"),
    ],
)
def test_a_spoilt_journal_is_refused(tmp_path: Path, line: bytes, wanted: str) -> None:
    state = tmp_path / "s.json"
    journalled(state, 3)
    first, _, *rest = journal_of(state).read_bytes().split(b"\n")
    journal_of(state).write_bytes(b"\n".join([first, line, *rest]))
    with pytest.raises(CascadeError, match=wanted):
        learner_for(rule(), SETTINGS, state)


def test_requests_are_taken_batch_by_batch_and_asked_together(tmp_path: Path) -> None:
    taken = 0

    def requests() -> Iterator[Request]:
        nonlocal taken
        for request in REQUESTS:
            taken += 1
            yield request

    answers = learn_requests(cascade(), requests(), tmp_path / "s.json", SETTINGS)
    next(answers)
    assert taken == BATCH
    for _ in range(BATCH):
        next(answers)
    assert taken == 2 * BATCH


def test_a_fault_falls_through(tmp_path: Path) -> None:
    passed = run(cascade(fails_after=0), tmp_path / "s.json", REQUESTS[:100])
    for p in passed:
        assert p.generation.error is None and p.generation.model in ("large", NAME)
        failed = [a for a in p.trace.attempts if a.outcome == "failed"]
        if p.generation.model == "large" and failed:
            assert failed[0].error == "small: it broke."
    assert any(a.outcome == "failed" for p in passed for a in p.trace.attempts)


def test_where_all_fail_it_says_so_and_goes_on(tmp_path: Path) -> None:
    broken = Cascade([engine(0), engine(1, fails_after=0)], rule(), name="cascade:x")
    state = tmp_path / "s.json"
    passed = run(broken, state, REQUESTS[:40])
    for p in passed:
        assert p.generation.finish_reason == "error" and p.trace.answered is None
        assert p.generation.error == (
            "cascade:x: no stage gave an answer: stage 0, small, was not sure enough; "
            "stage 1, large, failed: large: it broke."
        )
        assert p.generation.completion_tokens == 2  # the small one's were paid
    learner = learner_for(rule(), SETTINGS, state)
    assert learner.requests == 40 and not learner.memory and not learner.labels


def test_a_stage_without_log_probabilities_is_an_error_that_names_it(tmp_path: Path) -> None:
    state = tmp_path / "s.json"
    passed = run(cascade(logprobs=False), state, REQUESTS[:20])
    for p in passed:
        assert "small: it gave no log-probabilities" in (p.generation.error or "")
        assert p.trace.error == p.generation.error
        assert all(attempt.stage != 1 for attempt in p.trace.attempts)
    assert learner_for(rule(), SETTINGS, state).requests == 20


def test_a_request_that_is_refused_teaches_nothing(tmp_path: Path) -> None:
    mixed: list[Request] = []
    for request in REQUESTS[:40]:
        mixed += [replace(request, temperature=1.0), request]
    passed = run(cascade(), tmp_path / "s.json", mixed)
    assert [p.course is None for p in passed] == [True, False] * 40
    assert "temperature is 1.0" in (passed[0].generation.error or "")
    plain = run(cascade(), tmp_path / "plain.json", REQUESTS[:40])
    assert decided(passed[1::2]) == decided(plain)
    assert (tmp_path / "s.json").read_bytes() == (tmp_path / "plain.json").read_bytes()


def test_a_state_of_another_rule_or_model_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "s.json"
    run(cascade(), state, REQUESTS[:20])
    small, large = rule().stages
    moved = {"spec": "gguf:elsewhere", "weights": HASH, "path": "there"}
    learner_for(rule(replace(small, identity=moved), large), SETTINGS, state)  # the same weights
    weights = {"spec": "gguf:small", "weights": "1" * 64}
    for other, place in (
        (rule(replace(small, identity=weights), large), "stages 0 identity weights"),
        (rule(replace(small, threshold=Threshold(-0.5)), large), "stages 0 threshold value"),
        (rule(replace(small, score=Score("sum")), large), "stages 0 score"),
        (rule(small, replace(large, template_sha256=HASH)), "stages 1 template_sha256"),
        (
            rule(*(replace(s, decoding=Decoding(0.7)) for s in (small, large))),
            "stages 0 decoding temperature",
        ),
    ):
        with pytest.raises(CascadeError, match=f"another rule, {place}; open the cascade"):
            learner_for(other, SETTINGS, state)
    before = state.read_bytes()
    with pytest.raises(CascadeError, match="learned with price"):
        next(learn_requests(cascade(), REQUESTS, state, Settings(0.1)))
    assert state.read_bytes() == before


def test_a_state_that_cannot_be_written_is_known_before_anybody_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = cascade()
    with pytest.raises((CascadeError, OutputError), match="cannot"):
        run(found, tmp_path / "file" / "s.json")
    assert not found.engines[0].asked  # type: ignore[attr-defined]


def test_an_engine_that_breaks_off_leaves_a_state(tmp_path: Path) -> None:
    """An error that is no engine's goes through, with what was learned so far on disk."""

    def requests() -> Iterator[Request]:
        yield from REQUESTS[:BATCH]
        raise KeyboardInterrupt

    answers = learn_requests(cascade(), requests(), tmp_path / "s.json", SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        list(answers)
    assert learner_for(rule(), SETTINGS, tmp_path / "s.json").requests == BATCH
