"""BERTScore: how much of one text's meaning another has, token by token (Zhang et al. 2020).

Each token of the candidate is matched to the most similar one of the reference and the other way
round, by the cosine of their embeddings at one layer. Follows the bert-score library 0.3.13
without idf and without rescaling, with these differences, each on purpose:

- white space is collapsed first, as its authors advise;
- padding is left out of the matching. There it counts as similarity 0, which makes a score depend
  on its batch mates where all real similarities are negative (trained encoders have none such);
- a RoBERTa tokenizer always gets the space before the first word that the library asks for. Under
  transformers 5 the library's request has no effect, and its scores leave the published ones;
- texts beyond the encoder's limit are cut as there, but counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.engines.batches import batches
from featherweight.evaluate.encoder import Encoder

Floats = NDArray[np.float64]
Embedded = tuple[NDArray[np.float32], NDArray[np.float32]]  # unit rows [T, H], weights [T]

WINDOW = 64  # pairs whose embeddings are held at once


@dataclass(frozen=True)
class BertScores:
    """Per pair, [n] each. An empty candidate or reference scores 0, as in the library.

    `truncated` (cut at the encoder's limit) and `empty` (no word for the tokenizer) count texts,
    candidates and references together, every time they are given. `signature` belongs beside
    every number: scores of two encoders, layers or precisions do not compare.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    truncated: int
    empty: int
    signature: str


def bertscore(
    encoder: Encoder,
    candidates: Sequence[str],
    references: Sequence[str],
    *,
    batch_tokens: int = 16384,
    progress: Callable[[int, int], None] | None = None,
) -> BertScores:
    """Score each candidate against the reference at its place.

    `batch_tokens` bounds rows x longest row of one forward. `progress` is told pairs done and
    all pairs. Raises `ValueError` where the two lists differ in length.
    """
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates and {len(references)} references")
    pairs = [(_flat(c), _flat(r)) for c, r in zip(candidates, references, strict=True)]
    scores = np.zeros((len(pairs), 3))
    lengths = _lengths(encoder, {text for pair in pairs for text in pair})
    # Pairs of like length pad little; equal references stand together and are embedded once.
    order = sorted(range(len(pairs)), key=lambda i: (lengths[pairs[i][1]], pairs[i][1]))
    empty = 0
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        texts = dict.fromkeys(text for i in window for text in pairs[i])
        embedded = embed(encoder, list(texts), lengths, batch_tokens)
        for i in window:
            candidate, reference = (embedded[text] for text in pairs[i])
            scores[i] = greedy(*candidate, *reference)
            empty += (not candidate[1].any()) + (not reference[1].any())
        if progress:
            progress(start + len(window), len(order))
    precision, recall, f1 = scores.T
    truncated = sum(lengths[text] > encoder.limit for pair in pairs for text in pair)
    return BertScores(precision, recall, f1, truncated, empty, signature(encoder))


def signature(encoder: Encoder) -> str:
    """What a score depends on: model, layer, idf, precision and weights."""
    return f"{encoder.name}_L{encoder.layer}_no-idf_{encoder.dtype}_sha256:{encoder.weights}"


def greedy(
    candidate: NDArray[Any],
    c_weights: NDArray[Any],
    reference: NDArray[Any],
    r_weights: NDArray[Any],
) -> tuple[float, float, float]:
    """Precision, recall and F1 of two texts' unit embeddings [m, H] and [k, H].

    Every token may be matched, but only its own weight counts: 0 for CLS and SEP, else 1. A side
    of weight 0 has no words: all three are 0 then.
    """
    if not c_weights.sum() or not r_weights.sum():
        return 0.0, 0.0, 0.0
    similarity = candidate @ reference.T
    precision = float(np.average(similarity.max(axis=1), weights=c_weights))
    recall = float(np.average(similarity.max(axis=0), weights=r_weights))
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def embed(
    encoder: Encoder, texts: Sequence[str], lengths: dict[str, int], batch_tokens: int
) -> dict[str, Embedded]:
    """Unit embeddings [T, H] and weights [T] of each text's tokens, special ones included."""
    import torch

    tokenizer = encoder.tokenizer
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    found: dict[str, Embedded] = {}
    for batch in batches(texts, lambda text: (min(lengths[text], encoder.limit), 0), batch_tokens):
        inputs = tokenizer(
            [_spaced(tokenizer, text) for text in batch],
            truncation=True,
            max_length=encoder.limit,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        # no token types, as in the library
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with torch.inference_mode():
            out = encoder.model(ids.to(encoder.device), attention_mask=mask.to(encoder.device))
            units = torch.nn.functional.normalize(out[0].float(), dim=-1).cpu().numpy()
        for text, row, unit, length in zip(batch, ids.numpy(), units, mask.sum(1), strict=True):
            weights = ~np.isin(row[:length], [i for i in special if i is not None])
            found[text] = (unit[:length], weights.astype(np.float32))
    return found


def _flat(text: str) -> str:
    return " ".join(text.split())


def _lengths(encoder: Encoder, texts: set[str]) -> dict[str, int]:
    """Tokens of each text, special ones included, before any cut."""
    if not texts:
        return {}
    known = sorted(texts)
    spaced = [_spaced(encoder.tokenizer, text) for text in known]
    ids = encoder.tokenizer(spaced, truncation=False, verbose=False)["input_ids"]
    return {text: len(row) for text, row in zip(known, ids, strict=True)}


def _spaced(tokenizer: Any, text: str) -> str:
    """With a space in front where the library asks the tokenizer for one."""
    from transformers import GPT2Tokenizer, RobertaTokenizer

    return f" {text}" if text and isinstance(tokenizer, (GPT2Tokenizer, RobertaTokenizer)) else text
