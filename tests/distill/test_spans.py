"""Bits carried from Qwen2.5's tokens to SmolLM2's: two real tokenizers over real answers."""

import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from featherweight.distill.spans import byte_spans, carried
from featherweight.engines.embedded import cache_folder, shipped_model
from featherweight.engines.hf_vocabulary import Vocabulary
from featherweight.tasks import load_task

pytestmark = pytest.mark.model
QWEN = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
STRANGE = "Größe: 3,141 naïve cafés – “it’s” 漢字 🙂 end.\n\n\tI'LL go; don't."


def reader(path: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    vocabulary = Vocabulary(tokenizer, frozenset([tokenizer.eos_token_id]), path.stem)
    return SimpleNamespace(
        name=path.stem,
        bytes_of=vocabulary.bytes_of,
        ids=lambda text: tokenizer(text, add_special_tokens=False).input_ids,
    )


@pytest.fixture(scope="module")
def smol() -> Any:
    return reader(shipped_model())


@pytest.fixture(scope="module")
def qwen() -> Any:
    path = Path(os.environ.get("FEATHERWEIGHT_MODELS", cache_folder() / "models")) / QWEN
    if not path.is_file():
        pytest.skip(f"{path} is not here; set FEATHERWEIGHT_MODELS to a folder that has it")
    return reader(path)


@pytest.fixture(scope="module")
def texts(root: Path) -> list[str]:
    task = load_task("qmsum", root / "examples" / "data", split="val")
    return [STRANGE, *(e.target or "" for e in task.examples)]


def test_real_answers_are_spelt(smol: Any, texts: list[str]) -> None:
    for text in texts:
        spans = byte_spans(smol, smol.ids(text), text)
        assert spans[0][0] == 0 and spans[-1][1] == len(text.encode())
        assert all(a[1] == b[0] for a, b in pairwise(spans))


def test_bits_cross_two_real_tokenizers(smol: Any, qwen: Any, texts: list[str]) -> None:
    """One wrong token of the large model spoils exactly the small tokens that share a byte."""
    checked = 0
    for text in texts:
        large = byte_spans(qwen, qwen.ids(text), text)
        small = byte_spans(smol, smol.ids(text), text)
        assert carried([True] * len(large), large, small) == [True] * len(small)
        for wrong in range(0, len(large), 7):
            bits = [i != wrong for i in range(len(large))]
            a, b = large[wrong]
            want = [not (start < b and end > a) for start, end in small]
            assert carried(bits, large, small) == want
            assert not all(want)
            checked += 1
    assert checked > 50
    assert any(len(qwen.ids(t)) != len(smol.ids(t)) for t in texts)
