"""What each strategy reads, what it does when a model fails, what it tells the reader."""

import re

import pytest
from scripted import CAPABLE, SMALL, ScriptedEngine, meeting, said, text_of

from featherweight.engines import Generation, Request
from featherweight.engines.embedded import MEETINGS
from featherweight.engines.types import failed
from featherweight.errors import EngineError, FeatherweightError, TranscriptError
from featherweight.summarize import Focus, Strategy, Summary
from featherweight.summarize import summarize_transcript as summarize
from featherweight.summarize.prompts import QUESTIONS
from featherweight.summarize.strategies import SMALL_CHUNK, STRATEGIES, TUNED_WORDS
from featherweight.tasks.qmsum import MAX_TOKENS, clipped, located, prompt
from featherweight.transcript import Transcript, Turn

SUBJECTS = "budget battery button colour menu price screen speaker sticker target".split()
ALL = list(STRATEGIES)
MANNERS = {"capable": CAPABLE, "small": SMALL}


def long_meeting(turns: int = 300) -> Transcript:
    """Every turn has a word of its own, so that a test sees which ones were read."""
    return meeting(
        *(
            f"About the {SUBJECTS[n // 30 % 10]}, item{n:03} costs {n} euros, and I will check it."
            for n in range(turns)
        )
    )


def items(text: str) -> list[str]:
    return re.findall(r"item\d+", text)


def about(request: Request, before: int) -> str:
    """A plausible answer that names the first item it was given."""
    item = next(iter(items(text_of(request))), "the remote control")
    point = f"talked about {item} and its costs in euros, to check the price"
    return f"- The group {point}." if text_of(request).count("- '") else f" {point}."


def capable(answer: object = about, **settings: object) -> ScriptedEngine:
    return ScriptedEngine(answer, params=CAPABLE, **settings)  # type: ignore[arg-type]


def small(answer: object = about, **settings: object) -> ScriptedEngine:
    return ScriptedEngine(answer, params=SMALL, **settings)  # type: ignore[arg-type]


def excerpts(engine: ScriptedEngine) -> list[str]:
    """The transcript in each reading request."""
    return [text_of(r) for r in engine.asked if items(text_of(r)) and "Notes:" not in text_of(r)]


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("params", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize(
    "strategy", ["map-reduce", "chapters", "chapters-resummarise", "chapters-rewrite"]
)
@pytest.mark.parametrize("context", [1024, 4096])
def test_strategies_that_read_everything_do(strategy: Strategy, params: int, context: int) -> None:
    engine = ScriptedEngine(about, params=params, context_length=context)
    transcript = long_meeting()
    summary = summarize(transcript, engine, strategy=strategy)
    assert set(items("".join(excerpts(engine)))) == {f"item{n:03}" for n in range(300)}
    assert not engine.too_long
    assert (summary.strategy, summary.chunks_failed) == (strategy, 0)
    assert summary.chunks_total > 1
    assert summary.points and summary.text
    assert summary.prompt_tokens and summary.completion_tokens
    assert not any("not read" in note or "failed" in note for note in summary.notes)


@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("params", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize("focus", [None, "actions", "decisions"])
@pytest.mark.parametrize("length", ["short", "long"])
def test_short_meetings_go_through_every_strategy(
    strategy: Strategy, params: int, focus: None, length: str
) -> None:
    engine = ScriptedEngine(about, params=params)
    query = "What about item003?" if strategy == "locate" and focus is None else None
    summary = summarize(
        long_meeting(12),
        engine,
        strategy=strategy,
        focus=focus,
        query=query,
        length=length,  # type: ignore[arg-type]
    )
    assert summary.points
    assert not engine.too_long
    assert len(summary.points) <= {"short": 3, "long": 12}[length]


def test_single_reads_the_meeting_at_once() -> None:
    engine = capable()
    summary = summarize(long_meeting(20), engine, strategy="single")
    assert len(engine.asked) == summary.chunks_total == 1
    assert len(items(engine.read)) == 20


def test_single_on_a_meeting_that_does_not_fit_says_so() -> None:
    with pytest.raises(EngineError, match=r"no part of meeting\.vtt .*tokens do not fit"):
        summarize(long_meeting(), capable(context_length=512), strategy="single")


@pytest.mark.parametrize("params", MANNERS.values(), ids=MANNERS)
def test_truncate_says_how_many_turns_were_not_read(params: int) -> None:
    engine = ScriptedEngine(about, params=params, context_length=2048)
    summary = summarize(long_meeting(), engine, strategy="truncate")
    read = set(items("".join(excerpts(engine))))
    (note,) = [note for note in summary.notes if "not read" in note]
    assert f"the last {300 - len(read)} of 300 turns" in note
    assert summary.chunks_total == 1


def test_truncate_counts_a_turn_that_was_cut_through() -> None:
    monologue = " ".join(f"Sentence {n} is about the budget." for n in range(2000))
    summary = summarize(meeting("", monologue), capable(), strategy="truncate")
    assert any("the last 1 of 2 turns" in note for note in summary.notes)


def test_truncate_of_a_meeting_that_fits_says_nothing() -> None:
    summary = summarize(long_meeting(5), capable(), strategy="truncate")
    assert summary.notes == ()


@pytest.mark.parametrize("params", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize("ask", [{"query": "What does item217 cost?"}, {"focus": "actions"}])
def test_locate_reads_what_matters_and_says_so(params: int, ask: dict[str, str]) -> None:
    transcript = long_meeting(900)
    engine = ScriptedEngine(about, params=params, context_length=2048)
    summary = summarize(transcript, engine, strategy="locate", **ask)  # type: ignore[arg-type]
    read = set(items("".join(excerpts(engine))))
    assert 0 < len(read) < 900
    if "query" in ask:
        assert "item217" in read
    assert any(f"only the {len(read)} turns" in note for note in summary.notes)


def paragraph(request: Request, before: int) -> str:
    """Sentences on the first items of a part, as a tuned model writes them."""
    forms = ("I will check {} myself.", "They were about {} and the battery.", "Euros for {}.")
    return " ".join(map(str.format, forms, items(text_of(request))))


def test_an_answer_reads_the_words_it_was_trained_on_and_is_asked_that_way() -> None:
    transcript = long_meeting(900)
    engine = small(paragraph)
    summary = summarize(transcript, engine, strategy="answer", query="What does item217 cost?")
    [request] = engine.asked
    turns = [f"{turn.speaker}: {turn.text}" for turn in transcript.turns]
    chosen = located(turns, "What does item217 cost?", TUNED_WORDS)
    [taught] = prompt(clipped(turns, chosen, TUNED_WORDS), "What does item217 cost?")
    [asked] = request.prompt
    assert isinstance(asked, dict)
    assert items(asked["content"]) == items(taught["content"])
    for part in (0, -1):  # the instructions around the excerpt
        assert asked["content"].split("\n\n")[part] == taught["content"].split("\n\n")[part]
    assert request.no_repeat == 3 and request.max_tokens == MAX_TOKENS
    assert len(summary.points) > 1
    assert items(summary.text) == sorted(items(summary.text))  # the order they were written in
    assert any(f"only the {len(chosen)} turns" in note for note in summary.notes)


def test_an_answer_is_shown_whole_with_the_checks_marks() -> None:
    false = "The president of France painted the elephants purple, which nobody had expected."
    engine = small(f"The group will check item005 and its 5 euros. {false}")
    summary = summarize(long_meeting(20), engine, strategy="answer", query="What about item005?")
    assert [point.supported for point in summary.points] == [True, False]
    assert summary.points[1].text == false and summary.points[1].reasons


def test_each_stretch_gives_something_new() -> None:
    """A stretch whose best point was said before gives its next best, not nothing."""
    said = "About the budget, item000 costs 0 euros, and I will check it"
    early = [
        f"{said}.",
        "About the budget, item001 costs 1 euros, item002 costs 2 euros, item003 costs 3 euros.",
        "About the budget, item004 costs 4 euros, item005 costs 5 euros, item006 costs 6 euros.",
    ]
    late = [f"{said}, item000 and the budget.", "Item270 costs 270."]

    def answer(request: Request, before: int) -> str:
        return " ".join(early if "item000" in items(text_of(request)) else late)

    transcript = long_meeting(300)
    summary = summarize(transcript, small(answer), strategy="answer", length="short")
    assert "Item270" in summary.text


def test_what_stands_alone_is_shown_first() -> None:
    """Both sentences are supported and say the same, the other one with more detail."""
    placed = "About the budget, item005 costs 5 euros, and they will check it."
    pronoun = "It is 5 euros that item005 costs, item006 costs 6 euros, item007 costs 7 euros."

    def answer(request: Request, before: int) -> str:
        return f"{pronoun} {placed}" if "item005" in items(text_of(request)) else ""

    summary = summarize(long_meeting(300), small(answer), strategy="answer", length="short")
    assert [point.text for point in summary.points] == [placed]


@pytest.mark.parametrize("focus", [None, "actions", "decisions"])
def test_without_a_question_every_part_is_asked_about(focus: Focus | None) -> None:
    transcript = long_meeting(900)
    engine = small(paragraph)
    summary = summarize(transcript, engine, strategy="answer", focus=focus)
    texts = [text_of(request) for request in engine.asked]
    assert set(items("".join(texts))) == set(items("".join(turn.text for turn in transcript.turns)))
    assert all(len(text.split()) < TUNED_WORDS + 60 for text in texts)
    assert all(QUESTIONS[focus] in text for text in texts)
    assert summary.points and summary.chunks_total == len(texts) > 6


@pytest.mark.parametrize("params", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize("ask", [{"query": "What about sentence 77?"}, {"focus": "decisions"}])
def test_locate_in_one_endless_turn(params: int, ask: dict[str, str]) -> None:
    monologue = " ".join(f"Sentence {n}: we decided on item{n:04}." for n in range(500))
    transcript = Transcript((Turn(None, monologue),), "talk.txt", "text")
    engine = ScriptedEngine(about, params=params)
    summary = summarize(transcript, engine, strategy="locate", **ask)  # type: ignore[arg-type]
    assert len(set(items("".join(excerpts(engine))))) == 500
    assert summary.points and not engine.too_long


def test_turn_numbers_of_located_evidence_are_those_of_the_meeting() -> None:
    transcript = long_meeting(900)
    summary = summarize(transcript, small(), query="What does item717 cost?", length="short")
    for point in summary.points:
        for item in point.evidence:
            assert item.quote in transcript.turns[item.turn].text


# -- which strategy, where none is given -----------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "turns", "ask", "strategy"),
    [
        (CAPABLE, 10, {}, "single"),
        (CAPABLE, 10, {"query": "What?"}, "single"),
        (CAPABLE, 900, {}, "map-reduce"),
        (CAPABLE, 900, {"focus": "actions"}, "map-reduce"),
        (CAPABLE, 900, {"query": "What?"}, "locate"),
        (None, 900, {}, "map-reduce"),
        (SMALL, 10, {}, "chapters"),
        (SMALL, 10, {"query": "What?"}, "single"),
        (SMALL, 900, {}, "chapters"),
        (SMALL, 900, {"query": "What?"}, "locate"),
        (SMALL, 900, {"focus": "decisions"}, "quotes"),
        (MEETINGS, 10, {}, "answer"),
        (MEETINGS, 900, {"query": "What?"}, "answer"),
        (MEETINGS, 900, {"focus": "actions"}, "quotes"),
    ],
)
def test_the_strategy_chosen(
    params: int | str | None, turns: int, ask: dict[str, str], strategy: str
) -> None:
    tuned = params == MEETINGS
    engine = small(paragraph, name=params) if tuned else ScriptedEngine(about, params=params)
    summary = summarize(long_meeting(turns), engine, **ask)  # type: ignore[arg-type]
    assert summary.strategy == strategy
    assert not engine.too_long


def test_speech_without_spaces_is_not_taken_for_short() -> None:
    transcript = meeting(*["今日の会議では予算と電池の問題について話し合います。" * 20] * 40)
    engine = small(context_length=1024)
    summary = summarize(transcript, engine, strategy=None)
    assert summary.strategy == "chapters" and not engine.too_long


@pytest.mark.parametrize("query", [None, "What about the battery? " * 30])
@pytest.mark.parametrize("params", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize("focus", [None, "actions"])
def test_a_model_with_a_short_context(query: str | None, params: int, focus: None) -> None:
    engine = ScriptedEngine(about, params=params, context_length=512)
    summary = summarize(
        long_meeting(60), engine, strategy="chapters", length="short", query=query, focus=focus
    )
    assert not engine.too_long and not summary.chunks_failed


@pytest.mark.parametrize("params", MANNERS.values(), ids=MANNERS)
def test_a_context_too_short_for_anything_is_refused(params: int) -> None:
    engine = ScriptedEngine(about, params=params, context_length=64)
    with pytest.raises(FeatherweightError, match="context is too small"):
        summarize(long_meeting(60), engine)
    assert not engine.asked


# -- failures --------------------------------------------------------------------------------------


def fails_on(item: str, times: int, how: str) -> object:
    def answer(request: Request, before: int) -> str | Generation:
        if item in items(text_of(request)) and before < times:
            return {"error": failed("scripted", "the server is tired."), "empty": " \n"}[how]
        return about(request, before)

    return answer


@pytest.mark.parametrize("params", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize("how", ["error", "empty"])
def test_a_failed_chunk_is_retried(params: int, how: str) -> None:
    engine = ScriptedEngine(fails_on("item150", 1, how), params=params)  # type: ignore[arg-type]
    summary = summarize(long_meeting(), engine, strategy="chapters")
    questions = 1 if params == CAPABLE else 2
    assert len(engine.asked) == (summary.chunks_total + 1) * questions
    assert summary.chunks_failed == 0 and not any("failed" in note for note in summary.notes)
    # A greedy model would say nothing a second time too.
    assert any(request.temperature > 0 for request in engine.asked) == (how == "empty")


@pytest.mark.parametrize("params", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize("how", ["error", "empty"])
@pytest.mark.parametrize("strategy", ["chapters", "map-reduce"])
def test_a_chunk_that_fails_twice_is_named(params: int, how: str, strategy: Strategy) -> None:
    engine = ScriptedEngine(fails_on("item150", 2, how), params=params)  # type: ignore[arg-type]
    summary = summarize(long_meeting(), engine, strategy=strategy)
    assert summary.chunks_failed == 1
    assert f"1 of {summary.chunks_total} parts failed, wholly or partly." in summary.notes
    reason = "the server is tired." if how == "error" else "scripted answered nothing."
    (note,) = [note for note in summary.notes if note.endswith(reason)]
    first, last = re.findall(r"\d+", note)
    assert int(first) <= 150 <= int(last)
    assert summary.points


def test_many_failures_are_counted_and_five_are_named() -> None:
    def answer(request: Request, before: int) -> str | Generation:
        return about(request, 0) if "item000" in text_of(request) else failed("s", "No.")

    summary = summarize(long_meeting(), small(answer), strategy="chapters")
    assert summary.chunks_failed == summary.chunks_total - 1 > 6
    assert sum(note.endswith(": No.") for note in summary.notes) == 5
    assert f"{summary.chunks_failed - 5} more parts failed." in summary.notes


@pytest.mark.parametrize("params", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize("strategy", ALL)
def test_nothing_but_failures_is_an_error(params: int, strategy: Strategy) -> None:
    numbered = iter(range(1000))
    engine = ScriptedEngine(
        lambda request, before: failed("s", f"Reason {next(numbered)}."), params=params
    )
    with pytest.raises(EngineError, match=r"no part of meeting.vtt could be summarised; turns? 0"):
        summarize(long_meeting(40), engine, strategy=strategy, query="What about item007?")


def test_only_noise_is_refused_before_the_model_is_asked() -> None:
    engine = capable()
    for transcript in (meeting("{vocalsound}", " {disfmarker} "), meeting()):
        with pytest.raises(TranscriptError, match="no speech"):
            summarize(transcript, engine)
    assert not engine.asked


def test_turns_of_noise_do_not_count_as_read_parts() -> None:
    transcript = meeting("", *["{vocalsound}"] * 30, "word " * 3000, *[""] * 30)
    engine = capable(lambda request, before: failed("s", "No."), context_length=1024)
    with pytest.raises(EngineError, match="no part"):
        summarize(transcript, engine, strategy="chapters")


@pytest.mark.parametrize("answer", ["...", "- \n- **", "???"])
def test_an_answer_without_a_point_gives_no_point(answer: str) -> None:
    summary = summarize(long_meeting(5), capable(answer))
    assert summary.points == () and summary.text == ""
    assert "the model made no point." in summary.notes


def test_a_bug_in_an_engine_is_not_hidden() -> None:
    def answer(request: Request, before: int) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        summarize(long_meeting(5), capable(answer))


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_refused(query: str) -> None:
    with pytest.raises(FeatherweightError, match="query is empty"):
        summarize(long_meeting(5), capable(), query=query)


def test_locate_needs_something_to_look_for() -> None:
    with pytest.raises(FeatherweightError, match="needs a query or a focus"):
        summarize(long_meeting(5), capable(), strategy="locate")


def test_points_cut_off_by_max_tokens() -> None:
    answer = "- The budget of item001 is fixed at 1 euros.\n- Then the group went on to"
    summary = summarize(long_meeting(5), capable(lambda r, b: said(answer, cut_off=True)))
    assert [point.text for point in summary.points] == [
        "The budget of item001 is fixed at 1 euros."
    ]


# -- merging ---------------------------------------------------------------------------------------


def noted(request: Request, before: int) -> str:
    """Six notes of their own for each part; a third of the notes when merging."""
    text = text_of(request)
    if "Notes:" in text:
        return "\n".join(text.split("Notes:\n")[1].splitlines()[::3])
    return "\n".join(
        f"- {item} {item}a {item}b was weighed against {item}c and found wanting."
        for item in items(text)[:6]
    )


def test_notes_that_do_not_fit_are_merged_in_rounds() -> None:
    engine = capable(noted, context_length=900)
    summary = summarize(long_meeting(600), engine, strategy="map-reduce")
    merges = [r for r in engine.asked if "Notes:" in text_of(r)]
    assert len(merges) > 3 and not engine.too_long
    assert "Notes:" in text_of(engine.asked[-1])
    assert summary.points and not summary.chunks_failed


@pytest.mark.parametrize("strategy", ["map-reduce", "chapters-resummarise", "chapters-rewrite"])
@pytest.mark.parametrize("how", [failed("s", "Too hot."), said("")])
def test_a_failed_merge_keeps_the_notes(strategy: Strategy, how: Generation) -> None:
    def answer(request: Request, before: int) -> str | Generation:
        return how if "Notes:" in text_of(request) else noted(request, before)

    engine = capable(answer, context_length=2048)
    summary = summarize(long_meeting(), engine, strategy=strategy, length="long")
    assert len(summary.points) == 12
    assert summary.chunks_failed > 0
    turns = [point.evidence[0].turn for point in summary.points]
    assert turns[-1] > len(long_meeting().turns) // 2, "only the beginning is left"
    reason = how.error or "scripted answered nothing of use."
    assert any("notes could not be merged" in note and reason in note for note in summary.notes)


def test_a_note_that_is_too_long_to_merge_stays() -> None:
    def answer(request: Request, before: int) -> str:
        text = text_of(request)
        if "Notes:" in text:
            return "- Short."
        return (
            f"- {items(text)[0]} " + " ".join(f"word{n}{items(text)[0]}" for n in range(500)) + "."
        )

    engine = capable(answer, context_length=700)
    summary = summarize(long_meeting(), engine, strategy="map-reduce")
    assert summary.points and not engine.too_long


# -- engines that cannot count ---------------------------------------------------------------------


@pytest.mark.parametrize("params", [None, SMALL])
@pytest.mark.parametrize("strategy", [None, "chapters", "map-reduce", "truncate"])
def test_without_a_tokenizer_an_estimate_is_used_and_told(
    params: int | None, strategy: Strategy | None
) -> None:
    engine = ScriptedEngine(about, params=params, counts_tokens=False, context_length=2048)
    summary = summarize(long_meeting(), engine, strategy=strategy)
    assert not engine.too_long and engine.counted == 0
    assert any("cannot count tokens" in note for note in summary.notes)


# -- progress, figures -----------------------------------------------------------------------------


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[str, int, int]] = []
    summarize(
        long_meeting(),
        capable(context_length=1024),
        strategy="map-reduce",
        progress=lambda *args: told.append(args),
    )
    for stage in ("reading", "merging", "checking"):
        steps = [(done, total) for name, done, total in told if name == stage]
        assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]


def figures(summary: Summary) -> tuple[int, int]:
    return summary.prompt_tokens, summary.completion_tokens


def test_retries_are_paid_for() -> None:
    smooth = summarize(long_meeting(5), capable())
    rough = summarize(long_meeting(5), capable(fails_on("item002", 1, "empty")))
    assert figures(rough)[0] == 2 * figures(smooth)[0]


def test_the_tokenizer_is_asked_little() -> None:
    for engine in (small(), capable(context_length=2048)):
        summary = summarize(long_meeting(1000), engine)
        assert engine.counted < 10 * summary.chunks_total + 30
    assert SMALL_CHUNK < 4096


def test_a_server_that_cuts_prompts_in_silence_is_noticed() -> None:
    engine = capable(lambda request, before: said("- They talked.", prompt_tokens=40))
    summary = summarize(long_meeting(), engine)
    assert any("read less than it was sent" in note for note in summary.notes)
    honest = summarize(long_meeting(), capable("- They talked."))
    assert not any("read less than it was sent" in note for note in honest.notes)
