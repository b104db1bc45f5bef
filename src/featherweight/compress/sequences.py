"""Texts as a model is calibrated on them: full sequences of one length, or T5's pairs.

One length without padding means that every token counts, and that a batch is told nothing but its
tokens.
"""

from typing import Any

from featherweight.compress.calibrate import Sample, batches, encode, spread
from featherweight.engines.hf_model import Model
from featherweight.errors import CompressError, DataError
from featherweight.tasks import Task

BATCH_TOKENS, LENGTH = 2048, 1024  # larger ones are slower on a CPU: less of them is in its cache


def calibration(
    texts: Task, model: Any, tokenizer: Any, name: str, tokens: int, length: int | None
) -> list[list[Sample]]:
    """Batches of at most `BATCH_TOKENS`, or of one text, of about `tokens` in all.

    A decoder-only model's texts are joined, an end token between them, and cut into sequences of
    `length` (1,024, or the context where it is shorter); where there are more than needed, those at
    even distances are taken. An encoder-decoder reads whole pairs, at even distances too, each side
    cut to `length`. Raises `DataError` for texts that do not fill one sequence, and
    `CompressError` for a `length` that the model does not hold.
    """
    length = check_length(model, tokenizer, name, length)
    if model.config.is_encoder_decoder:
        pairs = encode(texts.examples, model, tokenizer, name, length)
        return list(batches(spread(pairs, tokens, length, texts.name), BATCH_TOKENS))
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stream: list[int] = []
    for sample in encode(texts.examples, model, tokenizer, name, None):
        stream += [*sample.ids, *end]
    whole = len(stream) // length
    if not whole:
        raise DataError(
            f"{texts.name} has {len(stream):,} tokens, less than one sequence of {length:,}; give "
            "more text, or a shorter --length."
        )
    count = min(whole, max(1, tokens // length))
    starts = [i * whole // count * length for i in range(count)]
    found = [Sample(stream[start : start + length], []) for start in starts]
    rows = max(1, BATCH_TOKENS // length)
    return [found[i : i + rows] for i in range(0, count, rows)]


def check_length(model: Any, tokenizer: Any, name: str, length: int | None) -> int:
    """`length`, or what stands for `None`; raises `CompressError` where the model holds less."""
    context = Model(model, name).context_length(tokenizer)
    if length is None:
        return min(LENGTH, context)
    if length > context:
        raise CompressError(
            f"--length {length:,} is more than {name} holds ({context:,}); lower it."
        )
    return length
