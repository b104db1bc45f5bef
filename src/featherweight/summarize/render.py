"""A summary for people: a terminal, Markdown, one HTML page.

What a model or a transcript says is never interpreted here: control characters are gone, markup is
escaped, and the HTML page runs no script and loads nothing.
"""

import html
import re
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from featherweight.summarize.evidence import Evidence
from featherweight.summarize.types import Point, Summary
from featherweight.transcript.text import printable
from featherweight.transcript.types import Transcript

SHOWN = 3
"""Quotes shown for a point; the JSON form has all of them."""


def clock(seconds: float | None) -> str:
    """Seconds as h:mm:ss or m:ss; empty where the transcript states no time."""
    if seconds is None:
        return ""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def title(summary: Summary) -> str:
    """What the summary is of."""
    if summary.query is not None:
        return summary.query
    return {None: "Summary", "actions": "Action items", "decisions": "Decisions"}[summary.focus]


def figures(summary: Summary) -> str:
    """One line: model, strategy, tokens, seconds."""
    parts = summary.chunks_total
    return (
        f"{summary.model} · {summary.strategy}, {parts} part{'s' if parts != 1 else ''} · "
        f"{summary.prompt_tokens:,} tokens read, {summary.completion_tokens:,} written · "
        f"{summary.seconds:.1f} s"
    )


def about(transcript: Transcript) -> str:
    """One line on the transcript: turns, speakers, duration where stated."""
    speakers = {turn.speaker for turn in transcript.turns if turn.speaker}
    times = [t for turn in transcript.turns for t in (turn.start, turn.end) if t is not None]
    found = [f"{len(transcript.turns):,} turns"]
    if speakers:
        found.append(f"{len(speakers)} speaker{'s' if len(speakers) != 1 else ''}")
    if times and max(times) > min(times):
        found.append(clock(max(times) - min(times)))
    return " · ".join(found)


def _verdict(point: Point) -> str:
    return "" if point.supported else f"not supported: {'; '.join(point.reasons)}"


def _who(item: Evidence) -> str:
    return " ".join(filter(None, (clock(item.start), item.speaker)))


def _task(point: Point) -> str:
    found = [("owner", point.owner), ("due", point.due)]
    return ", ".join(f"{name}: {value}" for name, value in found if value)


# -- terminal --------------------------------------------------------------------------------------


def print_text(console: Console, summary: Summary, transcript: Transcript) -> None:
    """Print the summary; colours and width are the console's."""
    console.print()
    console.print(_text(title(summary), "bold"))
    console.print(_text(f"{summary.source} · {about(transcript)}", "dim"))
    console.print()
    for point in summary.points:
        console.print(_point(point))
    for note in summary.notes:
        console.print(Padding(_text(f"Note: {note}", "yellow"), (0, 0, 0, 2)))
    console.print(Rule(style="dim"))
    console.print(_text(figures(summary), "dim"))


def _text(text: str, style: str) -> Text:
    return Text(printable(text), style=style)


def _point(point: Point) -> RenderableType:
    mark = Text("●", style="green") if point.supported else Text("○", style="yellow")
    body: list[RenderableType] = [_text(point.text, "bold" if point.supported else "")]
    if task := _task(point):
        body.append(_text(task, "cyan"))
    if verdict := _verdict(point):
        body.append(_text(verdict, "yellow"))
    quotes = Table.grid(padding=(0, 2))
    quotes.add_column(justify="right", style="dim", no_wrap=True)
    quotes.add_column(style="dim")
    for item in point.evidence[:SHOWN] if point.supported else ():
        line = _text(item.speaker or "", "cyan")
        if item.quote not in point.text:
            line.append("  " if item.speaker else "")
            line.append_text(_text(f"“{_short(item.quote)}”", "italic dim"))
        quotes.add_row(clock(item.start) or f"#{item.turn}", line)
    body.append(quotes)
    row = Table.grid(padding=(0, 1))
    row.add_row(mark, Group(*body))
    return Padding(row, (0, 0, 1, 1))


def _short(quote: str, longest: int = 240) -> str:
    quote = " ".join(quote.split())
    return quote if len(quote) <= longest else quote[: longest - 1].rsplit(" ", 1)[0] + " …"


# -- Markdown --------------------------------------------------------------------------------------


def to_markdown(summary: Summary, transcript: Transcript) -> str:
    """The summary as Markdown, quotes as block quotes with turn numbers."""
    lines = [f"# {_md(title(summary))}", "", f"{_md(summary.source)} · {about(transcript)}", ""]
    for point in summary.points:
        lines.append(f"- {'**' + _md(point.text) + '**' if point.supported else _md(point.text)}")
        if task := _task(point):
            lines.append(f"  *{_md(task)}*")
        if verdict := _verdict(point):
            lines.append(f"  *{_md(verdict)}*")
        for item in point.evidence[:SHOWN] if point.supported else ():
            who = " ".join(filter(None, (_who(item), f"(turn {item.turn})")))
            lines += ["", f"  > {_md(who)}: {_md(_short(item.quote))}"]
        lines.append("")
    lines += [f"Note: {_md(note)}\n" for note in summary.notes]
    return "\n".join([*lines, "---", "", _md(figures(summary)), ""])


def _md(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(printable(text).split()))
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", text)  # no list, no underline of a heading


# -- HTML ------------------------------------------------------------------------------------------

_STYLE = """
:root {
  --fg: #1d2330; --dim: #667085; --line: #e4e7ec; --good: #12805c; --bad: #b54708;
  --bg: #fff; --soft: #f7f8fa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --fg: #e6e8ee; --dim: #98a2b3; --line: #2c3340; --good: #4cc38a; --bad: #f5a524;
    --bg: #14171d; --soft: #1c2029;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 46rem; padding: 2.5rem 1.25rem 6rem; color: var(--fg);
  background: var(--bg); font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; margin: 0 0 .25rem }
h2 { font-size: 1.1rem; margin: 3rem 0 1rem }
.dim { color: var(--dim); font-size: .875rem }
ol.points { list-style: none; padding: 0; margin: 2rem 0 }
ol.points > li { margin: 0 0 1.5rem; padding-left: 1rem; border-left: 3px solid var(--good) }
ol.points > li.open { border-color: var(--bad) }
ol.points p { margin: 0 }
.why { color: var(--bad); font-size: .875rem }
.task { font-size: .875rem; font-weight: 600 }
blockquote { margin: .5rem 0 0; font-size: .9rem; color: var(--dim) }
blockquote a { color: inherit; font-weight: 600; text-decoration: none; border-bottom: 1px dotted }
blockquote a:hover { color: var(--good) }
.note { background: var(--soft); border-radius: .5rem; padding: .75rem 1rem; font-size: .9rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
td { padding: .3rem .6rem .3rem 0; vertical-align: top; border-top: 1px solid var(--line) }
td.n { color: var(--dim); text-align: right; white-space: nowrap }
td.who { font-weight: 600; max-width: 9rem }
tr:target td { background: #fff3c4; color: #1d2330 }
"""


def _e(text: str) -> str:
    return html.escape(printable(text))


def to_html(summary: Summary, transcript: Transcript) -> str:
    """One page that stands alone: the points, and the transcript that their quotes link to."""
    points = "\n".join(_li(point) for point in summary.points)
    notes = "\n".join(f'<p class="note">{_e(note)}</p>' for note in summary.notes)
    rows = "\n".join(
        f'<tr id="t{number}"><td class="n">{_e(clock(turn.start)) or number}</td>'
        f'<td class="who">{_e(turn.speaker or "")}</td><td>{_e(turn.text)}</td></tr>'
        for number, turn in enumerate(transcript.turns)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_e(title(summary))}: {_e(summary.source)}</title><style>{_STYLE}</style></head>
<body><main><h1>{_e(title(summary))}</h1>
<p class="dim">{_e(summary.source)} · {_e(about(transcript))}</p>
<ol class="points">
{points}
</ol>
{notes}
<p class="dim">{_e(figures(summary))}</p>
<h2>Transcript</h2>
<table>
{rows}
</table></main></body></html>
"""


def _li(point: Point) -> str:
    parts: Iterable[str] = [
        f"<p>{_e(point.text)}</p>",
        f'<p class="task">{_e(_task(point))}</p>' if _task(point) else "",
        f'<p class="why">{_e(_verdict(point))}</p>' if not point.supported else "",
        *(
            f'<blockquote><a href="#t{item.turn}">{_e(_who(item) or f"turn {item.turn}")}</a> '
            f"{_e(_short(item.quote))}</blockquote>"
            for item in (point.evidence[:SHOWN] if point.supported else ())
        ),
    ]
    return f'<li class="{"" if point.supported else "open"}">{"".join(parts)}</li>'
