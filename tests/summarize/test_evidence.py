import json
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.summarize import Evidence, EvidenceFinder
from featherweight.summarize.ranker import trees
from featherweight.transcript.types import Transcript, Turn

SMALLTALK = [
    "Okay , did everyone get the coffee ?", "Yeah , the weather is awful today .",
    "Let me open the slides first .", "Right , so where were we last week ?",
    "My train was late again this morning .", "The printer on the second floor is broken .",
    "Shall we go on with the agenda ?", "Hmm , that sounds fine to me .",
]  # fmt: skip
TALK = [
    ("Anna", "So the selling price of the remote control will be twenty five euros ."),
    ("Bob", "I think we should not use a touch screen , it is too expensive for us ."),
    ("Carla", "The rubber case comes in yellow , the marketing survey liked yellow best ."),
    ("Bob", "I will send the new battery drawings to the factory by next Friday ."),
]


def meeting() -> Transcript:
    turns = []
    for round_, (speaker, text) in enumerate(TALK):
        for at, line in enumerate(SMALLTALK):
            turns.append(Turn(["Anna", "Bob", "Carla"][(at + round_) % 3], line, float(len(turns))))
        turns.append(Turn(speaker, text, float(len(turns))))
    return Transcript(tuple(turns), "made.json", "json")


@pytest.fixture(scope="module")
def finder() -> EvidenceFinder:
    return EvidenceFinder(meeting())


TRUE = [
    "Anna said the selling price of the remote control would be 25 euros.",
    "Bob thought they should not use a touch screen because it is too expensive.",
    "Carla said the rubber case comes in yellow.",
    "Bob will send the battery drawings to the factory by next Friday.",
]


@pytest.mark.parametrize("number", range(4))
def test_the_sentence_that_says_it_is_found_first_and_supports(
    finder: EvidenceFinder, number: int
) -> None:
    found = finder.find(TRUE[number])
    assert found[0].quote == TALK[number][1] and found[0].speaker == TALK[number][0]
    assert found[0].start == float(found[0].turn)
    support = finder.check(TRUE[number], found)
    assert support.supported and support.reasons == ()


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ("Anna said the selling price of the remote control would be 40 euros.", "40"),
        ("Dmitri said the rubber case comes in yellow, and Dmitri agreed with Dmitri.", "Dmitri"),
        ("Carla said the rubber case does not come in yellow.", "denies"),
        ("The parliament debated the fisheries bill.", ""),
    ],
)
def test_a_changed_point_is_not_supported(finder: EvidenceFinder, point: str, reason: str) -> None:
    support = finder.check(point, finder.find(point))
    assert not support.supported and 0 <= support.score <= 1
    assert any(reason in text for text in support.reasons)


def test_a_change_lowers_the_score(finder: EvidenceFinder) -> None:
    def score(point: str) -> float:
        return finder.check(point, finder.find(point)).score

    assert score(TRUE[0]) > score(TRUE[0].replace("25", "52"))
    assert score(TRUE[2]) > score(TRUE[2].replace("comes", "does not come"))
    assert score(TRUE[2]) > score(TRUE[2].replace("Carla", "Anna"))


def test_k_and_determinism(finder: EvidenceFinder) -> None:
    assert [len(finder.find(TRUE[0], k)) for k in (0, 1, 3, 5)] == [0, 1, 3, 5]
    assert finder.find(TRUE[0], 5)[:3] == finder.find(TRUE[0], 3)
    assert EvidenceFinder(meeting()).find(TRUE[1]) == finder.find(TRUE[1])
    assert len(finder.find(TRUE[0])) <= 10


@pytest.mark.parametrize("point", ["", "   ", "...", "qqqq xxxx", "日本語"])
def test_a_point_with_nothing_to_look_for(finder: EvidenceFinder, point: str) -> None:
    assert finder.find(point) == ()
    support = finder.check(point, ())
    assert support.score == 0 and not support.supported and len(support.reasons) == 1


def test_small_transcripts() -> None:
    for turns in ((), (Turn(None, ""),), (Turn(None, "   "), Turn("A", "{gap}"))):
        empty = EvidenceFinder(Transcript(turns, "", ""))
        assert empty.find("The battery is dead") == ()
    one = EvidenceFinder(
        Transcript((Turn(None, "Die Batterie kostet 5 € – größer geht nicht."),), "", "")
    )
    found = one.find("Die Batterie kostet 5 €")
    assert [item.turn for item in found] == [0] and found[0].speaker is None
    assert 0 <= one.check("Die Batterie kostet 5 €", found).score <= 1


@pytest.mark.parametrize(
    ("turn", "quote"), [(0, "words nobody said"), (999, "x"), (-1, "So"), (0, " ")]
)
def test_a_citation_that_is_not_in_the_meeting(
    finder: EvidenceFinder, turn: int, quote: str
) -> None:
    support = finder.check(TRUE[0], [*finder.find(TRUE[0]), Evidence(turn, None, None, quote, 1.0)])
    assert not support.supported and support.reasons == ("a cited quote is not in its turn",)


TEXTS = st.lists(st.text(max_size=60), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.text(max_size=40))
def test_a_quote_is_an_exact_piece_of_its_turn(texts: list[str], point: str) -> None:
    transcript = Transcript(tuple(Turn(None, text) for text in texts), "", "")
    finder = EvidenceFinder(transcript)
    for wanted in (point, texts[0]):
        found = finder.find(wanted, 5)
        assert all(item.quote in texts[item.turn] and item.quote for item in found)
        assert 0 <= finder.check(wanted, found).score <= 1


def test_more_against_a_point_never_helps_it() -> None:
    weights = json.loads(files("featherweight.summarize").joinpath("evidence.json").read_text())
    forest = weights["support"]
    names = set(forest["names"])
    rng = np.random.default_rng(0)
    for _ in range(50):
        row = {
            name: float(value)
            for name, value in zip(sorted(names), rng.normal(size=len(names)), strict=True)
        }
        for name in names & {"numbers", "names", "denial unheard", "others", "unheard"}:
            assert trees(row | {name: row[name] + 1}, forest) <= trees(row, forest)
