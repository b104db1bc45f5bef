"""Chunks lose nothing, keep the order, fit, and ask the tokenizer little."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import meeting

from featherweight.errors import FeatherweightError
from featherweight.summarize.chunks import Chunk, cut, render
from featherweight.transcript import Transcript, Turn

Fits = Callable[[str], bool]

words = st.one_of(
    st.sampled_from(["so", "the", "budget", "Okay.", "Right?", "don't", "25", "ok,"]),
    st.text(min_size=1, max_size=12),
    st.sampled_from(["Ω" * 300, "👩‍👩‍👧" * 40, "日本語の会議です。次の議題。", "a" * 500]),
)
texts = st.lists(words, max_size=30).map(" ".join)
turns = st.lists(
    st.builds(Turn, st.sampled_from([None, "Ann", "Bob B.", "Zoë"]), texts), max_size=25
)
transcripts = turns.map(lambda found: Transcript(tuple(found), "a.txt", "text"))


def solid(text: str) -> str:
    return "".join(text.split())


def check(transcript: Transcript, chunks: list[Chunk], fits: Fits) -> None:
    pieces = [piece for chunk in chunks for piece in chunk.pieces]
    assert {piece.turn for piece in pieces} == set(range(len(transcript.turns)))
    for one, other in pairwise(pieces):
        assert (one.turn, one.end) <= (other.turn, other.start) or one.turn < other.turn
    for number, turn in enumerate(transcript.turns):
        parts = [turn.text[p.start : p.end] for p in pieces if p.turn == number]
        assert solid("".join(parts)) == solid(turn.text)
    for chunk in chunks:
        assert chunk.text == render(transcript, chunk.pieces)
        assert fits(chunk.text)
    # What the model reads holds every character of every turn, in order.
    read, at = solid("".join(chunk.text for chunk in chunks)), 0
    for turn in transcript.turns:
        for character in solid(turn.text):
            at = read.index(character, at) + 1


@given(transcripts, st.integers(12, 400), st.booleans())
def test_nothing_is_lost(transcript: Transcript, budget: int, by_topic: bool) -> None:
    def fits(text: str) -> bool:
        return len(text) <= budget

    check(transcript, cut(transcript, fits, by_topic=by_topic), fits)


@given(transcripts, st.integers(3, 60), st.booleans())
def test_nothing_is_lost_by_words(transcript: Transcript, budget: int, by_topic: bool) -> None:
    def fits(text: str) -> bool:
        return sum(1 + len(word) // 8 for word in text.split()) <= budget

    check(transcript, cut(transcript, fits, by_topic=by_topic), fits)


def test_chunks_end_between_turns_where_they_can() -> None:
    transcript = meeting(*["one two three four"] * 40)
    chunks = cut(transcript, lambda text: len(text.split()) <= 25)
    assert [len(chunk.pieces) for chunk in chunks] == [5] * 8


def test_a_turn_longer_than_any_chunk_is_cut_between_sentences() -> None:
    sentences = [f"This is sentence number {n} of a long speech." for n in range(60)]
    transcript = meeting("Short.", " ".join(sentences), "Thanks.")
    chunks = cut(transcript, lambda text: len(text) <= 200)
    check(transcript, chunks, lambda text: len(text) <= 200)
    for sentence in sentences:
        assert any(sentence in chunk.text for chunk in chunks)
    assert all(chunk.text.startswith("Bob: ") for chunk in chunks[1:-1])


def test_given_turns_only() -> None:
    transcript = meeting(*(f"Turn {n}." for n in range(50)))
    chunks = cut(transcript, lambda text: len(text) <= 60, [3, 4, 20, 41])
    assert [turn for chunk in chunks for turn in chunk.turns] == [3, 4, 20, 41]


def test_no_turns_give_no_chunks() -> None:
    assert cut(meeting(), lambda text: True) == []


@pytest.mark.parametrize("text", ["Anything at all.", "", "x"])
def test_a_budget_for_nothing_is_refused(text: str) -> None:
    with pytest.raises(FeatherweightError, match="context is too small"):
        cut(meeting(text), lambda text: False)


@pytest.mark.parametrize("by_topic", [False, True])
@pytest.mark.parametrize("budget", [60, 500, 3000])
def test_the_tokenizer_is_asked_little(budget: int, by_topic: bool) -> None:
    calls = 0

    def fits(text: str) -> bool:
        nonlocal calls
        calls += 1
        return len(text.split()) <= budget

    lengths = [3, 40, 8, 1, 25, 90, 2, 12]
    transcript = meeting(*(" ".join(["word"] * lengths[n % 8]) for n in range(1000)))
    chunks = cut(transcript, fits, by_topic=by_topic)
    check(transcript, chunks, lambda text: len(text.split()) <= budget)
    assert calls < 10 * len(chunks)


def test_by_topic_cuts_where_the_words_change() -> None:
    food = ["The soup needs more salt and pepper.", "Salt the soup, then add pepper."] * 6
    cars = ["This engine burns too much oil.", "Check the engine and change the oil."] * 12
    transcript = meeting(*food, *cars)
    first, *_ = cut(transcript, lambda text: len(text.split()) <= 120, by_topic=True)
    assert first.turns == tuple(range(12))


def test_render_names_each_voice_once_in_a_row() -> None:
    transcript = Transcript(
        (
            Turn("Ann", "Hello."),
            Turn("Ann", "  Are you\nthere? "),
            Turn("Ann", ""),
            Turn(None, "A cough."),
            Turn(None, "Another."),
            Turn("Bob", "Yes."),
        ),
        "a.txt",
        "text",
    )
    (chunk,) = cut(transcript, lambda text: True)
    assert chunk.text == "Ann: Hello. Are you there?\nA cough. Another.\nBob: Yes."
    assert chunk.turns == (0, 1, 2, 3, 4, 5)
