"""Hashed words: against a dictionary, in other processes, and what of a long text counts."""

import subprocess
import sys
import zlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.cascade.hashing import BITS, ENDS, SIZE, hashed

TEXT = "Is the moon a planet? Is it really?"


def by_hand(text: str) -> dict[int, int]:
    """Words and pairs one by one, in whole numbers."""
    words = text.casefold().replace("?", "").split()
    terms = [*words, *(f"{a} {b}" for a, b in pairwise(words))]
    found: Counter[int] = Counter()
    for term in terms:
        top = zlib.crc32(term.encode()) * 0x9E3779B1 % 2**32 >> (31 - BITS)
        found[top >> 1] += 1 if top & 1 else -1
    return {place: count for place, count in found.items() if count}


def as_dict(text: str) -> dict[int, int]:
    words = hashed(text)
    return dict(zip(words.indices.tolist(), words.counts.tolist(), strict=True))


def test_words_and_pairs_fall_where_their_hash_says() -> None:
    assert as_dict(TEXT) == by_hand(TEXT)
    assert sum(map(abs, as_dict(TEXT).values())) == 15  # 8 words, 7 pairs
    assert as_dict("is is is is") == by_hand("is is is is")


@given(st.lists(st.sampled_from("abcdefg"), max_size=40))
def test_any_words(words: list[str]) -> None:
    assert as_dict(" ".join(words)) == by_hand(" ".join(words))


@given(st.text(max_size=80))
def test_any_text_has_places_that_rise_and_length_1_or_nothing(text: str) -> None:
    words = hashed(text)
    assert (np.diff(words.indices) > 0).all() and (words.counts != 0).all()
    assert ((words.indices >= 0) & (words.indices < SIZE)).all()
    length = float((words.values**2).sum())
    assert length == pytest.approx(1) if len(words.indices) else length == 0


def test_a_lone_surrogate_parts_words() -> None:
    assert as_dict("a\ud800b") == as_dict("a b")


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_other_processes_find_the_same(seed: str) -> None:
    code = (
        "from featherweight.cascade.hashing import hashed\n"
        f"w = hashed({TEXT!r}); print(w.indices.tolist(), w.counts.tolist())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    words = hashed(TEXT)
    assert run.stdout.strip() == f"{words.indices.tolist()} {words.counts.tolist()}"


def test_and_other_machines() -> None:
    """States are carried from one to another: these numbers must never change."""
    assert as_dict("the moon") == {855: -1, 11883: 1, 14796: 1}


def test_of_a_long_text_the_ends_count() -> None:
    begin, end = [f"b{i}" for i in range(ENDS)], [f"e{i}" for i in range(ENDS)]
    between = [f"m{i}" for i in range(999)]
    whole = as_dict(" ".join(begin + between + end))
    assert whole == by_hand(" ".join(begin + end))
    assert as_dict(" ".join(begin + between[:1] + end[1:])) != whole


def test_signs_are_even_and_places_are_many() -> None:
    words = [hashed(f"word{i}") for i in range(4000)]
    signs = [w.counts[0] for w in words]
    assert abs(sum(signs)) < 4 * 4000**0.5
    # as many places as 4,000 balls leave occupied
    wanted = SIZE * (1 - (1 - 1 / SIZE) ** 4000)
    assert len({int(w.indices[0]) for w in words}) == pytest.approx(wanted, rel=0.03)
