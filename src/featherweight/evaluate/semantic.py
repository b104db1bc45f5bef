"""What word overlap does not see, by local encoders that the user names, and length against source.

A metric whose encoder or source is not named is "not measured": it is listed with the reason and
never a zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featherweight.errors import DataError
from featherweight.evaluate.predictions import Joined, Reference
from featherweight.evaluate.text import words
from featherweight.rows import read_rows


@dataclass(frozen=True, slots=True)
class Semantic:
    """Which encoders and sources to use.

    `encoder` is a model directory for BERTScore, `layer` the hidden layer (the last unless given);
    `nli` one with an entailment label, `style` how its judgements are put together; `sources` a
    file with what was summarised.
    """

    encoder: str | None = None
    layer: int | None = None
    nli: str | None = None
    style: str = "summac-zs"
    sources: Path | None = None


@dataclass(slots=True)
class Found:
    """Columns of [n] values (None where an item has none), why others are missing, and notes."""

    columns: dict[str, list[float | None]] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def semantic(joined: Joined, texts: Sequence[str], wanted: Semantic) -> Found:
    """Measure one system's answers `texts`, which are in the order of `joined`.

    Percent points but for compression, which is words of the source for each word of the answer.
    Raises `DataError` where a source is missing, `EngineError` where an encoder cannot be opened.
    """
    found = Found()
    sources = None
    if wanted.sources is None:
        found.not_measured["compression"] = "no --sources"
    else:
        sources = _sources(joined, wanted.sources)
        found.columns["compression"] = [
            len(words(source)) / count if (count := len(words(text))) else None
            for source, text in zip(sources, texts, strict=True)
        ]
    if wanted.encoder is None:
        found.not_measured["bertscore"] = "no --encoder"
    else:
        _bertscore(found, joined.references, texts, wanted.encoder, wanted.layer)
    if wanted.nli is None or sources is None:
        found.not_measured["faithfulness"] = "no --nli" if wanted.nli is None else "no --sources"
    else:
        _faithfulness(found, sources, texts, wanted.nli, wanted.style)
    return found


def _bertscore(
    found: Found,
    references: Sequence[Reference],
    texts: Sequence[str],
    name: str,
    layer: int | None,
) -> None:
    from featherweight.evaluate.bertscore import bertscore
    from featherweight.evaluate.encoder import open_encoder

    scores = bertscore(open_encoder(name, layer=layer), texts, [r.text for r in references])
    found.columns["bertscore"] = [100 * float(value) for value in scores.f1]
    found.notes.append(f"BERTScore {scores.signature}")
    if scores.truncated:
        found.notes.append(f"BERTScore: {scores.truncated} texts exceed the encoder and were CUT")


def _faithfulness(
    found: Found, sources: Sequence[str], texts: Sequence[str], name: str, style: str
) -> None:
    from featherweight.evaluate.entailment import faithfulness
    from featherweight.evaluate.nli import open_nli

    nli = open_nli(name)
    scores = faithfulness(sources, texts, nli, style)
    found.columns["faithfulness"] = [None if score is None else 100 * score for score in scores]
    found.notes.append(f"faithfulness {style} {nli.signature}")


def _sources(joined: Joined, path: Path) -> list[str]:
    """The source of each item: by its id, else by its group."""
    by_key = read_sources(path)
    found = []
    for name, reference in zip(joined.ids, joined.references, strict=True):
        source = by_key.get(name, by_key.get(reference.group))
        if source is None:
            raise DataError(
                f"{reference.where}: neither {name!r} nor {reference.group!r} has a source in "
                f"{path}; add a row for it."
            )
        found.append(source)
    return found


def read_sources(path: Path) -> Mapping[str, str]:
    """Rows with `source` and an id or a group, as text by that name."""
    found: dict[str, str] = {}
    for row in read_rows(path):
        name = row.key("query_id", "id", "meeting_id", "group")
        if name in found:
            raise DataError(f"{row.where}: {name!r} stands twice in {path}; keep one of the two.")
        found[name] = row.text("source")
    return found
