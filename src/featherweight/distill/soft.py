"""A frozen model behind vectors that learn: a soft prompt, or a prefix of keys and values.

- prompt: n embeddings (Lester et al. 2021, arXiv 2104.08691)
- prefix: n keys and values in every layer (Li and Liang 2021, arXiv 2101.00190), without the
  network that the paper makes them with; they start as those of a prompt

What is learnt stands before the input as a cache, computed once for all rows, so a row keeps its
length and its labels their places. Saved as a prompt bank of one, which `load_engine` opens.
"""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import DynamicCache

from featherweight.engines.hf_bank import (
    BANK,
    TENSORS,
    Bank,
    Selection,
    Stored,
    bank_facts,
    positions,
    unfit,
)
from featherweight.engines.hf_open import WEIGHTS, model_folder
from featherweight.errors import TrainingError
from featherweight.files import digest

SoftKind = Literal["prompt", "prefix"]
SOFT_KINDS: tuple[str, ...] = get_args(SoftKind)


class Soft(nn.Module):  # type: ignore[misc]
    """`model`, frozen, behind `count` learnt places; called as `model` is."""

    def __init__(self, model: Any, base: str, kind: SoftKind, ids: Tensor) -> None:
        """It starts as the tokens `ids` [n]. Raises `TrainingError` for an unfit architecture."""
        super().__init__()
        if why := unfit(model.config):
            raise TrainingError(f"{base}: {why}; learn a LoRA instead.")
        self.base = model.requires_grad_(False)
        self.name = str(Path(base).resolve()) if Path(base).is_dir() else base
        self.config, self.generation_config = model.config, model.generation_config
        start = model.get_input_embeddings()(ids).detach()
        if kind == "prompt":
            self.prompts = nn.Parameter(start.float())
            return
        with torch.no_grad():
            cache = model.model(inputs_embeds=start[None], use_cache=True).past_key_values
        self.keys = nn.Parameter(torch.stack([one.keys[0] for one in cache.layers]).float())
        self.values = nn.Parameter(torch.stack([one.values[0] for one in cache.layers]).float())

    @property
    def device(self) -> Any:
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = self.base.dtype
        return found

    def get_output_embeddings(self) -> Any:
        return self.base.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> Any:
        """As the model's own; without a cache, rows padded on the right stand behind the prompt."""
        if past_key_values is None:
            past_key_values = self._cache(len(input_ids))
            if attention_mask is not None:
                before = past_key_values.get_seq_length()
                position_ids = positions(attention_mask, before)
                ones = attention_mask.new_ones(len(attention_mask), before)
                attention_mask = torch.cat([ones, attention_mask], 1)
        return self.base(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
        )

    def _cache(self, rows: int) -> Any:
        """The learnt keys and values for so many rows, with their graph."""
        if hasattr(self, "prompts"):
            embeds = self.prompts.to(self.dtype)[None]
            one = self.base.model(inputs_embeds=embeds, use_cache=True).past_key_values
            pairs = [(layer.keys, layer.values) for layer in one.layers]
        else:
            pairs = [
                (keys[None].to(self.dtype), values[None].to(self.dtype))
                for keys, values in zip(self.keys, self.values, strict=True)
            ]
        cache = DynamicCache()
        for index, pair in enumerate(pairs):
            cache.update(*(part.expand(rows, -1, -1, -1) for part in pair), index)
        return cache

    def stored(self) -> Stored:
        """What is learnt, as a bank of one."""
        tensors = {
            name: getattr(self, name).detach()[None].float().cpu().contiguous()
            for name in ("prompts", "keys", "values")
            if hasattr(self, name)
        }
        weights = digest(model_folder(self.name).glob(WEIGHTS))
        return Stored(self.name, weights, Selection(), tensors)

    @property
    def prompt_bank(self) -> Bank:
        """For an engine over this very module, while it learns."""
        return Bank(self.base, self.stored(), self.name)


def save_bank(stored: Stored, folder: Path) -> None:
    """Write a bank's two files into `folder`."""
    save_file(stored.tensors, folder / TENSORS, metadata={"format": "pt"})
    (folder / BANK).write_bytes(bank_facts(stored))
