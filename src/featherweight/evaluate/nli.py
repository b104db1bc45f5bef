"""How likely a premise entails a hypothesis, by a local NLI classifier; nothing is cut off.

A premise that does not fit the encoder is halved until its parts fit, and the best part counts:
the same maximum that the metrics in `entailment` take over the source.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherweight.engines.batches import batches
from featherweight.errors import EngineError
from featherweight.evaluate.encoder import Encoder, open_classifier
from featherweight.evaluate.text import sentences

Floats = NDArray[np.float64]
Pair = tuple[str, str]  # premise, hypothesis

# "supports" is what models trained on fact checking (VitaminC, FEVER) call it
ENTAILS = re.compile(r"entail|support", re.IGNORECASE)
NOT = re.compile(r"(not|non|no|un)[\W_]*(entail|support)", re.IGNORECASE)


@dataclass(frozen=True)
class Nli:
    """Call it with premises and hypotheses: P(entailment) of each pair, [n].

    `batch_tokens` bounds rows x longest row of one forward.
    """

    encoder: Encoder
    label: int  # the column of entailment
    batch_tokens: int = 16384

    @property
    def signature(self) -> str:
        """What a score depends on: model, precision and weights; belongs beside every number."""
        return f"{self.encoder.name}_{self.encoder.dtype}_sha256:{self.encoder.weights}"

    def __call__(self, premises: Sequence[str], hypotheses: Sequence[str]) -> Floats:
        """Equal pairs are asked once, and the numbers depend on no other pair.

        A hypothesis longer than half the encoder's limit, which no sentence is, is cut into
        parts, each asked by itself, and their mean counts, as over a summary's sentences.
        Raises `ValueError` where the lists differ in length.
        """
        pairs = [(_flat(p), _flat(h)) for p, h in zip(premises, hypotheses, strict=True)]
        lengths = _Lengths(self.encoder, {text for pair in pairs for text in pair})
        room = self.encoder.limit - self.encoder.tokenizer.num_special_tokens_to_add(pair=True)
        plans: dict[Pair, list[list[Pair]]] = {}
        for premise, hypothesis in dict.fromkeys(pairs):
            plans[premise, hypothesis] = [
                [(part, claim) for part in lengths.parts(premise, room - lengths[claim])]
                for claim in lengths.parts(hypothesis, room // 2)
            ]
        asked = dict.fromkeys(pair for plan in plans.values() for row in plan for pair in row)
        answers = self._probabilities(list(asked), lengths)
        found = {
            pair: sum(max(answers[part] for part in row) for row in plan) / len(plan)
            for pair, plan in plans.items()
        }
        return np.array([found[pair] for pair in pairs], dtype=np.float64)

    def _probabilities(self, pairs: list[Pair], lengths: "_Lengths") -> dict[Pair, float]:
        """P(entailment) of distinct pairs that fit."""
        import torch

        found: dict[Pair, float] = {}
        for batch in batches(pairs, lambda p: (lengths[p[0]], lengths[p[1]]), self.batch_tokens):
            inputs = self.encoder.tokenizer(
                [premise for premise, _ in batch],
                [hypothesis for _, hypothesis in batch],
                truncation=False,
                padding=True,
                padding_side="right",
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits = self.encoder.model(**inputs.to(self.encoder.device)).logits
                chances = logits.float().softmax(-1)[:, self.label].tolist()
            found.update(zip(batch, chances, strict=True))
        return found


def open_nli(
    name: str, *, dtype: str = "fp32", device: str | None = None, batch_tokens: int = 16384
) -> Nli:
    """Open an NLI model from a directory, or a name in the local Hugging Face cache.

    Raises `EngineError` where it cannot be opened, is not whole, or its labels do not tell which
    of them is entailment.
    """
    encoder = open_classifier(name, dtype=dtype, device=device)
    return Nli(encoder, entailment_label(encoder.model.config.id2label, name), batch_tokens)


def entailment_label(labels: Mapping[int, str], name: str) -> int:
    """Which label means entailment: the one that says so ("entailment", "SUPPORTS").

    The place is never guessed: MNLI models have it first, last or in the middle. Raises
    `EngineError` unless exactly one of at least two labels says it.
    """
    found = [i for i, label in labels.items() if ENTAILS.search(label) and not NOT.search(label)]
    if len(found) == 1 and len(labels) > 1:
        return int(found[0])
    listed = ", ".join(f"{i}: {label}" for i, label in sorted(labels.items())) or "none"
    raise EngineError(
        f"{name}: its labels ({listed}) do not tell which one is entailment; write their names to "
        "id2label in its config.json, one of them entailment."
    )


class _Lengths(dict[str, int]):
    """Tokens of each text without special ones; a text's parts are counted when they are made."""

    def __init__(self, encoder: Encoder, texts: set[str]) -> None:
        self._tokenizer = encoder.tokenizer
        self._parts: dict[tuple[str, int], list[str]] = {}
        self._count(sorted(texts))

    def __missing__(self, text: str) -> int:
        self._count([text])
        return self[text]

    def _count(self, texts: list[str]) -> None:
        if texts:
            rows = self._tokenizer(
                texts, add_special_tokens=False, truncation=False, verbose=False
            )["input_ids"]
            self.update(zip(texts, map(len, rows), strict=True))

    def parts(self, text: str, room: int) -> list[str]:
        """The text in as few halvings as make every part fit `room`: at sentences, else words."""
        if self[text] <= room or len(text) < 2:
            return [text]
        if (text, room) not in self._parts:
            self._parts[text, room] = [
                part for half in _halves(text) for part in self.parts(half, room)
            ]
        return self._parts[text, room]


def _halves(text: str) -> tuple[str, str]:
    """At the sentence, else the word, else the character in the middle; both have something."""
    for units, joint in ((sentences(text), " "), (text.split(), " "), (list(text), "")):
        if len(units) > 1:
            middle = len(units) // 2
            return joint.join(units[:middle]), joint.join(units[middle:])
    raise ValueError("a text of one character has no halves")


def _flat(text: str) -> str:
    return " ".join(text.split())
