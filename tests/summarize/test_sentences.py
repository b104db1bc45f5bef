from hypothesis import given
from hypothesis import strategies as st

from featherweight.summarize.sentences import sentences


def cut(text: str, longest: int = 40) -> list[str]:
    return [text[start:end] for start, end in sentences(text, longest)]


PIECES = st.sampled_from(
    [" ", "\n", ". ", "? ", " .", "...", "Mr. ", "and ", "12.5", "é", "{gap}", "。", ", "]
)
TEXT = st.one_of(
    st.text(max_size=80), st.lists(st.one_of(PIECES, st.text(max_size=4))).map("".join)
)


@given(TEXT, st.integers(1, 12))
def test_ranges_hold_every_character_but_space(text: str, longest: int) -> None:
    ranges = sentences(text, longest)
    covered = [at for start, end in ranges for at in range(start, end)]
    assert covered == sorted(set(covered))
    assert {at for at, letter in enumerate(text) if not letter.isspace()} <= set(covered)
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in ranges)
    assert ranges == sentences(text, longest)


def test_written_and_tokenised_speech() -> None:
    assert cut("Yes. I agree! Why?") == ["Yes.", "I agree!", "Why?"]
    assert cut("So , which is my bar ? Mah ! Number one .") == [
        "So , which is my bar ?", "Mah !", "Number one .",
    ]  # fmt: skip


def test_a_point_that_ends_nothing() -> None:
    assert cut("Dr. Jones paid 12.5 euros. Mr. C. Smith left.") == [
        "Dr. Jones paid 12.5 euros.", "Mr. C. Smith left.",
    ]  # fmt: skip


def test_long_speech_without_stops_is_cut_at_its_joints() -> None:
    text = " ".join(f"we looked at part {n} and then we went on" for n in range(40))
    pieces = cut(text)
    assert len(pieces) > 5 and max(len(piece.split()) for piece in pieces) <= 40
    assert " ".join(pieces) == text
    assert max(len(piece.split()) for piece in cut("word " * 500)) <= 40


def test_a_text_of_abbreviations_is_cut_in_linear_time() -> None:
    text = "A. " * 100_000  # quadratic cutting would take an hour
    assert sentences(text)[-1][1] == len(text.rstrip())
