"""Calibration texts: what is read of a file, and the token ids that a model reads."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_stacks import save_tiny

from featherweight.compress import Sample, encode, read_texts
from featherweight.compress.calibrate import batches, texts_sha256
from featherweight.engines.hf_open import open_model
from featherweight.errors import DataError
from featherweight.tasks import Example

pytestmark = pytest.mark.model


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch

    folder = save_tiny("llama", tmp_path_factory.mktemp("llama"))
    return open_model(str(folder), torch.float32, "cpu")


def test_rows_are_running_text_or_prompts(tmp_path: Path) -> None:
    text = read_texts(write(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"}))
    assert [(e.prompt, e.target) for e in text.examples] == [("", "one"), ("", "two")]
    assert text.settings["rows"] == 2 and len(text.settings["sha256"]) == 64
    rows = write(tmp_path / "b.jsonl", {"prompt": "p", "target": "t", "text": "left alone"})
    assert [(e.prompt, e.target) for e in read_texts(rows).examples] == [("p", "t")]
    (tmp_path / "c.csv").write_text("text\none\ntwo\nthree\n")
    assert len(read_texts(str(tmp_path / "c.csv"), limit=2).examples) == 2


def test_tasks_are_texts_too(root: Path) -> None:
    [example, *_] = read_texts("qmsum", root / "examples" / "data", limit=1).examples
    assert example.prompt and example.target


def test_files_that_hold_no_texts(tmp_path: Path) -> None:
    for rows, wrong in (
        ([{"text": "a"}, {"text": " "}], "line 2: 'text' is empty"),
        ([{"text": "a"}, {"words": "b"}], "line 2: it has no column 'text'"),
        ([{"words": "b"}], "line 1: it has no column 'prompt'"),
        ([], "has no rows"),
    ):
        with pytest.raises(DataError, match=wrong):
            read_texts(write(tmp_path / "rows.jsonl", *rows))
    with pytest.raises(DataError, match="neither a task nor a file"):
        read_texts("nothing")


def test_a_decoder_reads_prompt_and_target_in_one_row(llama: Any) -> None:
    model, tokenizer = llama
    texts = [
        Example("1", "Question: ", "yes, no"),
        Example("2", "Question: "),
        Example("3", "", "a"),
    ]
    one, two, three = encode(texts, model, tokenizer, "m")
    assert one.ids == tokenizer("Question: yes, no").input_ids and one.target == []
    assert two.ids == tokenizer("Question: ").input_ids
    assert three.ids == [tokenizer.bos_token_id, *tokenizer("a").input_ids]
    [cut] = encode([Example("1", "word " * 900)], model, tokenizer, "m")
    assert len(cut.ids) == 256  # the model's context


def test_an_encoder_decoder_reads_both_apart(tmp_path: Path) -> None:
    import torch

    model, tokenizer = open_model(str(save_tiny("t5", tmp_path)), torch.float32, "cpu")
    [sample] = encode([Example("1", "Question", "yes")], model, tokenizer, "m")
    assert sample == Sample(tokenizer("Question").input_ids, [0, *tokenizer("yes").input_ids])
    for text in (Example("7", "Question"), Example("7", "", "running text")):
        with pytest.raises(DataError, match=r"^calibration text 7: m is an encoder-decoder"):
            encode([text], model, tokenizer, "m")


def test_no_texts_are_refused(llama: Any) -> None:
    model, tokenizer = llama
    with pytest.raises(DataError, match="no calibration texts"):
        encode([], model, tokenizer, "m")
    with pytest.raises(DataError, match="calibration text 4 is empty"):
        encode([Example("4", "")], model, tokenizer, "m")


def test_batches_hold_every_sample_once_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featherweight.compress.calibrate.BATCH_TOKENS", 20)
    samples = [Sample([1] * n, [2] * (n % 3)) for n in (1, 25, 3, 9, 4, 4, 10, 2)]
    found = list(batches(samples))
    assert sorted(s for batch in found for s in batch) == sorted(samples)
    for batch in found:
        width = max(len(s.ids) for s in batch) + max(len(s.target) for s in batch)
        assert len(batch) == 1 or width * len(batch) <= 20


def test_the_hash_is_the_texts_alone() -> None:
    texts = [Example("1", "a", "b"), Example("2", [{"role": "user", "content": "c"}])]
    renamed = [Example("x", "a", "b"), Example("y", [{"content": "c", "role": "user"}])]
    assert texts_sha256(texts) == texts_sha256(renamed)
    assert texts_sha256(texts) != texts_sha256(texts[::-1])
    assert texts_sha256([Example("1", "a", "b")]) != texts_sha256([Example("1", "ab", "")])
