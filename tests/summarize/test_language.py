"""A warning for meetings in another language; nothing is refused."""

import pytest
from scripted import SMALL, ScriptedEngine, meeting

from featherweight.summarize import summarize_transcript as summarize
from featherweight.summarize.language import looks_english

OTHERS = [
    "Wir müssen heute das Budget besprechen und dann entscheiden wir über den Termin im Juni.",
    "Il faut que nous parlions du budget et de la date de lancement de notre application.",
    "Tenemos que hablar del presupuesto y de la fecha de lanzamiento de nuestra aplicación.",
    "Сегодня мы должны обсудить бюджет и дату запуска нашего приложения, все согласны.",
    "今日は予算について話し合い、アプリの発売日を決めなければなりません。",
    "अब हमें बजट और ऐप की लॉन्च तारीख पर चर्चा करनी है।",
]


@pytest.mark.parametrize("text", OTHERS)
def test_other_languages(text: str) -> None:
    assert not looks_english(f"{text} " * 8)


def test_english() -> None:
    assert looks_english(
        "Okay so, today we need to settle the launch date, and the price, I think."
    )
    assert looks_english("budget")


@pytest.mark.parametrize("text", OTHERS)
def test_the_embedded_model_warns_and_goes_on(text: str) -> None:
    ask = {"params": SMALL, "answer": " the budget, the date and everything that came up."}
    embedded = ScriptedEngine(name="smollm2-135m", **ask)  # type: ignore[arg-type]
    summary = summarize(meeting(*[text] * 8), embedded)
    assert any("does not look English" in note for note in summary.notes)
    other = ScriptedEngine(**ask)  # type: ignore[arg-type]
    summary = summarize(meeting(*[text] * 8), other)
    assert not any("English" in note for note in summary.notes)
