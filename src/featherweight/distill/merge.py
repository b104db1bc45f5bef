"""A trained directory opened for export: a model in float32, its LoRA merged in and checked.

Merging is W + s B A (and DoRA's rescaling), done by peft in float32. Tied embeddings are separated
before it, or a LoRA on one of the two would change both, and tied again where they stayed equal.
What peft computes with the adapter beside the weights is the oracle: a merge that answers otherwise
is refused.
"""

import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from featherweight.engines import hf_open
from featherweight.engines.hf_bank import is_bank
from featherweight.engines.load import missing
from featherweight.engines.packed import is_packed
from featherweight.errors import EngineError

PROBE = (
    "The committee met on Monday, 14 March 2022, to talk about the new remote control. Priya said "
    'that it costs 12.50 euros to make; Tom didn\'t agree. "Who decides?" she asked.\n\nNobody '
    "answered, so they voted: 3 for, 2 against. Größe, naïve, 東京, x = y_1 + 2;"
)
"""A text with digits, quotes, accents and a name or two; 88 tokens of SmolLM2."""

MERGE_TOLERANCE = 1e-3  # of the largest logit: float32 keeps a hundred times more
FLOATS = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
OTHER_WAYS = (  # of peft's LoRA that a merge leaves out, or that nobody has tried here
    "alora_invocation_tokens",
    "layer_replication",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)


@dataclass(frozen=True)
class Place:
    """Where the parts of a model lie: `base` is `folder` unless that is an adapter."""

    name: str
    folder: Path
    base: Path
    base_name: str

    @property
    def adapter(self) -> bool:
        """Whether it is an adapter over a base."""
        return self.folder != self.base

    @property
    def tokenizer(self) -> Path:
        """The directory that has the tokenizer."""
        return hf_open.tokenizer_folder(self.folder, self.base) if self.adapter else self.folder


@dataclass(frozen=True)
class Opened:
    """A model in float32 on the CPU; `logits` [T, V] of `PROBE`, before a merge if there was one.

    `merge_difference` is the largest difference of a logit that merging made, in float32.
    """

    place: Place
    model: Any
    tokenizer: Any
    logits: torch.Tensor
    merge_difference: float | None


def locate(name: str) -> Place:
    """The directories that `name` stands for; raises `EngineError` for one that is no model."""
    with hf_open.opening(name):
        folder = hf_open.model_folder(name)
        if is_bank(folder):
            raise EngineError(
                f"{name} is a prompt bank, which only hf: reads; export its base instead."
            )
        if not hf_open.is_adapter(folder):
            hf_open.check_weights(name, folder, "model", hf_open.WEIGHTS)
            return Place(name, folder, folder, name)
        hf_open.check_weights(name, folder, "adapter", hf_open.ADAPTER_WEIGHTS)
        base_name, base = hf_open.adapter_base(name, folder)
        if hf_open.is_adapter(base):
            raise EngineError(
                f"{name} is an adapter over another adapter ({base_name}); merge that one first."
            )
        hf_open.check_weights(base_name, base, "model", hf_open.WEIGHTS)
        check_adapter(name, adapter_settings(folder))
        return Place(name, folder, base, base_name)


def adapter_settings(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says."""
    settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return settings


def check_adapter(name: str, settings: dict[str, Any]) -> None:
    """Raise `EngineError` for an adapter that is no LoRA, or one of a kind not handled here."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise EngineError(
            f"{name} is a {kind} adapter, and only LoRA is exported; merge it with peft first."
        )
    if way := next((way for way in OTHER_WAYS if settings.get(way)), None):
        raise EngineError(
            f"{name} is a LoRA with {way}, which is not exported here; merge it with peft first."
        )


def load_config(place: Place) -> Any:
    """The base's config; raises `EngineError` for an encoder-decoder."""
    with hf_open.opening(place.base_name):
        config = hf_open.load_config(place.base)
    if config.is_encoder_decoder:
        raise EngineError(
            f"{place.name} is an encoder-decoder ({config.model_type}), and only decoder-only "
            "models are exported; open it as it is with hf:DIR."
        )
    if is_packed(place.base):
        del config.quantization_config  # opened, the weights are plain numbers
    return config


def load_tokenizer(place: Place) -> Any:
    """The tokenizer that belongs to the model."""
    with hf_open.opening(place.name):
        return hf_open.load_tokenizer(place.name, place.tokenizer)


def load_base(place: Place) -> Any:
    """The base in float32 on the CPU."""
    with hf_open.opening(place.base_name):
        model, _ = hf_open.open_model(str(place.base), torch.float32, "cpu")
    return model.eval()


def load_adapter(place: Place, base: Any) -> Any:
    """`base` with the adapter beside it; raises `EngineError` unless every tensor has its place."""
    try:
        import peft
    except ImportError as error:
        raise missing(error, "train") from None
    with hf_open.opening(place.name), warnings.catch_warnings():
        # deprecations between peft and transformers; and what it says of tied embeddings is done
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(
            base, place.folder, is_trainable=False, autocast_adapter_dtype=True
        )
        here = adapter_keys(place.folder)
        wanted = set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    # peft saves whole embeddings too where tokens were added or a LoRA lies on them, and loads them
    beside = re.compile(r".*\.(embed_tokens|lm_head)(\.base_layer)?\.weight")
    odd = {key for key in here - wanted if not beside.fullmatch(key)}
    if wrong := sorted((wanted - here) | odd):
        raise EngineError(
            f"{place.name} does not fit its base {place.base_name}: {len(wrong)} tensors are "
            f"missing or have no place ({wrong[0]}); check both directories."
        )
    return model.eval()


def adapter_keys(folder: Path) -> set[str]:
    """Names of the tensors in the adapter's files."""
    found: set[str] = set()
    for path in folder.glob(hf_open.ADAPTER_WEIGHTS):
        with safe_open(path, "pt") as file:
            found |= set(file.keys())
    return found


def open_merged(place: Place) -> Opened:
    """The whole model, an adapter merged; raises `EngineError` where merging changes its logits."""
    load_config(place)
    tokenizer = load_tokenizer(place)
    model = load_base(place)
    if not place.adapter:
        return Opened(place, model, tokenizer, probe_logits(model, tokenizer), None)
    tuned = load_adapter(place, model)
    before = probe_logits(tuned, tokenizer)
    merged = merge(place.name, tuned)
    difference = max_difference(before, probe_logits(merged, tokenizer))
    allowed = MERGE_TOLERANCE * max(1.0, float(before.abs().max()))
    if not difference <= allowed:
        raise EngineError(
            f"merging {place.name} changes its logits by {difference:.3g}, more than "
            f"{allowed:.3g}; it is not exported, use it with its base as hf:DIR."
        )
    return Opened(place, merged, tokenizer, before, difference)


def merge(name: str, tuned: Any) -> Any:
    """The base model of a peft model with the adapter in its weights."""
    base = tuned.get_base_model()
    tied = bool(base.config.tie_word_embeddings)
    if tied:
        separate(base)
    with hf_open.opening(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tied embeddings were separated
        merged = tuned.merge_and_unload()
    if tied:
        head, words = merged.get_output_embeddings(), merged.get_input_embeddings()
        same = torch.equal(head.weight, words.weight)
        if same:
            head.weight = words.weight
        merged.config.tie_word_embeddings = same
    return merged.eval()


def separate(model: torch.nn.Module) -> None:
    """Give every module its own copy of a parameter that it shares with another."""
    seen: set[int] = set()
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in seen:
                own = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
                setattr(module, key, own)
                seen.add(id(own))
            seen.add(id(parameter))


def probe_logits(model: Any, tokenizer: Any) -> torch.Tensor:
    """Logits [T, V] of the fixed text; raises `EngineError` where a token has no embedding."""
    ids = tokenizer(PROBE)["input_ids"]
    rows = model.get_input_embeddings().weight.shape[0]
    if max(ids) >= rows:
        raise EngineError(
            f"the tokenizer gives the id {max(ids)}, but the model has {rows} rows of embeddings; "
            "it belongs to another model, or the embeddings must be resized."
        )
    return logits_of(model, ids)


def logits_of(model: Any, ids: Iterable[int]) -> torch.Tensor:
    """Logits [T, V] of token ids [T]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([list(ids)])).logits[0]
    return logits.float()


def max_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest absolute difference; nan where one of the two has one."""
    return float((a - b).abs().max())


def stored_dtype(folder: Path) -> torch.dtype:
    """The type that most of a directory's weights are stored in; of a packed one its model's."""
    if is_packed(folder):
        dtype: torch.dtype = hf_open.load_config(folder).dtype or torch.float32
        return dtype
    sizes: dict[str, int] = {}
    for path in folder.glob(hf_open.WEIGHTS):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  (it is no dictionary)
                part = file.get_slice(key)
                kind = FLOATS.get(part.get_dtype())
                if kind is not None:
                    size = torch.Size(part.get_shape()).numel()
                    sizes[kind] = sizes.get(kind, 0) + size
    most = max(sizes, key=lambda kind: sizes[kind], default="float32")
    found: torch.dtype = getattr(torch, most)
    return found
