"""Displaced or forgotten? How like the uncompressed model's each layer's work is, text by text.

Two models of the same architecture read the same tokens, one of them perhaps behind a soft prompt.
Attention is compared on the text's own tokens (the block from text to text; a prompt's share is
left out), activations after each block (after the last one's norm too): a cosine for each token,
averaged over a text's. L layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from featherweight.engines.hf_bank import positions


@dataclass(frozen=True)
class Similarity:
    """Mean cosines, each [texts, L] float64: of attention rows over all heads, of activations."""

    attention: Tensor
    activations: Tensor


def similarity(reference: Any, model: Any, texts: Sequence[Sequence[int]]) -> Similarity:
    """How like `reference`'s the layers of `model` work on each text of token ids.

    A prompt bank on `model` (`prompt_bank`) puts each text behind the prompt that it chooses.
    """
    attention, activations = [], []
    with eager(reference), eager(model):
        for text in texts:
            first, second = _read(reference, text), _read(model, text)
            pairs = list(zip(first, second, strict=True))
            attention.append(torch.stack([_cosine(a[0], b[0]) for a, b in pairs]))
            activations.append(torch.stack([_cosine(a[1], b[1]) for a, b in pairs]))
    return Similarity(torch.stack(attention), torch.stack(activations))


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Mean over tokens of the cosine between rows [T, ...]."""
    flat = (part.flatten(1).double() for part in (one, other))
    return cosine_similarity(*flat, dim=1).mean()


@torch.no_grad()  # type: ignore[untyped-decorator]
def _read(model: Any, text: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """For every layer attention [T, heads, T] and what its block writes [T, H]."""
    ids = torch.tensor([list(text)], device=model.device)
    mask = torch.ones_like(ids)
    bank = getattr(model, "prompt_bank", None)
    before, cache = 0, None
    if bank is not None:
        before, cache = bank.n, bank.cache(bank.choose(ids, mask))
    out = model.model(
        input_ids=ids,
        attention_mask=torch.cat([mask.new_ones(1, before), mask], 1),
        position_ids=positions(mask, before),
        past_key_values=cache,
        use_cache=cache is not None,
        output_attentions=True,
        output_hidden_states=True,
    )
    written = out.hidden_states[1:]
    return [
        (weights[0, :, :, before:].transpose(0, 1), states[0])
        for weights, states in zip(out.attentions, written, strict=True)
    ]


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Inside, attention is computed in the way that tells its weights."""
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
