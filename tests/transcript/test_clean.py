"""Cleaning: what goes, what stays, and that turn numbers survive."""

import pytest

from featherweight.transcript import Transcript, Turn, clean

# Enough spaced commas and stops that the transcript is taken for a tokenised one.
TOKENISED = "Okay , so . We , they , all . Yes ."


def cleaned(text: str, *, tokenised: bool = True) -> str:
    turns = (Turn("A", text, 1.0, 2.0), *([Turn("B", TOKENISED)] if tokenised else []))
    return clean(Transcript(turns, "x", "qmsum")).turns[0].text


@pytest.mark.parametrize(
    ("dirty", "tidy"),
    [
        ("Okay , {disfmarker} so let 's see .", "Okay, so let's see."),
        ("{vocalsound} , yeah .", "yeah."),
        ("{vocalsound} .22 calibre", ".22 calibre"),
        ("{vocalsound} .", ""),
        ("{gap} ?", ""),
        (".", "."),
        ("I , {pause} , I think , {NonVocalSound} .", "I, I think."),
        ("the a_m_i_ data", "the AMI data"),
        ("an l_c_d_ , a T_V_ .", "an LCD, a TV."),
        ("the p_m_s and t_v_", "the PMS and TV"),
        ("T_V_s and L_C_D_'s and anti-R_S_I_", "TVs and LCD's and anti-RSI"),
        ("three-D_ and A_", "three-D and A"),
        ("snake_case and x_y and __init__", "snake_case and x_y and __init__"),
        ("it 's , we 'll , do n't , I 'd", "it's, we'll, don't, I'd"),
        ("tell 'em 'cause 'kay", "tell 'em 'cause 'kay"),
        ("it costs $ 5 or £ 1,000 .", "it costs $5 or £1,000."),
        ("$ amount", "$ amount"),
        ("a ,. b ,, c", "a. b, c"),
        ("( he said ) so", "(he said) so"),
        ("Uh - huh .. .5 :-)", "Uh - huh .. .5 :-)"),
        ("{comments} {other}", "{comments} {other}"),
    ],
)
def test_texts(dirty: str, tidy: str) -> None:
    assert cleaned(dirty) == tidy


def test_spaces_stay_where_people_wrote_them() -> None:
    french = "Vraiment ? Oui, bien sûr. Non !"
    assert cleaned(french, tokenised=False) == french
    assert cleaned("He said 's fine. Ok, go on.", tokenised=False) == "He said 's fine. Ok, go on."


def test_noise_goes_in_any_transcript() -> None:
    assert cleaned("Well, {vocalsound} yes.", tokenised=False) == "Well, yes."


def test_turn_numbers_speakers_and_times_survive() -> None:
    dirty = Transcript(
        (Turn("A", "{vocalsound}", 1.0, 2.0), Turn(None, "{gap} hi"), Turn("B_b_", "")),
        "x",
        "qmsum",
    )
    assert clean(dirty) == Transcript(
        (Turn("A", "", 1.0, 2.0), Turn(None, "hi"), Turn("B_b_", "")), "x", "qmsum"
    )


def test_nothing_to_clean_is_nothing_changed() -> None:
    neat = Transcript((Turn("A", "Two  spaces, a tab\tand 3_000."),), "x", "text")
    assert clean(neat) == neat
