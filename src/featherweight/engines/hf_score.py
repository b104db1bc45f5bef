"""Log-probabilities of given texts, one batch at a time, without ever holding [T, V]."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from featherweight.engines.hf_model import Model, pad
from featherweight.engines.hf_prompts import Encoded

SCORE_ROWS = 512  # rows of logits held at once


@dataclass
class Pair:
    """A prompt and the tokens to score after it."""

    index: int
    prompt: Encoded
    target: list[int]


def score(model: Model, pairs: Sequence[Pair]) -> list[tuple[float, ...]]:
    """Log-probability of every target token; no target may be empty."""
    return (_score_seq2seq if model.seq2seq else _score_decoder)(model, pairs)


def _score_decoder(model: Model, pairs: Sequence[Pair]) -> list[tuple[float, ...]]:
    """Read left-padded prompt + target; hold logits for target rows only.

    The prompt part is read first and its cache kept, then the rest in pieces of SCORE_ROWS
    logit rows, so that [T, V] never exists for a long target.
    """
    ids, mask = pad([p.prompt.ids + p.target for p in pairs], left=True, device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    width, longest = ids.shape[1], max(len(p.target) for p in pairs)
    step = max(1, SCORE_ROWS // len(pairs))
    cuts = [width - longest, *range(width - longest + step, width - 1, step), width - 1]
    pieces, start, cache = [], 0, None
    for end in dict.fromkeys(cuts):
        keep = 1 if start == 0 else end - start
        out = model.forward(ids[:, start:end], mask[:, :end], positions[:, start:end], cache, keep)
        cache, start = out.past_key_values, end
        rows = torch.log_softmax(out.logits[:, -keep:].float(), dim=-1)
        targets = ids[:, end - keep + 1 : end + 1]
        pieces.append(rows.gather(2, targets[..., None])[..., 0])
    scores = torch.cat(pieces, dim=1).tolist()  # [B, longest], right-aligned
    return [tuple(row[longest - len(p.target) :]) for p, row in zip(pairs, scores, strict=True)]


def _score_seq2seq(model: Model, pairs: Sequence[Pair]) -> list[tuple[float, ...]]:
    ids, mask = pad([p.prompt.ids for p in pairs], left=False, device=model.device)
    texts, _ = pad([p.prompt.beginning + p.target for p in pairs], left=False, device=model.device)
    start = torch.tensor([model.decoder_start()] * len(pairs), device=model.device)
    logits = model.teacher_forced(ids, mask, torch.cat([start, texts[:, :-1]], dim=1))
    rows = torch.log_softmax(logits[:, start.shape[1] - 1 :].float(), dim=-1)
    scores = rows.gather(2, texts[..., None])[..., 0].tolist()
    return [
        tuple(row[len(p.prompt.beginning) :][: len(p.target)])
        for p, row in zip(pairs, scores, strict=True)
    ]
