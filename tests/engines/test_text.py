"""Text must come out the same however tokens split it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.engines.text import TextHolder, check_context, check_request, find_stop
from featherweight.engines.types import Request
from featherweight.errors import ContextLengthError, EngineError


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(
    st.text("abé🎉 ", max_size=30),
    st.lists(st.integers(0, 200), max_size=12),
    st.lists(st.text("abé🎉", min_size=1, max_size=4), max_size=3),
)
def test_the_split_into_tokens_does_not_matter(text: str, cuts: list[int], stop: list[str]) -> None:
    data = text.encode()
    whole, split = TextHolder(stop), TextHolder(stop)
    for byte in data:
        whole.feed(bytes([byte]))
    whole.finish()
    shown = "".join([split.feed(piece) for piece in pieces(data, cuts)] + [split.finish()])
    assert shown == split.text == whole.text
    assert split.stopped == whole.stopped == any(s in text for s in stop)
    assert text.startswith(shown)
    if split.stopped:
        kept = b"".join(pieces(data, cuts)[: split.tokens_kept()])
        assert len(kept) >= len(shown.encode())


def test_who_can_block_repetitions() -> None:
    request = Request("x", no_repeat=3)
    check_request("m", request, blocks=True)
    with pytest.raises(EngineError, match=r"m: .*told to block repetitions.* use a local model"):
        check_request("m", request)
    with pytest.raises(EngineError, match="no_repeat is -1"):
        check_request("m", Request("x", no_repeat=-1), blocks=True)


def test_tokens_cut_off_by_a_stop_string_are_not_kept() -> None:
    holder = TextHolder(["END"])
    shown = [holder.feed(piece) for piece in (b"one ", b"two E", b"N", b"D more")]
    assert shown == ["one ", "two ", "", ""]
    assert holder.stopped and holder.text == "one two " and holder.tokens_kept() == 2


def test_a_false_start_of_a_stop_string_is_shown_in_the_end() -> None:
    holder = TextHolder(["END"])
    assert holder.feed(b"EN") == ""
    assert holder.feed(b"x") == "ENx"
    assert holder.feed(b"E") == "" and holder.finish() == "E"


def test_the_stop_string_that_is_complete_first_wins() -> None:
    assert find_stop(b"xabc", [b"abc", b"b"]) == 2
    assert find_stop(b"xabc", [b"abc", b"c"]) == 1
    assert find_stop(b"x", [b"abc"]) is None


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    holder = TextHolder()
    assert holder.feed("é".encode()[:1]) == ""
    assert holder.feed(b"\xff") == "��"
    assert holder.feed("🎉".encode()[:2]) == "" and holder.finish() == "�"


@pytest.mark.parametrize(
    "request_",
    [
        Request("a", max_tokens=0),
        Request("a", temperature=-1),
        Request("a", temperature=float("nan")),
        Request("a", top_logprobs=-1),
        Request("a", stop=("",)),
        Request("a", stop="abc"),  # type: ignore[arg-type]
        Request([]),
        Request("a\ud83d"),
        Request([{"role": "user", "content": "a\ud83d"}]),
        Request("a", stop=("\ud83d",)),
        Request([{"role": "user"}]),  # type: ignore[typeddict-item]
        Request([{"role": "user", "content": None}]),  # type: ignore[typeddict-item]
    ],
)
def test_requests_that_nobody_can_answer(request_: Request) -> None:
    with pytest.raises(EngineError, match=r"^m: "):
        check_request("m", request_)


def test_the_context_error_names_the_numbers() -> None:
    check_context("m", 6, 4, 10)
    with pytest.raises(ContextLengthError, match=r"7 tokens.*4.*10"):
        check_context("m", 7, 4, 10)
