"""Soft prompts in front of a model's input, one chosen for each input (IDP, arXiv 2310.00867).

A bank holds m prompts of n vectors. They stand at the same positions and cannot see each other, so
their keys and values are computed once, when the bank is opened; an input is put behind those of
one prompt. Which one is decided by how well the input's queries meet prompts' keys in one layer:

    score_k = mean over heads, input tokens and keys of prompt k of q.k

*Layer 0*: queries need only the embeddings, so the choice is made before any attention and the
output is the chosen prompt's own, exactly. *A deeper layer*: the input reads all prompts up to
there. In two passes it is then read again behind the winner alone (exact); in one pass it goes on
with the losers masked (approximate, since the layers below saw them). B rows, T tokens.
"""

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache

from featherweight.errors import EngineError

BANK, TENSORS = "bank.json", "prompts.safetensors"
VERSION = 1
KNOWN = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")
"""Architectures whose queries are computed here as they compute them: rotated half by half."""
Tokens = Literal["all", "last"]


@dataclass(frozen=True)
class Selection:
    """How the prompt is chosen.

    `first_key`: whether a prompt's first key counts, which draws attention from everywhere.
    `passes` matters above layer 0 only. `usual` [m], where it is given, is each prompt's mean score
    on what all learnt from, and is subtracted: a prompt whose keys are long wins everywhere else.
    """

    layer: int = 0
    tokens: Tokens = "all"
    first_key: bool = True
    passes: int = 2
    usual: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.layer < 0 or self.tokens not in get_args(Tokens) or self.passes not in (1, 2):
            raise EngineError(
                f"no prompt is chosen by {self}; layer is 0 or more, tokens all or last, passes 1 "
                "or 2."
            )


@dataclass(frozen=True)
class Stored:
    """A bank as it lies on disk.

    `prompts` [m, n, e] are embeddings; or `keys` and `values` [m, layers, heads, n, d] are what
    prefix tuning learnt itself. `base` names the model and `weights` is its digest.
    """

    base: str
    weights: str | None
    selection: Selection
    tensors: dict[str, Tensor]

    @property
    def m(self) -> int:
        return len(next(iter(self.tensors.values())))

    @property
    def n(self) -> int:
        return int(next(iter(self.tensors.values())).shape[-2])


def is_bank(folder: Path) -> bool:
    """Whether a directory holds a prompt bank, which needs its base model."""
    return (folder / BANK).is_file()


def read_bank(name: str, folder: Path) -> Stored:
    """The bank of a directory; raises `EngineError` where it is not whole."""
    try:
        facts = json.loads((folder / BANK).read_bytes())
        if facts["version"] != VERSION:
            raise EngineError(
                f"{name} is a prompt bank of version {facts['version']}, this featherweight reads "
                f"{VERSION}; make it again."
            )
        tensors = load_file(folder / TENSORS)
        stored = Stored(
            str(facts["base"]), facts["weights"], _selection(facts["selection"]), dict(tensors)
        )
        if set(tensors) not in ({"prompts"}, {"keys", "values"}) or not stored.m or not stored.n:
            raise KeyError(f"prompts in {TENSORS}")
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError(f"NaN or infinity in {TENSORS}")
    except (OSError, LookupError, ValueError, TypeError, StopIteration, SafetensorError) as error:
        why = " ".join(str(error).split())[:200]
        raise EngineError(
            f"{name} holds no whole prompt bank ({why}); make it again with `featherweight repair`."
        ) from None
    return stored


def _selection(facts: dict[str, Any]) -> Selection:
    return Selection(**facts | {"usual": tuple(map(float, facts["usual"]))})


def bank_facts(stored: Stored) -> bytes:
    """What bank.json says."""
    facts = {
        "version": VERSION,
        "base": stored.base,
        "weights": stored.weights,
        "m": stored.m,
        "n": stored.n,
        "selection": asdict(stored.selection),
    }
    return json.dumps(facts, indent=2).encode() + b"\n"


def unfit(config: Any) -> str:
    """Why no prompt can stand before a model of this config; empty where one can.

    Layers that see only the last tokens lose sight of it, and sooner where rows are padded.
    """
    if config.model_type not in KNOWN:
        return f"prompts stand before {', '.join(KNOWN)}, not before {config.model_type}"
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if any(kind != "full_attention" for kind in kinds) if kinds else window is not None:
        return f"a prompt must be seen by every token, and layers here see the last {window} alone"
    return ""


class Bank:
    """A bank over a model in memory: chooses prompts and hands out their keys and values."""

    def __init__(self, model: Any, stored: Stored, name: str) -> None:
        """Raises `EngineError` for an architecture that is not known or tensors that do not fit."""
        if why := unfit(model.config):
            raise EngineError(f"{name}: {why}; name a bank over another model.")
        self.m, self.n, self.selection = stored.m, stored.n, stored.selection
        self.parameters = sum(tensor.numel() for tensor in stored.tensors.values())
        self._model, self._layers = model, model.model.layers
        if self.selection.layer >= len(self._layers):
            raise EngineError(
                f"{name} chooses at layer {self.selection.layer}, the model has layers 0 to "
                f"{len(self._layers) - 1}; it was made for another model."
            )
        if len(self.selection.usual) not in (0, self.m):
            raise EngineError(
                f"{name} has {self.m} prompts and the usual scores of {len(self.selection.usual)}; "
                "make it again with `featherweight repair`."
            )
        try:
            self._keys, self._values = _computed(model, stored)
        except (RuntimeError, ValueError, IndexError) as error:
            why = " ".join(str(error).split())[:200]
            raise EngineError(
                f"{name}: its prompts do not fit the model ({why}); it was made for another."
            ) from None
        self._usual = torch.tensor(self.selection.usual or [0.0] * self.m, device=model.device)
        keys = self._keys[self.selection.layer]
        counted = keys[:, :, (0 if self.selection.first_key or self.n == 1 else 1) :]
        self._mean_keys = counted.float().mean(2)  # [m, heads, d]: the score is linear in keys

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def choose(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The winner for each row: int64 [B]. Rows are padded on the left."""
        if self.m == 1:
            return torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
        return self.scores(ids, mask).argmax(1)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def scores(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Every prompt's score for each row: float32 [B, m]."""
        layer, cache, wide = self.selection.layer, None, mask
        if layer:
            cache, wide = self._all(len(ids)), _prefixed(mask, self.m * self.n)
        found: list[Tensor] = []

        def note(_block: Any, args: Any, kwargs: Any) -> None:
            found.append(self._scored(args[0], kwargs["position_embeddings"], mask))
            raise _Seen

        hook = self._layers[layer].register_forward_pre_hook(note, with_kwargs=True)
        try:
            self._model.model(
                input_ids=ids,
                attention_mask=wide,
                position_ids=positions(mask, self.n),
                past_key_values=cache,
                use_cache=cache is not None,
            )
        except _Seen:
            pass
        finally:
            hook.remove()
        return found[0]

    def _scored(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Scores [B, m] from what the layer reads [B, T, H]."""
        block = self._layers[self.selection.layer]
        attention = block.self_attn
        rows, length = hidden.shape[:2]
        queries = attention.q_proj(block.input_layernorm(hidden))
        queries = queries.view(rows, length, -1, attention.head_dim)
        if (norm := getattr(attention, "q_norm", None)) is not None:
            queries = norm(queries)
        cos, sin = (part[:, :, None].float() for part in rotary)
        queries = queries.float()
        half = queries.shape[-1] // 2
        turned = torch.cat([-queries[..., half:], queries[..., :half]], -1)
        queries = queries * cos + turned * sin
        if self.selection.tokens == "last":
            mean = queries[:, -1]
        else:
            real = mask[:, :, None, None].float()
            mean = (queries * real).sum(1) / real.sum(1)
        heads = self._mean_keys.shape[1]
        grouped = mean.view(rows, heads, -1, mean.shape[-1]).mean(2)  # the heads that share keys
        scores: Tensor = torch.einsum("bhd,mhd->bm", grouped, self._mean_keys) / heads
        return scores - self._usual

    def cache(self, winners: Tensor) -> Any:
        """A cache that holds each row's prompt."""
        return self._filled([(k[winners], v[winners]) for k, v in self._pairs()])

    def _all(self, rows: int) -> Any:
        """A cache that holds all prompts for every row."""

        def joined(part: Tensor) -> Tensor:
            wide = part.transpose(0, 1).flatten(1, 2)  # [heads, m*n, d]
            return wide[None].expand(rows, -1, -1, -1)

        return self._filled([(joined(k), joined(v)) for k, v in self._pairs()])

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self._keys, self._values, strict=True))

    def _filled(self, layers: list[tuple[Tensor, Tensor]]) -> Any:
        cache = DynamicCache()
        for index, (keys, values) in enumerate(layers):
            cache.update(keys, values, index)
        return cache

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def read_once(self, ids: Tensor, mask: Tensor) -> tuple[Any, Tensor, Tensor]:
        """One pass: all prompts below the layer, the winner's from it on.

        Returns the cache (each row's prompt and input), the winners [B] and the next token's
        logits [B, V].
        """
        rows, length = ids.shape
        every = self.m * self.n
        dtype = self._model.dtype
        wide = _four_dimensional(_prefixed(mask, every), length, dtype)
        winners: list[Tensor] = []

        def decide(_block: Any, args: Any, kwargs: Any) -> None:
            winners.append(self._scored(args[0], kwargs["position_embeddings"], mask).argmax(1))

        def narrow(_block: Any, args: Any, kwargs: Any) -> Any:
            theirs = torch.arange(self.m, device=ids.device).repeat_interleave(self.n)
            lost = theirs[None] != winners[0][:, None]  # [B, m*n]
            seen = kwargs["attention_mask"].clone()
            never = torch.finfo(dtype).min
            seen[..., :every].masked_fill_(lost[:, None, None], never)
            return args, kwargs | {"attention_mask": seen}

        with ExitStack() as stack:
            first = self._layers[self.selection.layer]
            hooks = [first.register_forward_pre_hook(decide, with_kwargs=True)]
            hooks += [
                block.register_forward_pre_hook(narrow, with_kwargs=True)
                for block in self._layers[self.selection.layer :]
            ]
            for hook in hooks:
                stack.callback(hook.remove)
            out = self._model(
                input_ids=ids,
                attention_mask=wide,
                position_ids=positions(mask, self.n),
                past_key_values=self._all(rows),
                use_cache=True,
                logits_to_keep=1,
            )
        begin = winners[0][:, None] * self.n + torch.arange(self.n, device=ids.device)
        own = torch.arange(every, every + length, device=ids.device).expand(rows, -1)
        kept = torch.cat([begin, own], 1)[:, None, :, None]

        def taken(part: Tensor) -> Tensor:
            index = kept.expand(-1, part.shape[1], -1, part.shape[3])
            return part.gather(2, index)

        layers = [(taken(one.keys), taken(one.values)) for one in out.past_key_values.layers]
        return self._filled(layers), winners[0], out.logits[:, -1]


class _Seen(Exception):
    """Raised by a hook: what the rest of the forward would compute is not needed."""


def positions(mask: Tensor, before: int) -> Tensor:
    """Positions [B, T] of rows padded on the left that begin after `before` others."""
    return (mask.cumsum(-1) - 1).clamp(min=0) + before


def _prefixed(mask: Tensor, count: int) -> Tensor:
    return torch.cat([mask.new_ones(len(mask), count), mask], 1)


def _four_dimensional(mask: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Additive [B, 1, length, K] for the last `length` of K places, from which are real [B, K]."""
    total = mask.shape[1]
    before = torch.ones(length, total, dtype=torch.bool, device=mask.device).tril(total - length)
    seen = before[None, None] & mask.bool()[:, None, None]
    # a padded place sees itself, or its softmax would be over nothing
    seen |= torch.eye(length, total, dtype=torch.bool, device=mask.device).roll(total - length, 1)
    zero = torch.zeros((), dtype=dtype, device=mask.device)
    return torch.where(seen, zero, torch.finfo(dtype).min)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _computed(model: Any, stored: Stored) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of every layer, each [m, heads, n, d], in the model's precision."""
    where: dict[str, Any] = {"device": model.device, "dtype": model.dtype}
    if stored.n >= (holds := model.config.max_position_embeddings):
        raise ValueError(f"{stored.n} places where the model holds {holds}")
    if "keys" in stored.tensors:
        keys, values = (stored.tensors[part].to(**where) for part in ("keys", "values"))
        config = model.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        fits = (len(model.model.layers), config.num_key_value_heads, stored.n, size)
        if keys.shape[1:] != fits or values.shape != keys.shape:
            raise ValueError(f"keys of {tuple(keys.shape[1:])} where {fits} belong")
        return list(keys.unbind(1)), list(values.unbind(1))
    prompts = stored.tensors["prompts"].to(**where)
    # one by one: as rows of one product a prompt's last bits could hang on how many there are
    caches = [model.model(inputs_embeds=p[None], use_cache=True).past_key_values for p in prompts]
    layers = list(zip(*(cache.layers for cache in caches), strict=True))
    keys = [torch.cat([one.keys for one in layer]) for layer in layers]
    return keys, [torch.cat([one.values for one in layer]) for layer in layers]
