import pytest

from featherweight.retrieve.terms import stem
from featherweight.summarize.numbers import numbers, readings
from featherweight.summarize.support import (
    contains,
    missing_names,
    missing_numbers,
    polarity,
    proper_names,
    stated_owner,
)


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("It costs 25 Euro.", "twenty five euros , I think"),
        ("It costs twenty-five euros.", "25 Euro"),
        ("The cost is 12.5 Euros.", "Twelve point five ."),
        ("The cost is 12.5 Euros.", "under twelve fifty Euro ?"),
        ("They sold 1,200 units.", "one thousand two hundred"),
        ("In 1999 it began.", "back in nineteen ninety nine"),
        ("About 50% agreed.", "half of them agreed"),
        ("Due on the 3rd.", "by the third of June"),
        ("It takes 105 days.", "a hundred and five days"),
        ("Two and a half years.", "2.5 years"),
        ("The 21st century.", "twenty-first century"),
        ("A gain of 0.3 percent.", "the point three percent hit"),
        ("3 million people.", "three million people"),
    ],
)
def test_a_number_is_found_however_it_is_written(point: str, said: str) -> None:
    assert missing_numbers(point, [said]) == []


def test_a_changed_number_is_missing() -> None:
    assert missing_numbers("It costs 40 Euro.", ["twenty five euros"]) == ["40"]
    assert missing_numbers("Thirty people and 12 dogs", ["thirty people"]) == ["12"]
    assert numbers("one of the first things") == []
    assert readings("") == set()


def test_names() -> None:
    assert proper_names("The team met Kirsty Williams in Wales. They left.") == [
        "Kirsty", "Williams", "Wales",
    ]  # fmt: skip
    assert missing_names("He asked Bob", ["so Bob , what do you think"], []) == []
    assert missing_names("He asked Bob", ["so what do you think"], ["Bob Jones"]) == []
    assert missing_names("He asked Alice", ["so Bob , what do you think"], ["Bob"]) == ["Alice"]


def test_negation_covers_the_next_words_of_its_clause() -> None:
    found = polarity("We do n't need the screen, but the battery stays")
    assert "screen" in found.denied and "screen" not in found.affirmed
    assert {stem("stays")} <= found.affirmed
    assert polarity("We don't want it").scopes == polarity("We do not want it").scopes
    assert polarity("").scopes == ()


def test_words_are_contained_whole_and_as_they_are() -> None:
    assert contains("I will finish by Friday , June the 12", "june 12")
    assert contains("at 3pm in Q3", "Q3") and contains("SPEAKER_01 is here", "SPEAKER_01")
    assert not contains("Fridays are good", "Friday")
    assert not contains("next week, Friday", "next Friday")
    assert not contains("anything", "") and not contains("anything", "the")


def test_an_owner_is_named_or_speaks_in_the_first_person() -> None:
    assert stated_owner("Anna", [("Bob", "Anna will send it")])
    assert stated_owner("Bob", [("Bob", "I will send it")])
    assert stated_owner("Bob", [("Bob", "I 'll send it")])
    assert not stated_owner("Bob", [("Bob", "You will send it , right ?")])
    assert not stated_owner("Anna", [("Bob", "I will send it")])
    assert not stated_owner("Anna", [(None, "I will send it")])
