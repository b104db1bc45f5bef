"""Depth: how much each block changes what flows through it, and the model without some of them.

Block influence is ShortGPT's (Men et al. 2024, arXiv 2403.03853): BI_l = 1 - mean over tokens of
cos(x_l, x_{l+1}), x_l the input of block l. A block of low influence hands on nearly what it got.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch

from featherweight.compress.calibrate import Masks, Progress, Sample, read
from featherweight.compress.structure import DECODER, ENCODER, configs, copied, stacks
from featherweight.errors import CompressError

PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Config lists with an entry for each block; found by name, since other lists can be as long."""

Influence = dict[str, tuple[float, ...]]


class InfluenceMeter:
    """Sums of 1 - cos(input, output) for every block, added up by hooks while a model reads."""

    def __init__(self, model: Any, masks: Masks) -> None:
        self._sums = {name: [0.0] * len(stack.blocks) for name, stack in stacks(model).items()}
        self._tokens = {name: [0] * len(sums) for name, sums in self._sums.items()}
        self._masks = masks
        self._hooks = [
            block.register_forward_hook(self._hook(name, index), with_kwargs=True)
            for name, stack in stacks(model).items()
            for index, block in enumerate(stack.blocks)
        ]

    def _hook(self, name: str, index: int) -> Any:
        def hook(_block: Any, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            real = self._masks[name]
            cosine = torch.cosine_similarity(before[real].float(), after[real].float(), dim=-1)
            self._sums[name][index] += float((1 - cosine).sum(dtype=torch.float64))
            self._tokens[name][index] += len(cosine)

        return hook

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def influence(self) -> Influence:
        """The mean for every block."""
        return {
            name: tuple(s / max(n, 1) for s, n in zip(sums, self._tokens[name], strict=True))
            for name, sums in self._sums.items()
        }


def block_influence(
    model: Any, samples: Sequence[Sample], progress: Progress | None = None
) -> Influence:
    """Every block's influence by stack ("decoder", of T5 "encoder" too), 0 to 2.

    Cosines are taken in float32, sums in float64; padding does not count. Raises `CompressError`
    for a structure that is not known.
    """
    masks: Masks = {}
    with closing(InfluenceMeter(model, masks)) as meter:
        read(model, samples, masks, progress)
    return meter.influence()


def choose_layers(influence: Sequence[float], keep: int) -> tuple[int, ...]:
    """The `keep` blocks that stay, in order: those of highest influence, first and last always.

    The first makes token embeddings into what all others read (and has T5's position bias), the
    last makes what the head reads; influence is an average of angles and does not know that.
    docs/compress.md has the perplexities with and without this rule. Raises `CompressError` where
    `keep` is not between 2 and the number of blocks.
    """
    count = len(influence)
    if not 2 <= keep <= count:
        raise CompressError(
            f"{keep} layers cannot be kept of {count}; keep 2 (the first and the last always stay) "
            f"to {count}."
        )
    inner = sorted(range(1, count - 1), key=lambda layer: (-influence[layer], layer))
    return tuple(sorted((0, count - 1, *inner[: keep - 2])))


def drop_layers(model: Any, keep: Mapping[str, Sequence[int]]) -> Any:
    """A copy of the model that has the blocks `keep` only; the given one stays as it is.

    `keep` names indices in rising order for each stack; a stack that it leaves out stays whole.
    The copy's config says what it is, so plain transformers opens it once saved. Raises
    `CompressError` for a structure or indices that do not fit, and where T5 would lose block 0,
    whose relative position bias all blocks of its stack use.
    """
    found = stacks(model)
    if unknown := sorted(set(keep) - set(found)):
        raise CompressError(f"there is no stack {unknown[0]!r}; this model has {', '.join(found)}.")
    chosen = {name: list(keep.get(name, range(len(stack.blocks)))) for name, stack in found.items()}
    for name, layers in chosen.items():
        count = len(found[name].blocks)
        fits = bool(layers) and layers == sorted(set(layers)) and layers[0] >= 0
        if not fits or layers[-1] >= count:
            raise CompressError(
                f"layers {layers} cannot be kept of the {name}'s {count}; name each once, in "
                f"rising order, from 0 to {count - 1}."
            )
        if model.config.is_encoder_decoder and layers[0] != 0:
            raise CompressError(
                f"the {name}'s block 0 holds the position bias that the others use; keep it."
            )
    dropped = {
        block: torch.nn.Identity()  # so that they are not copied
        for name, stack in found.items()
        for index, block in enumerate(stack.blocks)
        if index not in set(chosen[name])
    }
    student = copied(model, dropped)
    for name, stack in stacks(student).items():
        blocks = [stack.blocks[index] for index in chosen[name]]
        setattr(stack.owner, stack.name, torch.nn.ModuleList(blocks))
        for index, block in enumerate(blocks):
            for part in block.modules():
                if hasattr(part, "layer_idx"):
                    part.layer_idx = index
    _write_config(student, chosen)
    return student


def _write_config(student: Any, chosen: Mapping[str, Sequence[int]]) -> None:
    """Number of layers and per-layer lists, in every config that the model's parts hold."""
    if not student.config.is_encoder_decoder:
        for config in configs(student):
            for name in PER_LAYER:
                if (values := getattr(config, name, None)) is not None:
                    setattr(config, name, [values[layer] for layer in chosen[DECODER]])
            config.num_hidden_layers = len(chosen[DECODER])
        return
    for config in configs(student):
        config.num_layers = len(chosen[ENCODER])
        config.num_decoder_layers = len(chosen[DECODER])
    for config in configs(student.decoder):  # T5 builds its decoder as a stack of `num_layers`
        config.num_layers = len(chosen[DECODER])
