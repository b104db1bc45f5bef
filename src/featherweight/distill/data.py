"""From examples to token ids, and from token ids to batches whose labels are shifted once.

A prompt is read exactly as the engine reads it when the model is used (template, special tokens),
and the answer ends with the token that ends a turn of this model.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featherweight.engines.hf_model import Model
from featherweight.engines.hf_prompts import Prompts
from featherweight.engines.hf_vocabulary import Vocabulary
from featherweight.engines.types import Message
from featherweight.errors import EngineError, TrainingError
from featherweight.tasks import Example, Task

IGNORED = -100
COARSE = 32
"""Widths are multiples of this, but for the shortest: for each new shape of a bf16 product the
CPU's library keeps something, 25 MiB a micro-batch of SmolLM2 where all lengths differ."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids of one example: what is read, and what is to be written after it.

    `prompt` is the encoder's input where `seq2seq`, else the beginning of the sequence. A blank
    one (both empty) fills a micro-batch up and has no label.
    """

    id: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)

    @property
    def key(self) -> bytes:
        """The sha256 of all its ids and of where the target begins: what a cache's row is for."""
        ids = np.array([len(self.prompt), *self.prompt, *self.target], dtype="<u4")
        return hashlib.sha256(ids.tobytes()).digest()


BLANK = Sample("", (), ())


class Reader:
    """Reads examples for one model: its tokenizer, its template, its way to end an answer."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        found = Model(model, name)
        ends = found.end_ids(tokenizer)
        self.name = name
        self.seq2seq = found.seq2seq
        self.tokenizer = tokenizer
        self.context = found.context_length(tokenizer)
        self.start = found.decoder_start() if self.seq2seq else []
        vocabulary = Vocabulary(tokenizer, ends, name)
        self.bytes_of = vocabulary.bytes_of
        self.prompts = Prompts(tokenizer, vocabulary, self.seq2seq, name)
        self._ends = ends

    def sample(self, example: Example, text: str) -> Sample:
        """`example`'s prompt and `text` as its answer, with the end of the turn."""
        prompt, target = self.prompts.split(example.prompt, text)
        end = self._end(example)
        return Sample(example.id, tuple(prompt.ids), (*prompt.beginning, *target, end))

    def pieces(self, example: Example, text: str, length: int) -> Iterator[Sample]:
        """A running text in pieces of at most `length` tokens, each after the start token."""
        ids = self.prompts.plain(text)
        first = self.prompts.start_id
        for number, start in enumerate(range(0, len(ids), length - 1)):
            piece = ids[start : start + length - 1]
            yield Sample(f"{example.id}#{number}", (first,), tuple(piece))

    def _end(self, example: Example) -> int:
        """The token that ends an answer to this prompt."""
        if not isinstance(example.prompt, str) and self.tokenizer.chat_template:
            after = self._after_answer()
            if after is not None:
                return after
        end: int | None = self.tokenizer.eos_token_id
        if end is None:
            raise TrainingError(
                f"{self.name}: its tokenizer has no end token, so an answer could not end; set "
                "eos_token in tokenizer_config.json."
            )
        return end

    def _after_answer(self) -> int | None:
        """What the template writes after an assistant's turn, if that is an end token."""
        turn = [Message(role="user", content="a"), Message(role="assistant", content="bbb")]
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(m) for m in turn], tokenize=False, add_generation_prompt=False
            )
        except Exception:  # a template raises what it likes; the end token will do
            return None
        rest = text.rpartition("bbb")[2]
        ids: list[int] = self.tokenizer(rest, add_special_tokens=False).input_ids
        return next((i for i in ids if i in self._ends), None)


def samples(task: Task, reader: Reader, max_length: int) -> list[Sample]:
    """Every example of `task` with a target, in its order; running text in pieces.

    Raises `TrainingError` where none has a target, and where some are longer than `max_length`
    tokens: what a model reads is chosen by the task (`words` of QMSum), never cut here.
    """
    found: list[Sample] = []
    for example in task.examples:
        if example.target is None:
            continue
        try:
            if task.kind == "text":
                if reader.seq2seq:
                    raise TrainingError(
                        f"{reader.name} is an encoder-decoder, which does not learn from running "
                        "text; name a task with prompts."
                    )
                found += reader.pieces(example, example.target, max_length)
            else:
                found.append(reader.sample(example, target_text(task, example)))
        except EngineError as error:
            raise TrainingError(f"{task.name}, example {example.id}: {error}") from None
    if not found:
        raise TrainingError(
            f"{task.name}: none of its {len(task.examples)} examples has a target, so there is "
            "nothing to learn; fill in the column 'target'."
        )
    long = [sample for sample in found if _length(sample, reader) > max_length]
    if long:
        longest = max(long, key=len)
        higher = f"raise --max-length (the model holds {reader.context}) or "
        raise TrainingError(
            f"{task.name}: {len(long)} of {len(found)} examples are longer than {max_length} "
            f"tokens ({longest.id} has {len(longest)}); "
            f"{higher if max_length < reader.context else ''}shorten what is read (--words for "
            "QMSum)."
        )
    return found


def target_text(task: Task, example: Example) -> str:
    """What is to be written after the prompt."""
    if task.kind == "choice" and isinstance(example.prompt, str):
        return f" {(example.target or '').strip()}"  # as `tasks.run` scores it, after "Answer:"
    return example.target or ""


def _length(sample: Sample, reader: Reader) -> int:
    if reader.seq2seq:
        return max(len(sample.prompt), len(sample.target))
    return len(sample)


def collate(
    batch: Sequence[Sample], *, seq2seq: bool, start: Sequence[int], pad: int
) -> dict[str, Tensor]:
    """One micro-batch, padded on the right.

    `input_ids`, `attention_mask` [B, T] int64; `labels` [B, T] int64, ALREADY SHIFTED: position t
    holds the token that is to follow it, `IGNORED` where none is supervised. An encoder-decoder
    has `decoder_input_ids` [B, U] too, and labels [B, U].
    """
    if seq2seq:
        read = [list(s.prompt) or [pad] for s in batch]
        fed = [[*start, *s.target[:-1]] or [pad] for s in batch]
        labels = [[IGNORED] * (len(start) - 1) + list(s.target) or [IGNORED] for s in batch]
        return {
            "input_ids": _right(read, pad),
            "attention_mask": _right([[1] * len(ids) for ids in read], 0),
            "decoder_input_ids": _right(fed, pad),
            "labels": _right(labels, IGNORED),
        }
    read = [[*s.prompt, *s.target[:-1]] or [pad] for s in batch]
    labels = [[IGNORED] * (len(s.prompt) - 1) + list(s.target) or [IGNORED] for s in batch]
    return {
        "input_ids": _right(read, pad),
        "attention_mask": _right([[1] * len(ids) for ids in read], 0),
        "labels": _right(labels, IGNORED),
    }


def _right(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    width = max(map(len, rows))
    if width >= COARSE:
        width = -(-width // COARSE) * COARSE
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.int64)
