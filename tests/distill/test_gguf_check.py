"""What is written answers in llama.cpp as it does in transformers; what is wrong is found."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from tiny_llama import save_tiny_llama, save_tiny_lora, tiny_tokenizer  # noqa: E402
from tokenizers import Regex, pre_tokenizers, processors  # noqa: E402

from featherweight.distill import (  # noqa: E402
    Check,
    check_gguf_against,
    export_adapter,
    export_gguf,
    gguf_adapter,
    gguf_model,
    gguf_tokenizer,
)
from featherweight.distill.gguf_tokenizer import PROBE as CUTS  # noqa: E402
from featherweight.engines.gguf_cuts import LLAMA3  # noqa: E402
from featherweight.engines.llama_cpp import LlamaCppEngine  # noqa: E402
from featherweight.errors import EngineError  # noqa: E402

pytestmark = pytest.mark.model

NUMBERS = ["It was 1,250,000 on 14 March 2022, or 12.50 and 09:30, 3.5 of it."] * 5
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTES_ONLY = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def llama3_tokenizer() -> Any:
    words = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    tokenizer = tiny_tokenizer(
        words=pre_tokenizers.Sequence([words, BYTES_ONLY]), ignore_merges=True
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def smollm_tokenizer() -> Any:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return tiny_tokenizer(words=pre_tokenizers.Sequence([digits, BYTES]))


LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS_OF_LLAMA: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "one key head": {"num_key_value_heads": 1},
    "as many key heads": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 16},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    "linear": {"rope_parameters": LINEAR},
    "llama3": {"rope_parameters": LLAMA_3_ROPE, "head_dim": 16},
    "more rows than tokens": {"vocab_size": 384},
}


def checked(model: Path, tmp_path: Path, type: str = "f16", **settings: Any) -> Check:
    found = export_gguf(str(model), tmp_path / "out.gguf", type, **settings)
    assert found.check is not None
    return found.check


@pytest.mark.parametrize("kind", KINDS_OF_LLAMA)
def test_every_kind_of_llama(tmp_path: Path, kind: str) -> None:
    changes = KINDS_OF_LLAMA[kind]
    model = save_tiny_llama(tmp_path / "model", **changes)
    if changes.get("attention_bias"):  # they begin at zero
        loaded = transformers.AutoModelForCausalLM.from_pretrained(model)
        with torch.no_grad():
            for name, parameter in loaded.named_parameters():
                if name.endswith("bias"):
                    parameter += 0.3 * torch.randn_like(parameter)
        loaded.save_pretrained(model)
    check = checked(model, tmp_path)
    assert check.mean < 0.012 and check.maximum < 0.15 and check.compared > 100
    assert check.notes == ()


@pytest.mark.parametrize(("type", "mean"), [("f16", 0.012), ("bf16", 0.06), ("q8_0", 0.2)])
def test_every_type(tmp_path: Path, type: str, mean: float) -> None:
    model = save_tiny_llama(tmp_path / "model", intermediate_size=64)
    check = checked(model, tmp_path, type)
    assert 0 < check.mean < mean
    assert check.same_first >= 0.8 * check.places


@pytest.mark.parametrize("make", [tiny_tokenizer, smollm_tokenizer, llama3_tokenizer])
def test_texts_of_all_sorts_are_read_as_the_same_tokens(
    tmp_path: Path, make: Callable[[], Any]
) -> None:
    tokenizer = make()
    model = save_tiny_llama(tmp_path / "model", tokenizer=tokenizer)
    export_gguf(str(model), tmp_path / "out.gguf")
    engine = LlamaCppEngine(tmp_path / "out.gguf", name="m", parallel=1, context_length=64)
    try:
        chance = random.Random(3)
        letters = CUTS + "abcdefghij '\n\t 0123456789,.;:-_()[]{}\"!?éßçñ東京한국어मदد"
        texts = [CUTS, "", " ", "\n\n", "a" * 40] + [
            "".join(chance.choice(letters) for _ in range(chance.randint(1, 60)))
            for _ in range(300)
        ]
        for text in texts:
            # a lone carriage return is one of the few things that json and llama.cpp keep as it is
            assert list(engine.tokens(text)) == tokenizer(text)["input_ids"], repr(text)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("settings", "type", "mean"),
    [
        ({}, None, 0.012),
        ({"use_rslora": True}, None, 0.012),
        ({"alpha_pattern": {"k_proj": 30}, "rank_pattern": {"v_proj": 2}}, None, 0.012),
        ({}, "f16", 0.015),
        ({}, "bf16", 0.06),
    ],
)
def test_adapters(tmp_path: Path, settings: dict[str, Any], type: str | None, mean: float) -> None:
    base = save_tiny_llama(tmp_path / "base", num_key_value_heads=1, tie_word_embeddings=True)
    lora = save_tiny_lora(tmp_path / "lora", base, **settings)
    out = tmp_path / "with+plus.gguf"
    found = export_adapter(str(lora), out, type)
    assert found.check is not None and found.check.mean < mean
    assert out.stat().st_size == found.bytes
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"base", "lora", "with+plus.gguf"}  # the base for the check is gone
    # and it does something: the base alone answers otherwise
    export_gguf(str(base), tmp_path / "base.gguf")
    place = gguf_check_place(lora)
    with pytest.raises(EngineError, match="differ from the model's by"):
        check_gguf_against(tmp_path / "base.gguf", *place, kind="F16")
    check_gguf_against(tmp_path / "base.gguf", *place, kind="F16", adapter=out)


def gguf_check_place(lora: Path) -> tuple[Any, Any]:
    from featherweight.distill.merge import locate, open_merged

    found = open_merged(locate(str(lora)))
    return found.model, found.tokenizer


def test_a_lora_merged_into_the_file(tmp_path: Path) -> None:
    base = save_tiny_llama(tmp_path / "base", tie_word_embeddings=True)
    lora = save_tiny_lora(
        tmp_path / "lora", base, use_dora=True, target_modules=["q_proj", "k_proj", "lm_head"]
    )
    found = export_gguf(str(lora), tmp_path / "out.gguf")
    assert found.merge_difference is not None and found.merge_difference < 1e-3
    assert found.check is not None and found.check.mean < 0.012


# ---- mistakes are found, and nothing is left


def nothing_written(tmp_path: Path, model: Path, message: str) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EngineError, match=message):
        export_gguf(str(model), tmp_path / "out.gguf")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("mistake", ["rows", "theta", "factors", "eps", "adapter rows"])
def test_mistakes_in_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    changes = {"rope_parameters": LLAMA_3_ROPE, "head_dim": 16} if mistake == "factors" else {}
    model = save_tiny_llama(tmp_path / "model", **changes)
    if mistake == "rows":
        monkeypatch.setattr(gguf_model, "permute", lambda rows, heads: rows)
    elif mistake == "factors":
        monkeypatch.setattr(gguf_model, "_rope_factors", no_factors)
    elif mistake == "adapter rows":
        lora = save_tiny_lora(tmp_path / "lora", model)
        monkeypatch.setattr(gguf_adapter, "permute", lambda rows, heads: rows)
        before = sorted(tmp_path.iterdir())
        with pytest.raises(EngineError, match="differ from the model's by"):
            export_adapter(str(lora), tmp_path / "out.gguf")
        assert sorted(tmp_path.iterdir()) == before
        return
    else:
        right = gguf_model.model_fields
        key = {"theta": "llama.rope.freq_base", "eps": "llama.attention.layer_norm_rms_epsilon"}
        value = {"theta": 1e6, "eps": 0.3}[mistake]

        def wrong(config: Any) -> Any:
            return right(config) | {key[mistake]: gguf_model.field(value)}

        monkeypatch.setattr(gguf_model, "model_fields", wrong)
    nothing_written(tmp_path, model, "differ from the model's by .* nothing was written")


def no_factors(model: Any) -> Any:
    import numpy as np

    return gguf_model.Tensor("rope_freqs.weight", (8,), "F32", lambda: np.ones(8))


def test_other_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_llama(tmp_path / "model", tokenizer=tiny_tokenizer(texts=NUMBERS))
    monkeypatch.setattr(gguf_tokenizer, "pre_tokenizer_name", lambda *args: "smollm")
    nothing_written(tmp_path, model, r"reads . of 4 texts as other tokens .* --like FILE.gguf")
    monkeypatch.setattr(gguf_tokenizer, "pre_tokenizer_name", lambda *args: "no-such-name")
    nothing_written(tmp_path, model, "llama.cpp cannot open")


def test_the_tokenizer_of_another_file(tmp_path: Path) -> None:
    """It is the user's word that counts; what it reads otherwise is said."""
    digits = pre_tokenizers.Digits(individual_digits=False)
    tokenizer = tiny_tokenizer(words=pre_tokenizers.Sequence([digits, BYTES]), texts=NUMBERS)
    model = save_tiny_llama(tmp_path / "model", tokenizer=tokenizer)
    tokenizer.backend_tokenizer.pre_tokenizer = smollm_tokenizer().backend_tokenizer.pre_tokenizer
    other = save_tiny_llama(tmp_path / "other", tokenizer=tokenizer)
    export_gguf(str(other), tmp_path / "like.gguf")
    nothing_written(tmp_path, model, "cuts text into words")
    check = checked(model, tmp_path, like=tmp_path / "like.gguf")
    assert len(check.notes) == 1
    assert "of --like reads 2 of 4 texts as other tokens" in check.notes[0]
    assert check.compared > 20 and check.mean < 0.012


def test_chat_templates_are_compared(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    tokenizer.chat_template = template
    model = save_tiny_llama(tmp_path / "model", tokenizer=tokenizer)
    assert checked(model, tmp_path).notes == ()
    (tmp_path / "out.gguf").rename(tmp_path / "like.gguf")
    tokenizer.chat_template = template.replace("</s>", "!")
    tokenizer.save_pretrained(model)
    notes = checked(model, tmp_path, like=tmp_path / "like.gguf").notes
    assert notes == ("llama.cpp reads a chat as other tokens than the model's own template",)


def test_a_model_with_nothing_to_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_llama(tmp_path / "model", context=8)
    nothing_written(tmp_path, model, "no text in common")
