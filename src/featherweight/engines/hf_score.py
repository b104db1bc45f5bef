"""Log-probabilities of given texts, one batch at a time, without ever holding [T, V]."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from featherweight.engines.batches import alike, cut
from featherweight.engines.hf_decode import NO_NUMBER
from featherweight.engines.hf_model import Model, State, pad
from featherweight.engines.hf_prompts import Encoded
from featherweight.errors import EngineError

SCORE_ROWS = 512  # rows of logits held at once


@dataclass
class Pair:
    """A prompt and the tokens to score after it."""

    index: int
    prompt: Encoded
    target: list[int]


def score_batches(pairs: Sequence[Pair], budget: int) -> Iterator[list[Pair]]:
    """Batches of prompts of like length, as far as possible with all the targets of each.

    At most `budget` tokens, or one pair, are in a batch: rows x (longest prompt + longest target).
    """
    by_prompt: dict[tuple[int, ...], list[Pair]] = {}
    for pair in pairs:
        by_prompt.setdefault(tuple(pair.prompt.ids), []).append(pair)
    for group in by_prompt.values():
        group.sort(key=lambda pair: len(pair.target), reverse=True)
    for some in alike(list(by_prompt.values()), lambda group: len(group[0].prompt)):
        together = (pair for group in some for pair in group)
        yield from cut(together, lambda pair: (len(pair.prompt), len(pair.target)), budget)


def score(model: Model, pairs: Sequence[Pair]) -> list[tuple[float, ...]]:
    """Log-probability of every target token; no target may be empty.

    Raises `EngineError` where one is NaN.
    """
    found = (_score_seq2seq if model.seq2seq else _score_decoder)(model, pairs)
    if any(math.isnan(value) for values in found for value in values):
        raise EngineError(f"{model.name}: {NO_NUMBER}")
    return found


def _score_decoder(model: Model, pairs: Sequence[Pair]) -> list[tuple[float, ...]]:
    """Read each distinct prompt once, then the targets, those of like length together.

    The choices of one question share its prompt, so its cache is copied to a row for each.
    """
    prompts = {tuple(p.prompt.ids): p.prompt for p in pairs}
    place = {ids: row for row, ids in enumerate(prompts)}
    state, logits = model.prefill(list(prompts.values()))
    scores: list[tuple[float, ...]] = [()] * len(pairs)
    for group in alike(range(len(pairs)), lambda number: len(pairs[number].target) - 1):
        rows = [place[tuple(pairs[number].prompt.ids)] for number in group]
        found = _score_targets(model, state, logits, rows, [pairs[n].target for n in group])
        for number, one in zip(group, found, strict=True):
            scores[number] = one
    return scores


def _score_targets(
    model: Model, state: State, logits: torch.Tensor, rows: list[int], targets: list[list[int]]
) -> list[tuple[float, ...]]:
    """Log-probabilities of `targets`, each after the prompt in its row of `state`.

    Read in pieces of SCORE_ROWS rows of logits: [T, V] never exists for a long target.
    """
    ids, present = pad(targets, left=False, device=model.device)
    pieces = [_gather(logits[rows][:, None], ids[:, :1])]
    last = ids.shape[1] - 1  # the last token is not read
    if last:
        state = state.rows(rows)
    step = max(1, SCORE_ROWS // len(rows))
    for start in range(0, last, step):
        end = min(start + step, last)
        read = model.read(state, ids[:, start:end], present[:, start:end])
        pieces.append(_gather(read, ids[:, start + 1 : end + 1]))
    scores = torch.cat(pieces, dim=1).tolist()
    return [tuple(row[: len(one)]) for row, one in zip(scores, targets, strict=True)]


def _gather(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [B, T] of `targets` [B, T] under `logits` [B, T, V]."""
    rows = torch.log_softmax(logits.float(), dim=-1)
    return rows.gather(2, targets[..., None])[..., 0]


def _score_seq2seq(model: Model, pairs: Sequence[Pair]) -> list[tuple[float, ...]]:
    ids, mask = pad([p.prompt.ids for p in pairs], left=False, device=model.device)
    texts, _ = pad([p.prompt.beginning + p.target for p in pairs], left=False, device=model.device)
    start = torch.tensor([model.decoder_start()] * len(pairs), device=model.device)
    logits = model.teacher_forced(ids, mask, torch.cat([start, texts[:, :-1]], dim=1))
    scores = _gather(logits[:, start.shape[1] - 1 :], texts).tolist()
    return [
        tuple(row[len(p.prompt.beginning) :][: len(p.target)])
        for p, row in zip(pairs, scores, strict=True)
    ]
