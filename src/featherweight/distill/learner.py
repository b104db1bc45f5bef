"""Student, teacher and objective as one module: its forward is the loss.

The objective runs inside this module's forward, so that DDP and FSDP, which wrap it, see every
parameter used. Models run without their output layer: only rows with a label reach it. In the last
block, what works on each position by itself runs at these rows only, too.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.distill.data import IGNORED
from featherweight.distill.head import Head, head_of
from featherweight.distill.objective import Hidden, Objective, TopK, rows_loss
from featherweight.errors import TrainingError


class Learner(nn.Module):  # type: ignore[misc]
    """`forward` gives {"loss": scalar}; sums for the log are kept in `tally`."""

    accepts_loss_kwargs = True  # the Trainer hands over num_items_in_batch and divides no more

    def __init__(
        self,
        student: Any,
        objective: Objective,
        *,
        name: str,
        teacher: Any = None,
        teacher_head: Head | None = None,
        vocabulary: int | None = None,
    ) -> None:
        """`teacher` is a model in memory, `teacher_head` the head over cached hidden states."""
        super().__init__()
        self.student = student
        self.config = student.config
        self.objective = objective
        self.name = name
        self._unregistered = (teacher, teacher_head)  # not ours to train, save or wrap
        self._vocabulary = vocabulary
        self.tally: dict[str, Tensor] = {}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        decoder_input_ids: Tensor | None = None,
        teacher_hidden: Tensor | None = None,
        teacher_ids: Tensor | None = None,
        teacher_logprobs: Tensor | None = None,
        teacher_tail: Tensor | None = None,
        teacher_correct: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """The loss of a micro-batch as `collate` makes it, divided by `num_items_in_batch`.

        Without that (evaluation) it is divided by the micro-batch's own number of labels.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if decoder_input_ids is not None:
            inputs["decoder_input_ids"] = decoder_input_ids
        rows = (labels.flatten() != IGNORED).nonzero()[:, 0]
        hidden = label_states(self.student, inputs, rows)
        teacher: TopK | Hidden | None = None
        model, head = self._unregistered
        if model is not None:
            with torch.no_grad():
                teacher = Hidden(label_states(model, inputs, rows), head_of(model, "the teacher"))
        elif teacher_hidden is not None and head is not None:
            teacher = Hidden(teacher_hidden, head)
        elif teacher_ids is not None and teacher_logprobs is not None and teacher_tail is not None:
            teacher = TopK(teacher_ids, teacher_logprobs, teacher_tail)
        objective = self.objective
        if not self.training and not _can(objective, teacher, teacher_correct):
            objective = Objective()  # evaluated on what the cache does not cover
        count = len(rows) if num_items_in_batch is None else num_items_in_batch
        count = torch.as_tensor(count, dtype=torch.float32, device=hidden.device).clamp(min=1)
        found = rows_loss(
            objective,
            hidden,
            head_of(self.student, self.name),
            labels.flatten()[rows],
            1.0 / count,
            teacher,
            teacher_correct,
            self._vocabulary,
        )
        self._count(
            tokens=torch.tensor(len(rows), device=hidden.device),
            objective=found.loss * count,
            ce=found.ce,
            kd=found.kd,
            kept=found.kept,
            right=found.right,
        )
        # an empty micro-batch has no rows, but DDP waits for every parameter's gradient
        return {"loss": found.loss + 0.0 * hidden.sum()} if not len(rows) else {"loss": found.loss}

    def _count(self, **sums: Tensor | int) -> None:
        for key, value in sums.items():
            value = torch.as_tensor(value, dtype=torch.float32).detach()
            self.tally[key] = self.tally[key] + value if key in self.tally else value

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        """As of a transformers model."""
        self.student.gradient_checkpointing_enable(**settings)
        if any(p.requires_grad for p in self.student.parameters()):
            self.student.enable_input_require_grads()  # a frozen embedding would cut the graph


def _can(objective: Objective, teacher: object, correct: Tensor | None) -> bool:
    knows = correct is not None or isinstance(teacher, Hidden)
    return (teacher is not None or not objective.needs_teacher) and (
        knows or not objective.needs_correctness
    )


def label_states(model: Any, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Final hidden states [n, H] at `rows` of the flattened [B x T] positions.

    A decoder-only model gets no mask: what `collate` pads stands behind everything that is read,
    and without one attention need not compute what comes later.
    """
    if not model.config.is_encoder_decoder:
        inputs = {name: inputs[name] for name in inputs if name != "attention_mask"}
    with headless(model) as seen, at_rows(_ending(model), rows):
        model(**inputs, use_cache=False)
    return seen[0].flatten(0, 1)[rows]


def _ending(model: Any) -> list[nn.Module]:
    """What the last block does after it has attended: attention's output layer, and the MLP.

    [] for a structure that is not known, among them a mixture of experts, and for `Soft`, which
    runs its blocks on the prompt first.
    """
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return []  # blocks run again in backward, when these modules are themselves again
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    blocks = getattr(decoder, "layers", None) or getattr(decoder, "block", None)
    if not isinstance(blocks, nn.ModuleList):
        return []
    parts = dict(blocks[-1].named_modules())
    names = ("self_attn.o_proj", "mlp", "layer.2.DenseReluDense")
    found = [parts[name] for name in names if name in parts]
    outputs = [getattr(part, "down_proj", None) or getattr(part, "wo", None) for part in found]
    return found if any(isinstance(output, nn.Module) for output in outputs) else []


@contextmanager
def at_rows(modules: Iterable[nn.Module], rows: Tensor) -> Iterator[None]:
    """Inside, modules of [B, T, H] compute `rows` of the flattened positions; others are zeros.

    Exact for these rows where no position looks at another one afterwards.
    """
    with ExitStack() as stack:
        for module in modules:
            module.forward = functools.partial(_at_rows, module.forward, rows)
            stack.callback(delattr, module, "forward")
        yield


def _at_rows(forward: Callable[[Tensor], Tensor], rows: Tensor, states: Tensor) -> Tensor:
    found = forward(states.flatten(0, 1)[rows])
    out = found.new_zeros(states.shape[0] * states.shape[1], found.shape[-1])
    return out.index_copy(0, rows, found).unflatten(0, states.shape[:2])


@contextmanager
def headless(model: Any) -> Iterator[list[Tensor]]:
    """Inside, the model's last layer does nothing but note what it is given: [B, T, H]."""
    module, seen = model.get_output_embeddings(), []

    def note(states: Tensor, *_: Any, **__: Any) -> Tensor:
        seen.append(states)
        # no positions: what a model does to its logits afterwards costs nothing
        return states.new_zeros(len(states), 0, 1)

    module.forward = note
    try:
        yield seen
    finally:
        del module.forward


def check_head(model: Any, name: str) -> None:
    """Refuse a model whose logits are not hidden states times the head (scaled, capped).

    Raises `TrainingError`. Measured on four tokens.
    """
    device = next(model.parameters()).device
    ids = torch.tensor([[3, 5, 7, 4]], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    training = model.training
    model.eval()
    with torch.no_grad():
        want = model(**inputs, use_cache=False).logits[0].float()
        head = head_of(model, name).detached().to(torch.float32)
        states = label_states(model, inputs, torch.arange(4, device=device)).float()
        got = torch.empty_like(want)
        head.project(states, out=got)
    model.train(training)
    if not want.isfinite().all():
        raise TrainingError(
            f"{name}: its logits hold NaN or infinity, so nothing can be learnt from them; look "
            "for damaged weights, or train in another --dtype."
        )
    spread = float((want - want.mean(-1, keepdim=True)).abs().max())
    tolerance = 0.05 if next(model.parameters()).dtype != torch.float32 else 1e-3
    if not torch.allclose(got, want, rtol=0, atol=tolerance * max(spread, 1e-3)):
        raise TrainingError(
            f"{name}: its logits are not its hidden states times its output layer (it scales or "
            "caps them), which the loss here does not know; choose another model."
        )
