"""Which sequences of texts a model is calibrated on."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_llama import TEXTS, tiny_tokenizer  # noqa: E402
from tiny_stacks import tiny  # noqa: E402

from featherweight.compress.calibrate import Sample, encode  # noqa: E402
from featherweight.compress.sequences import calibration  # noqa: E402
from featherweight.errors import CompressError, DataError  # noqa: E402
from featherweight.tasks import Example, Task  # noqa: E402

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def llama() -> tuple[Any, Any]:
    return tiny("llama"), tiny_tokenizer()


def running(*texts: str) -> Task:
    return Task("rows", "text", tuple(Example(str(i), "", text) for i, text in enumerate(texts)))


def stream(texts: Task, model: Any, tokenizer: Any) -> list[int]:
    """All texts, an end token behind each."""
    found: list[int] = []
    for sample in encode(texts.examples, model, tokenizer, "m", None):
        found += [*sample.ids, tokenizer.eos_token_id]
    return found


def test_texts_are_joined_and_cut_into_full_sequences(llama: tuple[Any, Any]) -> None:
    texts = running(*TEXTS)
    whole = stream(texts, *llama)
    batches = calibration(texts, *llama, "m", 10**6, 10)
    found = [sample.ids for batch in batches for sample in batch]
    assert found == [whole[i : i + 10] for i in range(0, len(whole) - 9, 10)]
    assert all(not sample.target for batch in batches for sample in batch)


def test_of_more_than_are_needed_those_at_even_distances_are_taken(llama: tuple[Any, Any]) -> None:
    texts = running(*TEXTS)
    whole = stream(texts, *llama)
    there = len(whole) // 8
    for tokens, count in ((8 * 4, 4), (8 * 4 + 7, 4), (1, 1), (8 * (there - 1), there - 1)):
        found = [s.ids for batch in calibration(texts, *llama, "m", tokens, 8) for s in batch]
        assert len(found) == count
        starts = [i * there // count for i in range(count)]
        assert found == [whole[8 * start : 8 * start + 8] for start in starts]
        assert len(set(starts)) == count


def test_a_long_text_is_read_to_its_end(llama: tuple[Any, Any]) -> None:
    """Longer than the model's context of 256, and than what other measures read of a text."""
    texts = running(" ".join(TEXTS) * 12)
    whole = stream(texts, *llama)
    assert len(whole) > 2048
    found = calibration(texts, *llama, "m", 10**6, None)
    lengths = {len(sample.ids) for batch in found for sample in batch}
    assert lengths == {256}  # no sequence is longer than the context
    assert sum(map(len, found)) == len(whole) // 256
    with pytest.raises(CompressError, match="--length 1,024 is more than m holds"):
        calibration(texts, *llama, "m", 10**6, 1024)


def test_batches_are_bounded(llama: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featherweight.compress.sequences.BATCH_TOKENS", 50)
    found = calibration(running(*TEXTS), *llama, "m", 160, 16)
    assert [len(batch) for batch in found] == [3, 3, 3, 1]
    assert [len(batch) for batch in calibration(running(*TEXTS), *llama, "m", 160, 80)] == [1, 1]


def test_too_little_text_is_refused(llama: tuple[Any, Any]) -> None:
    texts = running("Some words.")
    have = len(stream(texts, *llama))
    with pytest.raises(DataError, match=rf"^rows has {have} tokens, less than one sequence of 64;"):
        calibration(texts, *llama, "m", 1000, 64)
    [[only]] = calibration(texts, *llama, "m", 1000, have)
    assert only.ids == stream(texts, *llama)
    with pytest.raises(DataError, match="no calibration texts"):
        calibration(running(), *llama, "m", 1000, 64)


def test_an_encoder_decoder_reads_whole_pairs() -> None:
    model, tokenizer = tiny("t5"), tiny_tokenizer()
    pairs = Task(
        "rows", "text", tuple(Example(str(i), text, "yes, no") for i, text in enumerate(TEXTS[:6]))
    )
    every = encode(pairs.examples, model, tokenizer, "m", 12)
    assert all(len(sample.ids) == 12 for sample in every)
    found = calibration(pairs, model, tokenizer, "m", 10**6, 12)
    assert sorted(s for batch in found for s in batch) == sorted(every)
    size = len(every[0].ids) + len(every[0].target)
    few = [s for batch in calibration(pairs, model, tokenizer, "m", size + 1, 12) for s in batch]
    assert sorted(few) == sorted([every[0], every[5]]) and isinstance(few[0], Sample)
    with pytest.raises(DataError, match="less than one sequence of 512; give more text"):
        calibration(pairs, model, tokenizer, "m", 10**6, 512)
