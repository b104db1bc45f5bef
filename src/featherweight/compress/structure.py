"""Where a model keeps its blocks and MLPs, and copies of it that have fewer or smaller ones.

Two structures are known: Llama's (`model.model.layers`, also Qwen, Mistral, Gemma and kin) and T5's
(`encoder.block`, `decoder.block`). Any other is refused by name, since a cut in the wrong place
would give a model that runs and is wrong.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from featherweight.errors import CompressError

ENCODER, DECODER = "encoder", "decoder"
TIED_LAYERS = ("hidden_size_per_layer_input", "num_kv_shared_layers")
"""Config fields of models whose blocks share tables or keys (Gemma 3n): one cannot go alone."""
MLPS = (
    # inputs whose rows are the neurons, output whose columns are; the first that fits is taken
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("wi_0", "wi_1"), "wo"),
    (("wi",), "wo"),
)


@dataclass(frozen=True)
class Stack:
    """Blocks that follow one another: `owner` holds them in its ModuleList `name`."""

    owner: Any
    name: str

    @property
    def blocks(self) -> Any:
        """The ModuleList."""
        return getattr(self.owner, self.name)


@dataclass(frozen=True)
class Mlp:
    """A block's feed-forward part of I neurons and H outputs.

    `inputs` are linears with weights [I, H], `output` is one with [H, I]; both belong to `owner`.
    """

    owner: Any
    inputs: tuple[Any, ...]
    output: Any


def stacks(model: Any) -> dict[str, Stack]:
    """The stacks of a transformers language model: "decoder", of T5 "encoder" before it.

    Raises `CompressError` for a structure that is not known and for quantised weights.
    """
    config, kind = model.config, model.config.model_type
    if getattr(config, "quantization_config", None) is not None:
        raise CompressError(
            f"{kind}: the weights are quantised; cut the unquantised model, quantise afterwards."
        )
    for name in TIED_LAYERS:
        if getattr(config, name, None):
            raise CompressError(
                f"{kind}: its blocks depend on one another ({name}), so none can be cut out; "
                "choose a model without that."
            )
    if config.is_encoder_decoder:
        found = {
            ENCODER: Stack(getattr(model, "encoder", None), "block"),
            DECODER: Stack(getattr(model, "decoder", None), "block"),
        }
        counts = [getattr(config, name, 0) for name in ("num_layers", "num_decoder_layers")]
    else:
        found = {DECODER: Stack(getattr(model, "model", None), "layers")}
        counts = [getattr(config, "num_hidden_layers", 0)]
    for stack, count in zip(found.values(), counts, strict=True):
        blocks = getattr(stack.owner, stack.name, None)
        if not isinstance(blocks, torch.nn.ModuleList) or len(blocks) != count:
            raise CompressError(
                f"{kind}: its structure is not known here; pruning knows Llama's (model.layers: "
                "Llama, Qwen, Mistral, Gemma) and T5's (encoder.block, decoder.block)."
            )
    return found


def mlp(model: Any, block: Any) -> Mlp:
    """The MLP of one of the model's blocks; raises `CompressError` where there is none we know."""
    if model.config.is_encoder_decoder:
        owner = getattr(block.layer[-1], "DenseReluDense", None)
    else:
        owner = getattr(block, "mlp", None)
    for names, last in MLPS:
        parts = [getattr(owner, name, None) for name in (*names, last)]
        # of this very class: quantised and adapted linears keep their weights elsewhere
        if all(type(part) is torch.nn.Linear for part in parts):
            return Mlp(owner, tuple(parts[:-1]), parts[-1])
    raise CompressError(
        f"{model.config.model_type}: its MLP is not known here, so the width cannot be cut; known "
        "are gate_proj, up_proj, down_proj and T5's wi, wo. Leave the width as it is."
    )


def copied(model: Any, replaced: Mapping[Any, Any]) -> Any:
    """A copy with memory of its own, in which the modules of `replaced` are others.

    What is replaced is not copied. Tensors that are tied stay tied.
    """
    return copy.deepcopy(model, {id(old): new for old, new in replaced.items()})


def configs(module: Any) -> Iterator[Any]:
    """Every config below a module, each once: T5's stacks have their own."""
    found = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    yield from found.values()


def check_finite(model: Any) -> None:
    """Raise `CompressError` where a weight is no number: what is measured of it would be none."""
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise CompressError(f"{name} holds NaN or infinity; mend the model first.")


def parameters(model: Any) -> int:
    """Number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())
