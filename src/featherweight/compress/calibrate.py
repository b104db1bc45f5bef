"""Texts to measure a model on, and the one loop that reads them.

A text is an `Example`: a prompt, and the answer where there is one, which is read too, as training
will. B rows, T tokens.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import torch

from featherweight.compress.structure import DECODER, ENCODER, stacks
from featherweight.engines.hf_model import Model, pad
from featherweight.engines.hf_prompts import Prompts
from featherweight.engines.hf_vocabulary import Vocabulary
from featherweight.errors import DataError
from featherweight.files import sha256
from featherweight.rows import read_rows
from featherweight.tasks import TASKS, Example, Task, load_task

LENGTH = 2048  # tokens of a text that are read: its beginning, or it would outweigh the others
BATCH_TOKENS = 8192  # rows x longest row; bounds the memory that activations take
Masks = dict[str, torch.Tensor]
"""By stack, [B, T] bool of the batch being read: which tokens are real."""
Progress = Callable[[int, int], None]


class Sample(NamedTuple):
    """A text as the model reads it; `target` is what an encoder-decoder's decoder reads."""

    ids: list[int]
    target: list[int]


def read_texts(
    name: str, data: Path | None = None, split: str | None = None, limit: int | None = None
) -> Task:
    """Calibration texts: a task (see `load_task`), or a file of rows with `prompt` or `text`.

    A row's `text` is running text, read without a template. Nothing is downloaded. Raises
    `DataError` as `load_task` does.
    """
    path = Path(name)
    if name in TASKS or data is not None or split is not None or not path.is_file():
        return load_task(name, data, split=split, limit=limit)
    first = next(read_rows(path), None)
    if first is None or "prompt" in first.data or "text" not in first.data:
        return load_task(name, limit=limit)
    examples = tuple(
        Example(str(number), "", row.text("text"))
        for number, row in enumerate(islice(read_rows(path), limit), 1)
    )
    settings = {"file": path.name, "sha256": sha256(path), "rows": len(examples)}
    return Task(path.name, "text", examples, settings=settings)


def texts_sha256(texts: Sequence[Example]) -> str:
    """One digest of all prompts and targets, in order, whatever file they came from."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(orjson.dumps([text.prompt, text.target], option=orjson.OPT_SORT_KEYS) + b"\n")
    return digest.hexdigest()


def encode(
    texts: Sequence[Example], model: Any, tokenizer: Any, name: str, longest: int | None = LENGTH
) -> list[Sample]:
    """Token ids of every text, each cut to its first `longest` tokens or to the model's context,
    with `None` not at all.

    A decoder-only model reads prompt and target in one row; an encoder-decoder needs both. Raises
    `DataError` for no texts, and for texts that this kind of model cannot read.
    """
    if not texts:
        raise DataError("there are no calibration texts; name a file with at least one row.")
    own = Model(model, name)
    vocabulary = Vocabulary(tokenizer, own.end_ids(tokenizer), name)
    prompts = Prompts(tokenizer, vocabulary, own.seq2seq, name)
    length = None if longest is None else min(longest, own.context_length(tokenizer))
    samples = []
    for text in texts:
        where = f"calibration text {text.id}"
        if own.seq2seq and not (text.prompt and text.target):
            raise DataError(
                f"{where}: {name} is an encoder-decoder, which reads a prompt and writes a target; "
                "give every row both."
            )
        if text.target:
            encoded, target = prompts.split(text.prompt, text.target)
        else:
            encoded, target = prompts.encode(text.prompt), []
        if own.seq2seq:
            start = own.decoder_start()
            samples.append(Sample(encoded.ids[:length], (start + target)[:length]))
            continue
        if not (ids := (encoded.ids + target)[:length]):
            raise DataError(f"{where} is empty; fill it in or take it out.")
        samples.append(Sample(ids, []))
    return samples


def spread(samples: Sequence[Sample], tokens: int | None, least: int, name: str) -> list[Sample]:
    """Samples at even distances that make up `tokens`; all for `None`.

    So what a file has in several parts, one behind the other, is in it in their proportion. Raises
    `DataError` where all together have less than `least` tokens.
    """
    sizes = [len(sample.ids) + len(sample.target) for sample in samples]
    whole = sum(sizes)
    if whole < least:
        raise DataError(
            f"{name} has {whole:,} tokens, less than one sequence of {least:,}; give more text (a "
            "quantised or sparse copy may be given a shorter --length)."
        )
    if tokens is None or tokens >= whole:
        return list(samples)
    chosen, seen, taken = [], 0, 0
    for sample, size in zip(samples, sizes, strict=True):
        seen += size
        if taken * whole < tokens * seen:  # behind its share
            chosen.append(sample)
            taken += size
    return chosen


def batches(samples: Sequence[Sample], most: int | None = None) -> Iterator[list[Sample]]:
    """Samples of like length together, at most so many tokens (`BATCH_TOKENS`) with the padding."""
    most = most or BATCH_TOKENS
    batch: list[Sample] = []
    width = target = 0
    for sample in sorted(samples, key=lambda s: (len(s.ids), len(s.target)), reverse=True):
        wider = (max(width, len(sample.ids)), max(target, len(sample.target)))
        if batch and sum(wider) * (len(batch) + 1) > most:
            yield batch
            batch, wider = [], (len(sample.ids), len(sample.target))
        batch.append(sample)
        width, target = wider
    if batch:
        yield batch


def read(
    model: Any, samples: Sequence[Sample], masks: Masks, progress: Progress | None = None
) -> None:
    """Run the model's blocks over all samples, for the sake of hooks that were put on them.

    Rows are padded on the right, where a causal model's real tokens cannot see; `masks` is
    changed before each forward and tells hooks which tokens are real. No logits are computed.
    """
    parts = stacks(model)
    done = 0
    training = model.training
    model.eval()  # dropout would be measured too
    try:
        for batch in batches(samples):
            with torch.no_grad():
                _forward(model, parts[DECODER].owner, batch, masks)
            done += len(batch)
            if progress:
                progress(done, len(samples))
    finally:
        model.train(training)


def _forward(model: Any, decoder: Any, batch: Sequence[Sample], masks: Masks) -> None:
    ids, mask = pad([s.ids for s in batch], left=False, device=model.device)
    if not model.config.is_encoder_decoder:
        masks[DECODER] = mask.bool()
        decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        return
    target, target_mask = pad([s.target for s in batch], left=False, device=model.device)
    masks[ENCODER], masks[DECODER] = mask.bool(), target_mask.bool()
    encoded = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    decoder(
        input_ids=target,
        attention_mask=target_mask,
        encoder_hidden_states=encoded,
        encoder_attention_mask=mask,
        use_cache=False,
    )


def logits(model: Any, sample: Sample) -> torch.Tensor:
    """The model's logits [1, T, V] for one sample, by its own whole forward."""
    ids = torch.tensor([sample.ids], device=model.device)
    extra = {}
    if model.config.is_encoder_decoder:
        extra["decoder_input_ids"] = torch.tensor([sample.target], device=model.device)
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False, **extra).logits
    return found
