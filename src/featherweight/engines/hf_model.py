"""The forwards of a transformers model: read prompts, go one token on, score a text.

Rows of a batch differ in length, so a decoder-only model's are padded on the left and told their
positions; an encoder-decoder's are padded on the right. B rows, T tokens, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig

from featherweight.engines.hf_bank import Bank, positions
from featherweight.engines.hf_prompts import Encoded
from featherweight.errors import EngineError

RELATIVE_CONTEXT = 4096  # for models without a position table (T5): no hard limit, memory decides


@dataclass
class State:
    """What a batch has read so far."""

    cache: Any
    mask: torch.Tensor  # [B, T], the encoder's for an encoder-decoder
    positions: Any  # [B, 1] of the next token; None for an encoder-decoder
    encoded: torch.Tensor | None  # [B, T, H], the encoder's output
    chosen: torch.Tensor | None = None  # [B], which soft prompt each row was put behind

    def rows(self, live: list[int]) -> "State":
        """These rows, each as often as it is named, as a state of their own."""
        cache = copy(self.cache)
        cache.layers = [copy(layer) for layer in self.cache.layers]  # new tensors replace theirs
        taken = replace(self, cache=cache)
        taken.keep(live)
        return taken

    def keep(self, live: list[int]) -> None:
        """Drop every row that is not in `live`."""
        index = torch.tensor(live, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]
        if self.positions is not None:
            self.positions = self.positions[index]
        if self.encoded is not None:
            self.encoded = self.encoded[index]
        if self.chosen is not None:
            self.chosen = self.chosen[index]


class Model:
    """A loaded model, decoder-only or encoder-decoder (`seq2seq`)."""

    def __init__(self, raw: Any, name: str) -> None:
        self.raw = raw.eval()
        self.config = raw.config.get_text_config()
        self.seq2seq = bool(raw.config.is_encoder_decoder)
        self.name = name
        self._accepts = set(inspect.signature(_bare(raw).forward).parameters)
        self.bank: Bank | None = getattr(raw, "prompt_bank", None)

    @property
    def device(self) -> Any:
        return self.raw.device

    def prefill(self, prompts: Sequence[Encoded]) -> tuple[State, torch.Tensor]:
        """Read the prompts: the state, and the next token's logits [B, V].

        An encoder-decoder's prompts must have beginnings of one length.
        """
        ids, mask = pad([p.ids for p in prompts], left=not self.seq2seq, device=self.device)
        if self.seq2seq:
            encoded = self._call(self.raw.get_encoder(), input_ids=ids, attention_mask=mask)
            start = self.decoder_start()
            decoder = torch.tensor([start + p.beginning for p in prompts], device=self.device)
            state = State(None, mask, None, encoded.last_hidden_state)
            out = self._decoder(state, decoder)
        elif self.bank is not None:
            return self._prefill_behind(self.bank, ids, mask)
        else:
            places = positions(mask, 0)
            out = self.forward(ids, mask, places, None, keep=1)
            state = State(None, mask, places[:, -1:] + 1, None)
        state.cache = self._cache(out)
        return state, out.logits[:, -1].float()

    def _prefill_behind(
        self, bank: Bank, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[State, torch.Tensor]:
        """Each row behind the soft prompt that is chosen for it."""
        places = positions(mask, bank.n)
        whole = torch.cat([mask.new_ones(len(mask), bank.n), mask], dim=1)
        state = State(None, whole, places[:, -1:] + 1, None)
        if bank.selection.layer and bank.selection.passes == 1 and bank.m > 1:
            state.cache, state.chosen, logits = bank.read_once(ids, mask)
            return state, logits.float()
        state.chosen = bank.choose(ids, mask)
        out = self.forward(ids, whole, places, bank.cache(state.chosen), keep=1)
        state.cache = self._cache(out)
        return state, out.logits[:, -1].float()

    def advance(self, state: State, tokens: list[int]) -> torch.Tensor:
        """One more token for every row; the next logits [B, V]."""
        column = torch.tensor(tokens, device=self.device)[:, None]
        if state.encoded is not None:
            out = self._decoder(state, column)
        else:
            state.mask = torch.cat([state.mask, torch.ones_like(column)], dim=1)
            out = self.forward(column, state.mask, state.positions, state.cache, keep=1)
            state.positions += 1
        state.cache = out.past_key_values
        return out.logits[:, -1].float()

    def read(self, state: State, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Several more tokens [B, T] for every row of a decoder-only model: logits [B, T, V]."""
        state.mask = torch.cat([state.mask, mask], dim=1)
        steps = torch.arange(ids.shape[1], device=self.device)
        out = self.forward(ids, state.mask, state.positions + steps, state.cache, ids.shape[1])
        state.cache = out.past_key_values
        state.positions = state.positions + ids.shape[1]
        logits: torch.Tensor = out.logits
        return logits

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: Any, cache: Any, keep: int
    ) -> Any:
        """A decoder-only forward that holds only the last `keep` rows of logits."""
        extra: dict[str, Any] = {}
        if "position_ids" in self._accepts:
            extra["position_ids"] = positions
        if "logits_to_keep" in self._accepts:
            extra["logits_to_keep"] = keep
        return self._call(
            self.raw,
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **extra,
        )

    def teacher_forced(
        self, ids: torch.Tensor, mask: torch.Tensor, decoder: torch.Tensor
    ) -> torch.Tensor:
        """An encoder-decoder's logits [B, T, V] for given decoder inputs [B, T]."""
        out = self._call(
            self.raw, input_ids=ids, attention_mask=mask, decoder_input_ids=decoder, use_cache=False
        )
        logits: torch.Tensor = out.logits
        return logits

    def decoder_start(self) -> list[int]:
        """What the decoder reads before its first own token (BART and kin force a second one)."""
        settings: GenerationConfig = self.raw.generation_config
        start = settings.decoder_start_token_id
        if start is None:
            start = self.config.decoder_start_token_id
        if start is None:
            raise EngineError(
                f"{self.name}: its config names no decoder_start_token_id; add it to config.json."
            )
        forced = settings.forced_bos_token_id
        return [start] if forced is None else [start, forced]

    def end_ids(self, tokenizer: Any) -> frozenset[int]:
        """Every token that ends an answer: the model's own list, and the tokenizer's end token."""
        ids: set[int] = set()
        for value in (self.raw.generation_config.eos_token_id, tokenizer.eos_token_id):
            ids.update([value] if isinstance(value, int) else value or [])
        return frozenset(ids)

    def context_length(self, tokenizer: Any) -> int:
        """The position table's size, else the tokenizer's limit."""
        if hasattr(self.config, "relative_attention_num_buckets"):
            return RELATIVE_CONTEXT
        for key in ("max_position_embeddings", "n_positions"):
            value = getattr(self.config, key, None)
            if isinstance(value, int) and value > 0:
                return value - (self.bank.n if self.bank else 0)
        limit = int(tokenizer.model_max_length)
        return RELATIVE_CONTEXT if limit > 10**9 else limit

    def _decoder(self, state: State, decoder: torch.Tensor) -> Any:
        return self._call(
            self.raw,
            encoder_outputs=(state.encoded,),
            attention_mask=state.mask,
            decoder_input_ids=decoder,
            past_key_values=state.cache,
            use_cache=True,
        )

    @staticmethod
    def _call(module: Any, **inputs: Any) -> Any:
        """A forward without gradients; never held open across a `yield`, where it would leak."""
        with torch.inference_mode():
            return module(**inputs)

    def _cache(self, out: Any) -> Any:
        """The key-value cache, if rows can be taken out of it (not of state-space layers)."""
        cache = getattr(out, "past_key_values", None)
        layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", None)
        if not layers or not all(hasattr(layer, "batch_select_indices") for layer in layers):
            raise EngineError(
                f"{self.name}: the model keeps no key-value cache that featherweight can use; "
                "choose a model whose layers are all attention."
            )
        return cache


def pad(rows: Sequence[list[int]], left: bool, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both [B, T] int64, padded with token 0 on one side."""
    width = max(map(len, rows))
    gaps = [[0] * (width - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]
    sides = [(gap, ids, one) for gap, ids, one in zip(gaps, rows, ones, strict=True)]
    ids = [gap + row if left else row + gap for gap, row, _ in sides]
    mask = [gap + one if left else one + gap for gap, _, one in sides]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _bare(raw: Any) -> Any:
    """The model below a PEFT wrapper, whose `forward` tells what it accepts."""
    return raw.get_base_model() if hasattr(raw, "peft_config") else raw
