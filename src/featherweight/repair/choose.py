"""How a bank chooses is itself chosen on val: which layer's queries, of which tokens, and so on.

Every prompt's loss on every example is measured once; what a way to choose would lose follows from
its winners. A prompt is chosen from what is read before the first scored token alone: an example's
prompt, or the first `PREFIX` tokens of running text, which no prompt is scored on. N examples, m
prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from featherweight.distill.data import Sample
from featherweight.engines.hf_bank import Bank, Selection, Stored
from featherweight.engines.hf_model import Model, pad
from featherweight.engines.hf_prompts import Encoded
from featherweight.engines.hf_score import Pair, score

PREFIX = 128
LAYERS = (0, 2, 4, 8)
ROWS = 8  # examples read at once
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Losses:
    """What was measured on val: `nats` [N, m], each example's summed loss behind each prompt, and
    `tokens` [N], how many tokens it sums over. `bare` [N] is without a prompt.
    """

    nats: Tensor
    tokens: Tensor
    bare: Tensor

    def mean(self, winners: Tensor) -> float:
        """Nats a token where example i is behind prompt `winners[i]`."""
        picked = self.nats.gather(1, winners[:, None].cpu())[:, 0]
        return float(picked.sum() / self.tokens.sum())

    def singles(self) -> list[float]:
        """Nats a token behind each prompt alone."""
        return [float(column.sum() / self.tokens.sum()) for column in self.nats.unbind(1)]


@dataclass(frozen=True)
class Chosen:
    """A way to choose, what it loses on val, and how often each prompt wins there."""

    selection: Selection
    loss: float
    wins: tuple[int, ...]


Context = tuple[list[int], list[int]]
"""What is read before a choice, and what is scored after it."""


def contexts(samples: Sequence[Sample], running: bool) -> list[Context]:
    """Of every sample that is long enough; `running` text gives `PREFIX` tokens to the choice."""
    found = []
    for sample in samples:
        prompt, target = list(sample.prompt), list(sample.target)
        if running:
            cut = PREFIX - len(prompt)
            prompt, target = prompt + target[:cut], target[cut:]
        if target:
            found.append((prompt, target))
    return found


def losses(
    model: Any,
    prompts: Sequence[Stored],
    pairs: Sequence[Context],
    progress: Progress | None = None,
) -> Losses:
    """Every context's target behind every prompt, and behind none."""
    columns = []
    for number, prompt in enumerate([None, *prompts]):
        bank = None if prompt is None else Bank(model, prompt, "a prompt")
        columns.append(_nats(model, bank, pairs))
        if progress:
            progress("prompts on val", number + 1, len(prompts) + 1)
    tokens = torch.tensor([len(target) for _, target in pairs])
    behind = torch.stack(columns[1:], 1) if prompts else torch.empty(len(pairs), 0)
    return Losses(behind, tokens, columns[0])


def _nats(model: Any, bank: Bank | None, pairs: Sequence[Context]) -> Tensor:
    model.prompt_bank = bank
    try:
        found = Model(model, "the model")
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
        sums = torch.zeros(len(pairs))
        for start in range(0, len(order), ROWS):
            batch = order[start : start + ROWS]
            asked = [Pair(i, Encoded(pairs[i][0], []), pairs[i][1]) for i in batch]
            for i, values in zip(batch, score(found, asked), strict=True):
                sums[i] = -sum(values)
    finally:
        model.prompt_bank = None
    return sums


def scores(model: Any, bank: Stored, pairs: Sequence[Context]) -> Tensor:
    """Every prompt's score for every context: float32 [N, m]."""
    opened = Bank(model, bank, "the bank")
    found = []
    for start in range(0, len(pairs), ROWS):
        read = [prompt for prompt, _ in pairs[start : start + ROWS]]
        ids, mask = pad(read, left=True, device=model.device)
        found.append(opened.scores(ids, mask).float().cpu())
    return torch.cat(found)


def usual(model: Any, bank: Stored, learnt: Sequence[Context]) -> tuple[float, ...]:
    """Each prompt's mean score over what was learnt from, for `Selection.usual`."""
    plain = replace(bank, selection=replace(bank.selection, usual=()))
    return tuple(scores(model, plain, learnt).mean(0).tolist())


def choose(
    model: Any,
    bank: Stored,
    learnt: Sequence[Context],
    pairs: Sequence[Context],
    measured: Losses,
    progress: Progress | None = None,
) -> list[Chosen]:
    """All ways to choose that are tried, the best on val first.

    Layers `LAYERS` that the model has, all or the last of an input's tokens, with and without each
    prompt's first key, with and without the usual scores over `learnt`, if any, subtracted.
    """
    found = []
    every = list(_ways(len(model.model.layers)))
    for number, way in enumerate(every):
        one = replace(bank, selection=way)
        plain = scores(model, one, pairs)
        for used in ((), usual(model, one, learnt)) if learnt else ((),):
            won = (plain - torch.tensor(used or [0.0] * bank.m)).argmax(1)
            wins = torch.bincount(won, minlength=bank.m)
            selection = replace(way, usual=used)
            found.append(Chosen(selection, measured.mean(won), tuple(wins.tolist())))
        if progress:
            progress("ways to choose", number + 1, len(every))
    return sorted(found, key=lambda one: one.loss)


def in_one_pass(
    model: Any, bank: Stored, way: Chosen, pairs: Sequence[Context], measured: Losses
) -> float:
    """Nats a token where `way`, which chooses above layer 0, reads an input once (approximate)."""
    one = replace(bank, selection=replace(way.selection, passes=1))
    nats = _nats(model, Bank(model, one, "the bank"), pairs)
    return float(nats.sum() / measured.tokens.sum())


def _ways(layers: int) -> Iterator[Selection]:
    for layer, tokens, first in product(LAYERS, ("all", "last"), (True, False)):
        if layer < layers:
            yield Selection(layer, tokens, first)  # type: ignore[arg-type]
