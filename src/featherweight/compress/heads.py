"""Attention: which key-value groups matter, and the model with the others cut out.

A group is one key and value head and the query heads that read it: they go together, so every query
head keeps its keys. All blocks keep equally many groups, as a plain config demands, each its own
most important ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from featherweight.compress.calibrate import Masks
from featherweight.compress.structure import configs, copied, stacks
from featherweight.compress.width import Importance, smaller_linear
from featherweight.errors import CompressError

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")


class GroupMeter:
    """Sums over tokens of the length of what each group hands to o_proj, taken by hooks.

    Importance of a head is the L2 norm of its output (Minitron, arXiv 2407.14679, eq. 1), of a
    group the sum over its heads.
    """

    def __init__(self, model: Any, masks: Masks) -> None:
        groups, self._size = model.config.num_key_value_heads, head_size(model)
        self._sums = {
            name: [torch.zeros(groups, dtype=torch.float64) for _ in stack.blocks]
            for name, stack in stacks(model).items()
        }
        self._masks = masks
        self._hooks = [
            attention(model, block).o_proj.register_forward_pre_hook(self._hook(name, index))
            for name, stack in stacks(model).items()
            for index, block in enumerate(stack.blocks)
        ]

    def _hook(self, name: str, index: int) -> Any:
        def hook(_linear: Any, args: Any) -> None:
            real = args[0][self._masks[name]].float()
            groups = len(self._sums[name][index])
            lengths = real.view(len(real), groups, -1, self._size).norm(dim=-1)
            self._sums[name][index] += lengths.sum(dim=(0, 2)).double().cpu()

        return hook

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def importance(self) -> Importance:
        """For every group; only the order within a block means something."""
        return self._sums


def attention(model: Any, block: Any) -> Any:
    """The attention of one of the model's blocks; raises `CompressError` for one we do not know."""
    found: Any = getattr(block, "self_attn", None)
    parts: list[Any] = [getattr(found, name, None) for name in NAMES]
    known = all(type(part) is torch.nn.Linear for part in parts)
    if known:
        cut = {id(own) for part in parts for own in part.parameters()}
        # a norm of each head's numbers stays as it is, one over all heads (OLMo 2) would not
        rest = [one for one in found.parameters() if id(one) not in cut]
        known = all(one.numel() <= head_size(model) for one in rest)
    if not known:
        raise CompressError(
            f"{model.config.model_type}: its attention is not known here, so no key-value groups "
            f"can be cut; known is one of {', '.join(NAMES)} alone, leave kv out."
        )
    return found


def head_size(model: Any) -> int:
    """Numbers of a head: what the config says, else the width by the number of heads."""
    config = model.config
    size = getattr(config, "head_dim", None)
    return int(size or config.hidden_size // config.num_attention_heads)


def check_groups(model: Any, kv: int) -> None:
    """Raise `CompressError` where the model cannot keep `kv` groups, with the nearest that it can.

    A Llama config wants a width that the number of heads divides, whatever the size of a head.
    """
    config = model.config
    if config.is_encoder_decoder:
        raise CompressError(
            f"{config.model_type}: all its blocks share one position bias by head, so heads cannot "
            "go in each block apart; leave kv out."
        )
    for stack in stacks(model).values():
        for block in stack.blocks:
            attention(model, block)
    have, heads, hidden = (
        config.num_key_value_heads,
        config.num_attention_heads,
        config.hidden_size,
    )
    fits = [n for n in range(1, have + 1) if hidden % (n * heads // have) == 0]
    if kv not in fits:
        fewer = [n for n in fits if n < have]
        nearest = min(fewer, key=lambda n: (abs(n - kv), n), default=None)
        advice = "none can go; leave kv out" if nearest is None else f"the nearest is kv={nearest}"
        raise CompressError(
            f"kv={kv} does not fit: {config.model_type} here has {have} key-value groups of "
            f"{heads // have} heads, and a width of {hidden} that the heads must divide; {advice}."
        )


def cut_groups(model: Any, keep: Mapping[str, Sequence[torch.Tensor]]) -> Any:
    """A copy of the model that has the key-value groups `keep` only; the given one stays as it is.

    `keep` has for each stack and block int64 [K], K the same everywhere. The copy's config states
    the numbers of heads and the size of one.
    """
    size, config = head_size(model), model.config
    heads = config.num_attention_heads // config.num_key_value_heads
    smaller: dict[Any, Any] = {}
    count = 0
    for name, stack in stacks(model).items():
        for block, groups in zip(stack.blocks, keep[name], strict=True):
            one = attention(model, block)
            count = len(groups)
            keys, queries = _rows(groups, size), _rows(groups, size * heads)
            for part, rows, dim in (
                (one.q_proj, queries, 0),
                (one.k_proj, keys, 0),
                (one.v_proj, keys, 0),
                (one.o_proj, queries, 1),
            ):
                smaller[part] = smaller_linear(part, rows, dim)
    student = copied(model, smaller)
    for config in configs(student):
        config.num_key_value_heads = count
        config.num_attention_heads = count * heads
        config.head_dim = size
    return student


def _rows(groups: torch.Tensor, size: int) -> torch.Tensor:
    """The rows of those groups, `size` each."""
    return (groups[:, None] * size + torch.arange(size)).flatten()
