"""Log-probabilities of given texts, one batch at a time, without ever holding [T, V]."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from featherweight.engines.hf_decode import NO_NUMBER
from featherweight.engines.hf_model import Model, pad
from featherweight.engines.hf_prompts import Encoded
from featherweight.errors import EngineError

SCORE_ROWS = 512  # rows of logits held at once


@dataclass
class Pair:
    """A prompt and the tokens to score after it."""

    index: int
    prompt: Encoded
    target: list[int]


def score(model: Model, pairs: Sequence[Pair]) -> list[tuple[float, ...]]:
    """Log-probability of every target token; no target may be empty.

    Raises `EngineError` where one is NaN.
    """
    found = (_score_seq2seq if model.seq2seq else _score_decoder)(model, pairs)
    if any(math.isnan(value) for values in found for value in values):
        raise EngineError(f"{model.name}: {NO_NUMBER}")
    return found


def _score_decoder(model: Model, pairs: Sequence[Pair]) -> list[tuple[float, ...]]:
    """Read each distinct prompt once, then the targets, in pieces of SCORE_ROWS logit rows.

    The choices of one question share its prompt, so its cache is copied to a row for each. [T, V]
    never exists for a long target.
    """
    prompts = {tuple(p.prompt.ids): p.prompt for p in pairs}
    place = {ids: row for row, ids in enumerate(prompts)}
    rows = torch.tensor([place[tuple(p.prompt.ids)] for p in pairs], device=model.device)
    state, logits = model.prefill(list(prompts.values()))
    if len(prompts) < len(pairs):
        state.keep(rows.tolist())
        logits = logits[rows]
    targets, present = pad([p.target for p in pairs], left=False, device=model.device)
    pieces = [_gather(logits[:, None], targets[:, :1])]
    width = targets.shape[1]
    step = max(1, SCORE_ROWS // len(pairs))
    for start in range(0, width - 1, step):
        end = min(start + step, width - 1)
        pieces.append(
            _gather(
                model.read(state, targets[:, start:end], present[:, start:end]),
                targets[:, start + 1 : end + 1],
            )
        )
    scores = torch.cat(pieces, dim=1).tolist()
    return [tuple(row[: len(p.target)]) for p, row in zip(pairs, scores, strict=True)]


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
