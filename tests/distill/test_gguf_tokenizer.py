"""A tokenizer's fields, and every tokenizer that llama.cpp would read otherwise refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

from tiny_llama import TEXTS, tiny_tokenizer  # noqa: E402
from tokenizers import (  # noqa: E402
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from featherweight.distill.gguf_tokenizer import (  # noqa: E402
    like_fields,
    tokenizer_fields,
)
from featherweight.engines.gguf_cuts import LLAMA3  # noqa: E402
from featherweight.engines.gguf_write import Tensor, field, write_gguf  # noqa: E402
from featherweight.errors import EngineError  # noqa: E402

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTES_ONLY = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def sequence(*parts: Any) -> Any:
    return pre_tokenizers.Sequence(list(parts))


def split(pattern: str) -> Any:
    return sequence(pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES_ONLY)


SMOLLM = sequence(pre_tokenizers.Digits(individual_digits=True), BYTES)


def values(tokenizer: Any, rows: int = 360, **settings: Any) -> dict[str, Any]:
    found = tokenizer_fields("m", tokenizer, rows, **settings)
    return {name.removeprefix("tokenizer.ggml."): one.value for name, one in found.items()}


def refused(tokenizer: Any, message: str, rows: int = 360, **settings: Any) -> None:
    with pytest.raises(EngineError, match=message) as raised:
        values(tokenizer, rows, **settings)
    assert str(raised.value).startswith("m ") and str(raised.value).endswith(".")


# ---- how text is cut


@pytest.mark.parametrize(
    ("words", "model", "name"),
    [
        (None, {}, "gpt-2"),
        (SMOLLM, {}, "smollm"),
        (split(LLAMA3), {"ignore_merges": True}, "llama-bpe"),
    ],
)
def test_known_cuts(words: Any, model: dict[str, Any], name: str) -> None:
    found = values(tiny_tokenizer(words=words, **model))
    assert found["pre"] == name and found["model"] == "gpt2"


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (split(QWEN2), {}),
        (split(LLAMA3), {}),  # llama.cpp would take whole words first
        (SMOLLM, {"ignore_merges": True}),
        (None, {"ignore_merges": True}),
        (BYTES_ONLY, {}),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), {}),
        (sequence(pre_tokenizers.Digits(individual_digits=False), BYTES), {}),
        (sequence(pre_tokenizers.Punctuation(), BYTES), {}),
        (sequence(pre_tokenizers.Split(Regex(r"\d"), "isolated"), BYTES), {}),  # not ½ and ²
        (split(LLAMA3.replace("(?i:", "(?:")), {"ignore_merges": True}),
        (split(LLAMA3.replace("{1,3}", "{1,4}")), {"ignore_merges": True}),
        (split(LLAMA3.replace(r"[\r\n]*", "")), {"ignore_merges": True}),
    ],
)
def test_other_cuts_are_refused(words: Any, model: dict[str, Any]) -> None:
    refused(
        tiny_tokenizer(words=words, **model),
        r"cuts text .* none of smollm, llama-bpe, gpt-2, .* --like FILE.gguf\.$",
    )


# ---- tokens


def test_tokens_types_and_merges() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.add_tokens([AddedToken("Größe", normalized=False)])
    found = values(tokenizer, 364)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = {number: text for text, number in state["model"]["vocab"].items()}
    assert found["tokens"] == [vocabulary[i] for i in range(360)] + [
        "<end>",
        "Größe",
        "[PAD362]",
        "[PAD363]",
    ]
    assert found["token_type"] == [3, 3] + [1] * 358 + [3, 4, 5, 5]
    assert found["merges"] == [" ".join(pair) for pair in state["model"]["merges"]]
    assert found["merges"] and found["add_space_prefix"] is False


def test_special_ids_and_what_texts_begin_with() -> None:
    plain = values(tiny_tokenizer(bos=False))
    assert plain["eos_token_id"] == 1 and "bos_token_id" not in plain
    assert (plain["add_bos_token"], plain["add_eos_token"]) == (False, False)
    for template, begins, ends in (
        ("<s> $A", True, False),
        ("$A </s>", False, True),
        ("<s> $A </s>", True, True),
    ):
        tokenizer = tiny_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        found = values(tokenizer)
        assert (found["add_bos_token"], found["add_eos_token"]) == (begins, ends)
        assert found["bos_token_id"] == 0
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 1)]
    )
    refused(tokenizer, "adds other tokens to a text than a beginning and an end")


def test_other_ends() -> None:
    found = values(tiny_tokenizer(), other_ends=[1, 7])
    assert (found["eos_token_id"], found["eot_token_id"]) == (1, 7) and "eom_token_id" not in found
    found = values(tiny_tokenizer(), other_ends=[8, 1, 7])
    assert (found["eot_token_id"], found["eom_token_id"]) == (8, 7)
    refused(tiny_tokenizer(), "has 4 end tokens", other_ends=[1, 7, 8, 9])


def test_chat_templates() -> None:
    tokenizer = tiny_tokenizer()
    assert not [key for key in tokenizer_fields("m", tokenizer, 360) if "template" in key]
    tokenizer.chat_template = "{{ messages }}"
    found = tokenizer_fields("m", tokenizer, 360)
    assert found["tokenizer.chat_template"].value == "{{ messages }}"
    tokenizer.chat_template = {"default": "{{ a }}", "tools": "{{ b }}"}
    found = tokenizer_fields("m", tokenizer, 360)
    assert found["tokenizer.chat_template"].value == "{{ a }}"
    assert found["tokenizer.chat_template.tools"].value == "{{ b }}"
    assert found["tokenizer.chat_templates"].value == ["tools"]


# ---- refused


def test_kinds_that_are_no_byte_level_bpe() -> None:
    def wrapped(tokenizer: Any) -> Any:
        return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")

    like = "only byte-level BPE .* --like FILE.gguf"
    refused(wrapped(Tokenizer(models.Unigram([("</s>", 0.0), ("a", -1.0)]))), f"Unigram.*{like}")
    refused(wrapped(Tokenizer(models.WordLevel({"</s>": 0}))), f"WordLevel.*{like}")
    llama2 = Tokenizer(models.BPE(byte_fallback=True))
    llama2.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    refused(wrapped(llama2), f"SentencePiece in BPE form.*{like}")
    metaspace = Tokenizer(models.BPE())
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace()
    refused(wrapped(metaspace), f"SentencePiece in BPE form.*{like}")
    plain = Tokenizer(models.BPE())
    refused(wrapped(plain), "not byte-level")
    suffixed = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    suffixed.pre_tokenizer = BYTES
    refused(wrapped(suffixed), "marks inside or at the end of words")
    lower = tiny_tokenizer()
    lower.backend_tokenizer.normalizer = normalizers.NFC()
    refused(lower, "changes text first .NFC")

    class Slow:
        pass

    refused(Slow(), "a Slow, which is SentencePiece or Python code")


def test_tokens_that_gguf_cannot_say() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True)])
    refused(tokenizer, "'<mask>' that takes spaces", rows=361)
    refused(tiny_tokenizer(), "with id 359, but only 300 rows", rows=300)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    refused(tokenizer, "without an end token")


# ---- from another file


def other(path: Path, tokens: list[str] | None) -> Path:
    fields = {
        "general.name": field("Other"),
        "general.license": field("mit"),
        "general.type": field("model"),
        "llama.block_count": field(9),
        "tokenizer.ggml.model": field("llama"),
    }
    if tokens is not None:
        fields["tokenizer.ggml.tokens"] = field(tokens)
    import numpy as np

    tensors = [Tensor("v", (4,), "F32", lambda: np.ones(4))]
    write_gguf(path, "llama", fields, tensors, "F16")
    return path


def test_what_is_taken_from_another_file(tmp_path: Path) -> None:
    found = like_fields(other(tmp_path / "a.gguf", ["a", "b", "c"]), 3)
    assert {name: one.value for name, one in found.items()} == {
        "general.name": "Other",
        "general.license": "mit",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["a", "b", "c"],
    }


def test_other_files_that_do_not_fit(tmp_path: Path) -> None:
    good = other(tmp_path / "a.gguf", ["a", "b", "c"])
    with pytest.raises(EngineError, match="has 3 tokens, the model 4 rows"):
        like_fields(good, 4)
    with pytest.raises(EngineError, match="has no tokenizer"):
        like_fields(other(tmp_path / "b.gguf", None), 3)
    with pytest.raises(EngineError, match="No such file"):
        like_fields(tmp_path / "none.gguf", 3)
    bad = tmp_path / "bad.gguf"
    for data, message in (
        (b"PK\x03\x04", "is not a GGUF file"),
        (good.read_bytes()[:150], "damaged"),
        (b"GGUF" + bytes(100), "damaged"),
        (good.read_bytes()[:-20], "damaged"),
    ):
        bad.write_bytes(data)
        with pytest.raises(EngineError, match=message):
            like_fields(bad, 3)


def test_the_texts_of_the_tiny_tokenizer_come_back() -> None:
    """The fixtures' own ground: a tokenizer that is really byte-level."""
    tokenizer = tiny_tokenizer(words=SMOLLM)
    assert isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel)
    assert tokenizer.decode(tokenizer(TEXTS[1])["input_ids"]) == TEXTS[1]
