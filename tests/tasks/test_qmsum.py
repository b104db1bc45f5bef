"""QMSum: questions, gold spans, and what a model reads of a meeting."""

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import DataError
from featherweight.files import sha256
from featherweight.retrieve import BM25Locator, FittedLocator
from featherweight.rows import Row
from featherweight.tasks import Example, Task
from featherweight.tasks.qmsum import (
    ODD,
    Input,
    clipped,
    gold_turns,
    located,
    prompt,
    qmsum,
    spoken,
    spread,
)

Meeting = dict[str, Any]
turns_of = st.lists(
    st.integers(0, 60).flatmap(
        lambda n: st.just(" ".join(["map", "price", "loads"][i % 3] for i in range(n)))
    ),
    min_size=1,
    max_size=60,
)


@pytest.fixture
def data(root: Path) -> Path:
    return root / "examples" / "data"


def meeting(turns: list[str] | None = None, **more: Any) -> Meeting:
    """A small meeting of two speakers."""
    said = turns or ["Hello there.", "{vocalsound}", "The price is nineteen euros.", "It is late."]
    return {
        "meeting_transcripts": [
            {"speaker": "AB"[number % 2], "content": text} for number, text in enumerate(said)
        ],
        "general_query_list": [{"query": "Summarize the whole meeting.", "answer": "They met."}],
        "specific_query_list": [
            {
                "query": "What is the price?",
                "answer": "Nineteen euros.",
                "relevant_text_span": [["2", "3"]],
            }
        ],
    } | more


def put(folder: Path, meetings: list[Meeting], name: str = "val.jsonl") -> Path:
    path = folder / "qmsum" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = "".join(json.dumps(one) + "\n" for one in meetings).encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def asked(example: Example) -> str:
    (message,) = example.prompt
    assert isinstance(message, dict) and message["role"] == "user"
    return message["content"]


def read(example: Example) -> list[str]:
    """The transcript's lines in the prompt."""
    return asked(example).split("\n\n")[1].split("\n")


# ---- examples


def test_questions_of_a_meeting(tmp_path: Path) -> None:
    path = put(tmp_path, [meeting(meeting_id="M1", domain="Product")])
    task = qmsum(tmp_path)
    general, specific = task.examples
    assert (general.id, specific.id) == ("M1/g0", "M1/s0")
    assert general.group == specific.group == "M1"
    assert (general.target, specific.target) == ("They met.", "Nineteen euros.")
    assert general.meta["general"] is True and specific.meta["general"] is False
    assert specific.meta["query"] == "What is the price?" and specific.meta["domain"] == "Product"
    text = "A: Hello there.\nA: The price is nineteen euros.\nB: It is late."
    assert specific.prompt == prompt(text, "What is the price?")
    assert text in asked(general) and "Summarize the whole meeting." in asked(general)
    assert (task.name, task.kind, task.max_tokens) == ("qmsum", "summary", 192)
    assert task.settings == {
        "split": "val",
        "input": "located",
        "words": 900,
        "locator": FittedLocator().name,
        "data_sha256": sha256(path),
    }


def test_the_samples(data: Path) -> None:
    tasks = {input: qmsum(data, input=input, words=300) for input in ("full", "gold", "located")}
    names = [example.id for example in tasks["full"].examples]
    assert len(names) == len(set(names)) == 10
    assert {example.group for example in tasks["full"].examples} == {"IS1006a", "TS3010a"}
    assert [e.id for e in tasks["located"].examples] == names
    # the oracle knows no span for a question about the whole meeting
    assert [e.id for e in tasks["gold"].examples] == [name for name in names if "/s" in name]
    raw = [json.loads(line) for line in (data / "qmsum" / "val.jsonl").open()]
    whole = {one["meeting_id"]: spoken(Row(one, "")) for one in raw}
    for input, task in tasks.items():
        assert task.settings["input"] == input
        assert task.settings["words"] == (None if input == "full" else 300)
        for example in task.examples:
            turns = whole[example.group or ""]
            chosen = example.meta["turns"]
            assert chosen == sorted(set(chosen)) and chosen[0] >= 0 and chosen[-1] < len(turns)
            words = sum(len(line.split()) for line in read(example))
            if input == "full":
                assert chosen == list(range(len(turns)))
                assert read(example) == [turn for turn in turns if turn]
            else:
                assert 0 < words <= 300


def test_limit_takes_whole_meetings(data: Path) -> None:
    assert [e.id for e in qmsum(data, limit=1).examples] == [
        f"IS1006a/{name}" for name in ("g0", "s0", "s1", "s2", "s3", "s4", "s5")
    ]
    assert len(qmsum(data, limit=7).examples) == 7 and len(qmsum(data, limit=8).examples) == 10


def test_noise_is_no_text_but_keeps_its_number() -> None:
    one = Row(meeting(["{disfmarker}", "l_c_d_ screens", "{gap} Yes ."]), "here")
    assert spoken(one) == ["", "B: LCD screens", "A: Yes."]
    nameless = Row({"meeting_transcripts": [{"speaker": "", "content": "Hi."}]}, "here")
    assert spoken(nameless) == ["Hi."]


# ---- gold spans


def test_gold_spans_are_inclusive() -> None:
    def gold(*spans: tuple[str, str]) -> list[int]:
        return gold_turns(Row({}, "here"), {"relevant_text_span": spans}, 10)

    assert gold(("2", "4")) == [2, 3, 4]
    assert gold(("3", "3")) == [3]
    assert gold(("7", "9"), ("0", "1")) == [0, 1, 7, 8, 9]
    assert gold(("2", "4"), ("3", "5")) == [2, 3, 4, 5]


@pytest.mark.parametrize("spans", [[["9", "10"]], [["-1", "2"]], [["4", "3"]]])
def test_spans_outside_the_meeting(spans: list[list[str]]) -> None:
    with pytest.raises(DataError, match="here: a gold span lies outside"):
        gold_turns(Row({}, "here"), {"relevant_text_span": spans}, 10)


@pytest.mark.parametrize("spans", [None, [["1"]], [["one", "two"]], [3], "12"])
def test_spans_that_are_none(spans: Any) -> None:
    query = {} if spans is None else {"relevant_text_span": spans}
    with pytest.raises(DataError, match="here: a specific query has no relevant_text_span"):
        gold_turns(Row({}, "here"), query, 10)


def test_gold_is_read_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, [meeting(meeting_id="M1")])
    (example,) = qmsum(tmp_path, input="gold").examples
    assert example.id == "M1/s0" and example.meta["turns"] == [2, 3]
    assert read(example) == ["A: The price is nineteen euros.", "B: It is late."]


def test_gold_longer_than_the_budget_is_cut_by_relevance(tmp_path: Path) -> None:
    said = ["The weather is fine today." for _ in range(100)]
    said[80] = "The price is nineteen euros."
    said[5] = "The price was twenty euros."
    spans = [["10", "99"]]
    query = {"query": "What is the price?", "answer": "19.", "relevant_text_span": spans}
    put(tmp_path, [meeting(said, meeting_id="M1", specific_query_list=[query])])
    (example,) = qmsum(tmp_path, input="gold", words=60).examples
    assert 80 in example.meta["turns"] and min(example.meta["turns"]) >= 10
    assert sum(len(line.split()) for line in read(example)) <= 60


# ---- located


@given(turns_of, st.integers(1, 400))
def test_located_is_in_reading_order_and_within_the_budget(turns: list[str], words: int) -> None:
    chosen = located(turns, "price", words)
    assert chosen == sorted(set(chosen))
    assert chosen and len(clipped(turns, chosen, words).split()) <= words
    if sum(len(turn.split()) for turn in turns) <= words:
        assert chosen == list(range(len(turns)))


@pytest.mark.parametrize("words", [20, 60, 250, 900])
def test_located_finds_the_place_and_fills_the_budget(words: int) -> None:
    turns = [f"Ann: point {n} is about the weather" for n in range(500)]
    turns[321] = "Bob: the battery costs nineteen euros"
    chosen = located(turns, "How much does the battery cost?", words)
    assert 321 in chosen
    read = len(clipped(turns, chosen, words).split())
    assert words * 0.6 <= read <= words


def test_located_among_some_turns_only() -> None:
    turns = ["the battery costs nineteen euros"] * 50
    assert located(turns, "battery", 1000, [3, 7, 9]) == [3, 7, 9]
    assert set(located(turns, "battery", 20, range(30, 50))) <= set(range(30, 50))
    assert located(turns, "battery", 20, []) == []


def test_a_turn_longer_than_the_budget_is_cut() -> None:
    turns = [f"Ann: {'weather ' * 80}", f"Bob: battery {'life ' * 80}", "Ann: yes"]
    chosen = located(turns, "battery", 10)
    assert clipped(turns, [1], 10) == "Bob: battery " + " ".join(["life"] * 8)
    assert len(clipped(turns, chosen, 10).split()) <= 10
    longest = [turns[1]]
    assert located(longest, "battery", 10) == [0]
    assert clipped(longest, spread(longest, 10), 10) == clipped(turns, [1], 10)


def test_another_locator(data: Path) -> None:
    plain, bm25 = qmsum(data, words=300), qmsum(data, words=300, locator=BM25Locator())
    assert bm25.settings["locator"] == "bm25" and not alike(plain, bm25)
    assert qmsum(data, input="gold").settings["locator"] is None
    for input in ("gold", "full"):
        with pytest.raises(DataError, match=f"the input {input} needs no locator; leave it out"):
            qmsum(data, input=input, locator=BM25Locator())


# ---- spread


@given(turns_of, st.integers(1, 400))
def test_spread_fits_and_begins_at_the_beginning(turns: list[str], words: int) -> None:
    chosen = spread(turns, words)
    assert chosen == sorted(set(chosen)) and chosen[0] == 0
    assert len(clipped(turns, chosen, words).split()) <= words
    if sum(len(turn.split()) for turn in turns) <= words:
        assert chosen == list(range(len(turns)))


@pytest.mark.parametrize("words", [20, 100, 280, 900])
def test_spread_covers_the_first_to_the_last_evenly(words: int) -> None:
    turns = [f"Ann: point {n} is {'very ' * (n % 4)}late" for n in range(600)]
    lengths = [len(turn.split()) for turn in turns]
    chosen = spread(turns, words)
    assert chosen[0] == 0 and chosen[-1] == 599
    assert sum(lengths[i] for i in chosen) <= words
    starts = [i for i in chosen if i - 1 not in chosen]
    gaps = [b - a for a, b in pairwise(starts)]
    assert len(starts) >= 2 and max(gaps) <= 1.4 * min(gaps)
    if words == 900:
        assert len(starts) == 6  # windows of 150


def test_spread_with_turns_longer_than_a_window() -> None:
    turns = ["word " * 400 for _ in range(10)]
    assert spread(turns, 900) == [0, 9]
    assert spread(turns, 500) == [0]


# ---- clipped


def test_clipped_cuts_the_last_turn_and_leaves_noise_out() -> None:
    turns = ["A: one two", "", "B: three four five", "A: six"]
    assert clipped(turns, [0, 1, 2, 3], None) == "A: one two\nB: three four five\nA: six"
    assert clipped(turns, [0, 1, 2, 3], 9) == "A: one two\nB: three four five\nA: six"
    assert clipped(turns, [0, 1, 2, 3], 8) == "A: one two\nB: three four five\nA:"
    assert clipped(turns, [0, 1, 2, 3], 7) == "A: one two\nB: three four five"
    assert clipped(turns, [0, 1, 2, 3], 5) == "A: one two\nB: three"
    assert clipped(turns, [2], 3) == "B: three four"


# ---- files


def alike(a: Task, b: Task) -> bool:
    return [(e.id, e.prompt, e.target) for e in a.examples] == [
        (e.id, e.prompt, e.target) for e in b.examples
    ]


@pytest.mark.parametrize("input", ["located", "gold", "full"])
def test_the_layouts_give_the_same(data: Path, tmp_path: Path, input: Input) -> None:
    raw = (data / "qmsum" / "val.jsonl").read_bytes()
    meetings = [json.loads(line) for line in raw.splitlines()]
    plain = qmsum(data, input=input)
    put(tmp_path / "packed", meetings, "val.jsonl.gz")
    assert alike(plain, qmsum(tmp_path / "packed", input=input))
    folder = tmp_path / "official" / "qmsum" / "val"
    folder.mkdir(parents=True)
    for one in meetings:
        name = one.pop("meeting_id")  # official files have none; their name says it
        (folder / f"{name}.json").write_text(json.dumps(one))
    official = qmsum(tmp_path / "official", input=input)
    assert alike(plain, official)
    assert official.settings["data_sha256"] != plain.settings["data_sha256"]
    before = official.settings["data_sha256"]
    (folder / "TS3010a.json").write_text(json.dumps(one | {"more": 1}))
    assert qmsum(tmp_path / "official", input=input).settings["data_sha256"] != before


def test_meetings_without_a_name_are_numbered(tmp_path: Path) -> None:
    put(tmp_path, [meeting(), meeting()], "test.jsonl")
    names = {example.group for example in qmsum(tmp_path, "test").examples}
    assert names == {"test_0", "test_1"}


def test_missing_data_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Yale-LILY/QMSum") as error:
        qmsum(tmp_path, "train")
    assert "train.jsonl" in str(error.value) and str(tmp_path / "qmsum") in str(error.value)
    with pytest.raises(DataError, match="no split 'dev'; choose train, val, test"):
        qmsum(tmp_path, "dev")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meeting_transcripts": None}, "no list 'meeting_transcripts'"),
        ({"meeting_transcripts": []}, "no QMSum meeting"),
        ({"general_query_list": None}, "no list 'general_query_list'"),
        ({"specific_query_list": {}}, "no list 'specific_query_list'"),
        ({"general_query_list": ["Summarize."]}, "an entry of general_query_list is no object"),
        ({"general_query_list": [{"query": "?"}]}, "general_query_list: it has no column 'answer'"),
        ({"specific_query_list": [{"query": "", "answer": "x"}]}, "'query' is empty"),
        ({"meeting_id": "M1"}, "'M1' stands at .* line 1 too"),
        ({"meeting_id": ["M1"]}, "'meeting_id' is a list"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = put(tmp_path, [meeting(meeting_id="M1"), meeting(meeting_id="M2") | change])
    with pytest.raises(DataError, match=message) as error:
        qmsum(tmp_path)
    assert f"{path} line 2" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "cannot read"), (b"[]", "not a meeting"), (b"{}", "no list")]
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "qmsum" / "val" / "M1.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        qmsum(tmp_path)
    assert str(path) in str(error.value)


def test_the_odd_queries_are_written_as_they_are_compared() -> None:
    assert all(query == query.strip().lower() for query in ODD)
