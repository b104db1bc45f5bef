"""Teachers in memory: opened, checked against the student, never trained."""

from typing import Any

import torch

from featherweight.distill.learner import check_head
from featherweight.distill.student import open_base
from featherweight.errors import TrainingError


def open_teacher(spec: str, student: Any, tokenizer: Any, dtype: torch.dtype, device: str) -> Any:
    """The model of `spec`, frozen, whose tokens are the student's.

    Raises `TrainingError` where its tokenizer is another one: logits of two vocabularies cannot be
    compared.
    """
    model, own, _ = open_base(spec, dtype, device)
    if difference := other_tokens(tokenizer, own):
        raise TrainingError(
            f"{spec} has another tokenizer than the student ({difference}), so their logits stand "
            "for different tokens; choose a teacher of the student's family, or let it write "
            "texts: `featherweight teach --keep text`."
        )
    if bool(model.config.is_encoder_decoder) != bool(student.config.is_encoder_decoder):
        raise TrainingError(
            f"{spec}: one of teacher and student is an encoder-decoder and the other is not; "
            "choose two of a kind."
        )
    check_head(model, spec)
    return model.eval().requires_grad_(False)


def other_tokens(a: Any, b: Any) -> str:
    """Why two tokenizers differ, empty where they are one: the same text has the same ids."""
    ours, theirs = a.get_vocab(), b.get_vocab()
    if ours != theirs:
        word = min(ours.keys() ^ theirs.keys(), default="") or next(
            token for token in ours if ours[token] != theirs[token]
        )
        return f"{len(ours)} and {len(theirs)} tokens, {word!r} for one"
    probe = "Größe: 3,141 naïve\n\n\tcafés — it's  I'LL\r\n漢字 ḍ̇"
    if a(probe).input_ids != b(probe).input_ids:
        return "the same tokens, but texts are cut up differently"
    return ""


def shared_vocabulary(student: Any, teacher_rows: int, tokenizer: Any) -> int | None:
    """How many rows of both heads are compared: all (None) where both have as many.

    Heads are often padded to different sizes (Qwen2.5: 151,936 and 152,064 rows for 151,665
    tokens); the padding stands for no token, so it is left out of both.
    """
    rows = student.get_output_embeddings().weight.shape[0]
    return None if rows == teacher_rows else min(len(tokenizer), rows, teacher_rows)
