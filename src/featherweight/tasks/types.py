"""What a model is asked, and what a good answer is: plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from featherweight.engines.types import Prompt

Kind = Literal["summary", "choice", "text"]


@dataclass(frozen=True, slots=True)
class Example:
    """One question. `group` is the cluster for bootstrap (the meeting), `None` for none.

    Of a multiple choice `choices` are the answers, `target` is the right one's text and
    `meta["answer"]` its index. Of a text to be scored (perplexity) `target` is the text.
    """

    id: str
    prompt: Prompt
    target: str | None = None
    group: str | None = None
    choices: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """Examples of one kind, with what was chosen and read to make them.

    `kind` says how an answer is scored: summary (text against a target), choice (accuracy),
    text (perplexity). `settings` go into the manifest: split, input, template, and the sha256 of
    every file read. `sources` are the whole texts that are summarised, by group.
    """

    name: str
    kind: Kind
    examples: tuple[Example, ...]
    max_tokens: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
