"""What a person sees: complete, escaped, harmless."""

import re
from html.parser import HTMLParser
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from featherweight.summarize import Evidence, Point, Summary
from featherweight.summarize.render import about, clock, figures, print_text, to_html, to_markdown
from featherweight.transcript import Transcript, Turn

NASTY = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "&lt;b&gt; &amp; AT&T",
    "[red]text[/red] [/] [link=file:///x]y[/link]",
    "**bold** _em_ `code` # head > quote | cell ~~x~~",
    "[a](javascript:alert(1)) ![i](http://example.com/x.png)",
    "- item",
    "1. item",
    "2) item",
    "+ item",
    "=====",
    "$x^2$",
    "\\[escaped\\]",
]
CONTROL = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \x07\x08 \u202egnp"


def summary_of(
    text: str, speaker: str | None = "Ann", start: float | None = 61.0
) -> tuple[Summary, Transcript]:
    """Everything that a page shows is `text`."""
    turns = (Turn(speaker, text, start), Turn(None, "Fine.", None))
    evidence = (Evidence(0, speaker, start, text, 0.9), Evidence(1, None, None, "Fine.", 0.5))
    points = (
        Point(text, True, evidence, owner=text, due=text),
        Point(text, False, evidence, (text, "the number 7 is in no cited turn")),
        Point(text, False, (), ("nothing in the meeting resembles this point",)),
    )
    figures = {"chunks_total": 3, "chunks_failed": 1, "prompt_tokens": 1234, "seconds": 5.0}
    summary = Summary(
        text,
        points,
        "chapters",
        text,
        completion_tokens=56,
        source=text,
        turns=2,
        query=text,
        notes=(text,),
        **figures,  # type: ignore[arg-type]
    )
    return summary, Transcript(turns, text, "text")


def printed(summary: Summary, transcript: Transcript, width: int = 100, **how: bool) -> str:
    page = StringIO()
    print_text(Console(file=page, width=width, **how), summary, transcript)  # type: ignore[arg-type]
    return page.getvalue()


class Page(HTMLParser):
    """Checks that tags nest, and keeps what matters."""

    VOID = frozenset({"meta"})
    KNOWN = frozenset(
        "html head meta title style body main h1 h2 p ol li blockquote a table tr td".split()
    )

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.KNOWN
        for name, value in attrs:
            assert name in {
                *("lang", "charset", "name", "content", "http-equiv", "class", "id", "href")
            }
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.text += data


def check_html(summary: Summary, transcript: Transcript) -> Page:
    text = to_html(summary, transcript)
    page = Page(text)
    assert len(page.ids) == len(set(page.ids)) == len(transcript.turns)
    assert page.links and all(link[0] == "#" and link[1:] in page.ids for link in page.links)
    head = text.partition("<body>")[0]
    assert "default-src 'none'" in head and "url(" not in head and "@import" not in head
    return page


@pytest.mark.parametrize("text", NASTY)
def test_nothing_is_interpreted(text: str) -> None:
    summary, transcript = summary_of(text)
    page = check_html(summary, transcript)
    assert page.text.count(text) >= 8
    tokens = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .parse(to_markdown(summary, transcript))
    )
    kinds = {token.type for token in tokens}
    inside = [child for token in tokens for child in token.children or ()]
    kinds |= {child.type for child in inside}
    shown = " ".join(
        "".join(c.content for c in token.children or ()) for token in tokens if token.children
    )
    assert not kinds & {
        *("html_block", "html_inline", "link_open", "image", "code_inline", "fence", "code_block"),
        *("table_open", "ordered_list_open", "s_open"),
    }
    assert shown.count(text) >= 7
    assert sum(token.type == "bullet_list_open" for token in tokens) == 1
    assert sum(token.type == "heading_open" for token in tokens) == 1
    assert printed(summary, transcript, 200).count(text) >= 6


def test_control_characters_are_gone() -> None:
    summary, transcript = summary_of(CONTROL, speaker=CONTROL)
    plain = printed(summary, transcript)
    for text in (plain, to_html(summary, transcript), to_markdown(summary, transcript)):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
        assert "red" in text


@given(st.text(), st.one_of(st.none(), st.text()), st.one_of(st.none(), st.floats(0, 1e6)))
def test_any_text(text: str, speaker: str | None, start: float | None) -> None:
    summary, transcript = summary_of(text, speaker, start)
    check_html(summary, transcript)
    to_markdown(summary, transcript).encode()
    assert "\x1b" not in printed(summary, transcript)


def test_colours_only_where_they_are_wanted() -> None:
    summary, transcript = summary_of("Some text.")
    assert "\x1b[" in printed(summary, transcript, force_terminal=True)
    assert "\x1b" not in printed(summary, transcript)


@pytest.mark.parametrize("width", [20, 40, 80])
def test_narrow_terminals(width: int) -> None:
    summary, transcript = summary_of(
        "A rather long statement about the launch of the app.", "A. Long"
    )
    assert max(map(len, printed(summary, transcript, width).splitlines())) <= width


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""), (0.0, "0:00"), (59.9, "0:59"), (61.0, "1:01"), (3600.0, "1:00:00"),
        (86399.0, "23:59:59"), (360000.0, "100:00:00"),
    ],
)  # fmt: skip
def test_clock(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text


def test_without_speakers_and_times() -> None:
    summary, transcript = summary_of("The price is 19 euros.", None, None)
    assert about(transcript) == "2 turns"
    assert "#0" in printed(summary, transcript)
    assert "(turn 0): The price" in to_markdown(summary, transcript)
    page = check_html(summary, transcript)
    assert "turn 0" in page.text and "None" not in page.text


def test_lines_of_figures() -> None:
    summary, _ = summary_of("m")
    assert figures(summary) == "m · chapters, 3 parts · 1,234 prompt tokens, 56 written · 5.0 s"
    turns = (Turn("Ann", "Hi.", 60.0, 62.0), Turn("Bob", "Hi.", 3700.0, None))
    assert about(Transcript(turns, "a", "vtt")) == "2 turns · 2 speakers · 1:00:40"


def test_what_is_not_supported_says_why_and_shows_no_quote() -> None:
    summary, transcript = summary_of("Text of it.")
    for shown in (printed(summary, transcript), to_markdown(summary, transcript)):
        assert shown.count("not supported: ") == 2
        assert "the number 7 is in no cited turn" in shown
        assert shown.count("Fine.") == 1
