"""Width: which neurons of the MLPs matter, and the model with the others cut out.

A neuron is a row of the MLP's first matrices and a column of its last. All blocks keep equally
many, as a plain config demands, each its own most important ones.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch

from featherweight.compress.calibrate import Masks, Progress, Sample, read
from featherweight.compress.structure import configs, copied, mlp, stacks
from featherweight.errors import CompressError

MULTIPLE = 64  # quantised formats pack rows in groups of 32 or 64
Importance = dict[str, list[torch.Tensor]]
"""By stack, for each block float64 [I] on the CPU."""


class ImportanceMeter:
    """Sums of |activation| for every neuron, added up by hooks while a model reads."""

    def __init__(self, model: Any, masks: Masks) -> None:
        outputs = {
            name: [mlp(model, block).output for block in stack.blocks]
            for name, stack in stacks(model).items()
        }
        self._sums = {
            name: [torch.zeros(linear.in_features, dtype=torch.float64) for linear in linears]
            for name, linears in outputs.items()
        }
        self._tokens = dict.fromkeys(outputs, 0)
        self._masks = masks
        self._hooks = [
            linear.register_forward_pre_hook(self._hook(name, index))
            for name, linears in outputs.items()
            for index, linear in enumerate(linears)
        ]

    def _hook(self, name: str, index: int) -> Any:
        def hook(_linear: Any, args: Any) -> None:
            real = args[0][self._masks[name]]
            sums = real.float().abs().sum(dim=0)
            self._sums[name][index] += sums.double().cpu()
            self._tokens[name] += len(real) if index == 0 else 0

        return hook

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def importance(self) -> Importance:
        """The mean for every neuron."""
        return {
            name: [one / max(self._tokens[name], 1) for one in sums]
            for name, sums in self._sums.items()
        }


def neuron_importance(
    model: Any, samples: Sequence[Sample], progress: Progress | None = None
) -> Importance:
    """The mean |activation| of every neuron over real tokens, as Minitron measures it.

    Muralidharan et al. 2024, arXiv 2407.14679. Weighing it with the length of the neuron's output
    column sounds better and measured no better (docs/compress.md). Activations are summed in
    float32 within a batch, float64 across. Raises `CompressError` for an MLP that is not known.
    """
    masks: Masks = {}
    with closing(ImportanceMeter(model, masks)) as meter:
        read(model, samples, masks, progress)
    return meter.importance()


def check_neurons(model: Any, ffn: int) -> None:
    """Raise `CompressError` where the MLPs cannot keep `ffn` neurons, with the nearest that fits.

    Multiples of 64 fit, where the model has such a number itself. Raises it too for an MLP that is
    not known, and where blocks differ in width, which a plain config cannot say.
    """
    sizes: set[int] = {
        mlp(model, block).output.in_features
        for stack in stacks(model).values()
        for block in stack.blocks
    }
    if len(sizes) != 1:
        raise CompressError(
            f"{model.config.model_type}: its blocks' MLPs differ in width "
            f"({', '.join(map(str, sorted(sizes)))}); leave ffn out."
        )
    [size] = sizes
    step = MULTIPLE if size % MULTIPLE == 0 else 1
    if ffn > size or ffn % step:
        most = max(step, size - step)  # all of them would be no cut
        nearest = min(most, max(step, round(ffn / step) * step))
        raise CompressError(
            f"ffn={ffn} does not fit: the MLPs here have {size} neurons, and multiples of {step} "
            f"can stay; the nearest is ffn={nearest}."
        )


def choose_neurons(importance: Importance, keep: int) -> dict[str, list[torch.Tensor]]:
    """For each block the indices of its `keep` most important neurons, int64 in rising order.

    Equal ones go by index, so that every machine chooses alike.
    """
    return {
        name: [one.argsort(descending=True, stable=True)[:keep].sort().values for one in blocks]
        for name, blocks in importance.items()
    }


def cut_neurons(model: Any, keep: Mapping[str, Sequence[torch.Tensor]]) -> Any:
    """A copy of the model whose MLPs have the neurons `keep` only; the given one stays as it is.

    `keep` has for each stack and block int64 [K], K the same everywhere. The copy's config says
    what it is. Raises `CompressError` where `keep` does not fit the model.
    """
    found = stacks(model)
    if {name: len(stack.blocks) for name, stack in found.items()} != {
        name: len(blocks) for name, blocks in keep.items()
    } or len({len(one) for blocks in keep.values() for one in blocks}) != 1:
        raise CompressError("the neurons to keep do not fit the model; name K for every block.")
    smaller: dict[Any, Any] = {}
    size = 0
    for name, stack in found.items():
        for block, neurons in zip(stack.blocks, keep[name], strict=True):
            one = mlp(model, block)
            size = len(neurons)
            for linear in one.inputs:
                smaller[linear] = smaller_linear(linear, neurons, 0)
            smaller[one.output] = smaller_linear(one.output, neurons, 1)
    student = copied(model, smaller)
    field = "d_ff" if model.config.is_encoder_decoder else "intermediate_size"
    for config in configs(student):
        setattr(config, field, size)
    for stack in stacks(student).values():
        for block in stack.blocks:
            owner = mlp(student, block).owner
            if hasattr(owner, "intermediate_size"):
                owner.intermediate_size = size
    return student


def smaller_linear(linear: Any, neurons: torch.Tensor, dim: int) -> Any:
    """A linear with those rows (dim 0) or columns (dim 1) of another, copied."""
    index = neurons.to(linear.weight.device)
    weight = linear.weight.detach().index_select(dim, index)
    bias = linear.bias
    made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = torch.nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    if bias is not None:
        kept = bias.detach().clone() if dim else bias.detach().index_select(0, index)
        made.bias = torch.nn.Parameter(kept, requires_grad=bias.requires_grad)
    return made.train(linear.training)
