"""Prompts that were learnt one by one become a bank."""

from collections.abc import Sequence
from pathlib import Path

import torch

from featherweight.engines.hf_bank import Selection, Stored, read_bank
from featherweight.errors import RepairError


def read_prompts(folders: Sequence[Path]) -> list[Stored]:
    """Each folder's bank; raises `RepairError` unless they fit into one."""
    found = [read_bank(str(folder), folder) for folder in folders]
    if not found:
        raise RepairError("there are no prompts to put together; name at least one folder.")
    first = found[0]
    for folder, one in zip(folders, found, strict=True):
        alike = one.weights == first.weights and set(one.tensors) == set(first.tensors)
        if not alike or one.n != first.n:
            raise RepairError(
                f"{folder} holds prompts of another model, kind or length than {folders[0]}; a "
                "bank's prompts are all for one model and equally long."
            )
    return found


def combine(prompts: Sequence[Stored], selection: Selection | None = None) -> Stored:
    """One bank of all `prompts`, in their order."""
    first = prompts[0]
    tensors = {
        name: torch.cat([one.tensors[name] for one in prompts]).contiguous()
        for name in first.tensors
    }
    return Stored(first.base, first.weights, selection or Selection(), tensors)
