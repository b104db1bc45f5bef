"""Merging: against the sum written out in float64, in every way that peft can be asked to train."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_llama import save_tiny_llama, save_tiny_lora  # noqa: E402

from featherweight.distill import merge  # noqa: E402
from featherweight.distill.merge import (  # noqa: E402
    adapter_settings,
    locate,
    open_merged,
    separate,
    stored_dtype,
)
from featherweight.errors import EngineError  # noqa: E402

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("untied"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


def merged(folder: Path) -> Any:
    found = open_merged(locate(str(folder)))
    assert found.merge_difference is not None and found.merge_difference < 1e-3
    return found.model


def changed(base: Path, model: Any) -> set[str]:
    """Modules whose weights differ from the base's."""
    before = transformers.AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = model.state_dict()
    assert before.keys() == after.keys()
    return {
        key.removesuffix(".weight").split(".")[-1]
        for key in before
        if not torch.equal(before[key], after[key])
    }


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 9}}])
def test_a_merge_is_the_sum_written_out(
    untied: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    save_tiny_lora(tmp_path / "lora", untied, **settings)
    base, lora = (
        load_file(untied / "model.safetensors"),
        load_file(tmp_path / "lora" / "adapter_model.safetensors"),
    )
    weights = merged(tmp_path / "lora").state_dict()
    seen = 0
    for key, weight in weights.items():
        stem = f"base_model.model.{key.removesuffix('.weight')}"
        wanted = base[key].double()
        if f"{stem}.lora_A.weight" in lora:
            alpha = settings.get("alpha_pattern", {}).get(key.split(".")[-2], 6)
            scale = alpha / (2 if settings.get("use_rslora") else 4)
            a, b = (lora[f"{stem}.lora_{one}.weight"].double() for one in "AB")
            wanted = wanted + scale * b @ a
            seen += 1
        assert torch.allclose(weight.double(), wanted, atol=1e-6)
    assert seen == 12


def test_dora(untied: Path, tmp_path: Path) -> None:
    save_tiny_lora(tmp_path, untied, use_dora=True, target_modules=["q_proj", "up_proj"])
    assert changed(untied, merged(tmp_path)) == {"q_proj", "up_proj"}


def test_whole_modules(untied: Path, tmp_path: Path) -> None:
    save_tiny_lora(tmp_path, untied, target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert changed(untied, merged(tmp_path)) == {"q_proj", "lm_head"}


@pytest.mark.parametrize(
    ("settings", "what", "stays_tied"),
    [
        ({"target_modules": ["q_proj"]}, {"q_proj"}, True),
        ({"target_modules": ["q_proj", "lm_head"]}, {"q_proj", "lm_head"}, False),
        ({"target_modules": ["embed_tokens"]}, {"embed_tokens"}, False),
        (
            {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
            {"v_proj", "lm_head"},
            False,
        ),
        (
            {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"]},
            {"v_proj", "embed_tokens"},
            False,
        ),
    ],
)
def test_tied_embeddings_come_apart_only_where_one_was_trained(
    tied: Path, tmp_path: Path, settings: dict[str, Any], what: set[str], stays_tied: bool
) -> None:
    save_tiny_lora(tmp_path / "lora", tied, **settings)
    model = merged(tmp_path / "lora")
    assert changed(tied, model) == what
    assert model.config.tie_word_embeddings is stays_tied
    # and so they are read again
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    for key, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], weight)
    shared = again.lm_head.weight.data_ptr() == again.model.embed_tokens.weight.data_ptr()
    assert shared is stays_tied


def test_separate_leaves_values_alone() -> None:
    one = torch.nn.Linear(3, 3, bias=False)
    model = torch.nn.ModuleList([one, torch.nn.Linear(3, 3, bias=False)])
    model[1].weight = one.weight
    before = one.weight.detach().clone()
    separate(model)
    assert model[0].weight is one.weight and model[1].weight is not one.weight
    with torch.no_grad():
        model[1].weight += 1
    assert torch.equal(one.weight, before) and torch.equal(model[1].weight, before + 1)


def test_a_whole_model_is_opened_as_it_is(untied: Path) -> None:
    found = open_merged(locate(str(untied)))
    assert found.merge_difference is None and not found.place.adapter
    assert changed(untied, found.model) == set()
    ids = found.tokenizer(merge.PROBE)["input_ids"]
    assert found.logits.shape == (len(ids), 360)


def test_the_base_may_lie_beside_the_adapter(untied: Path, tmp_path: Path) -> None:
    shutil.copytree(untied, tmp_path / "base")
    save_tiny_lora(tmp_path / "lora", untied)
    settings = adapter_settings(tmp_path / "lora")
    settings["base_model_name_or_path"] = "../base"
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    place = locate(str(tmp_path / "lora"))
    assert place.base.resolve() == tmp_path / "base" and place.tokenizer == place.base
    assert changed(untied, merged(tmp_path / "lora"))


def test_what_most_weights_are_stored_in(tmp_path: Path) -> None:
    save_file(
        {"a": torch.ones(8, 8, dtype=torch.bfloat16), "b": torch.ones(8)},
        tmp_path / "a.safetensors",
    )
    assert stored_dtype(tmp_path) is torch.bfloat16
    save_file({"c": torch.ones(80)}, tmp_path / "b.safetensors")
    assert stored_dtype(tmp_path) is torch.float32
    assert stored_dtype(tmp_path / "nothing") is torch.float32


# ---- refused


def refused(folder: Path, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        open_merged(locate(str(folder)))


def test_a_merge_that_changes_the_answers(
    untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_lora(tmp_path, untied)
    done = peft.LoraModel.merge_and_unload

    def wrong(self: Any) -> Any:
        model = done(self)
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.weight += 0.05
        return model

    monkeypatch.setattr(peft.LoraModel, "merge_and_unload", wrong)
    refused(tmp_path, "merging .* changes its logits by")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "is a IA3 adapter, and only LoRA"),
        ({"peft_type": "PREFIX_TUNING"}, "prompt adapter"),
        ({"alora_invocation_tokens": [1, 2]}, "a LoRA with alora_invocation_tokens"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "a LoRA with layer_replication"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": "/nowhere"}, "is not a directory"),
    ],
)
def test_adapters_that_are_refused(
    untied: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    save_tiny_lora(tmp_path, untied)
    settings = adapter_settings(tmp_path) | changes
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    refused(tmp_path, message)


def test_an_adapter_of_another_base(untied: Path, tmp_path: Path) -> None:
    save_tiny_lora(tmp_path / "lora", untied)
    settings = adapter_settings(tmp_path / "lora")
    for name, message, shape in (
        ("deep", "does not fit its base", {"num_hidden_layers": 3}),
        ("shallow", "does not fit its base", {"num_hidden_layers": 1}),
        ("wide", "cannot be opened", {"hidden_size": 64}),
    ):
        settings["base_model_name_or_path"] = str(save_tiny_llama(tmp_path / name, **shape))
        (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
        refused(tmp_path / "lora", message)


def test_an_adapter_over_an_adapter(untied: Path, tmp_path: Path) -> None:
    save_tiny_lora(tmp_path / "one", untied)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    settings = adapter_settings(tmp_path / "two")
    settings["base_model_name_or_path"] = str(tmp_path / "one")
    (tmp_path / "two" / "adapter_config.json").write_text(json.dumps(settings))
    refused(tmp_path / "two", "adapter over another adapter")


def test_files_that_are_half_written(untied: Path, tmp_path: Path) -> None:
    lora = save_tiny_lora(tmp_path / "lora", untied)
    weights = lora / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 4, 200, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:size])
        refused(lora, "cannot be opened")
    weights.unlink()
    refused(lora, "holds no adapter weights")
    (lora / "adapter_config.json").write_text("{")
    refused(lora, "adapter weights|cannot be opened")
    model = shutil.copytree(untied, tmp_path / "model")
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(model, "cannot be opened")
    (model / "model.safetensors").unlink()
    refused(model, "holds no model weights")
    refused(tmp_path / "nothing", "is not a directory")


def test_a_tokenizer_of_another_model(untied: Path, tmp_path: Path) -> None:
    model = shutil.copytree(untied, tmp_path / "model")
    from tiny_llama import tiny_tokenizer

    large = tiny_tokenizer()
    large.add_tokens(["committee"])
    large.save_pretrained(model)
    refused(model, "gives the id 360, but the model has 360 rows")


def test_an_encoder_decoder(tmp_path: Path) -> None:
    config = transformers.T5Config(
        d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, vocab_size=32
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    refused(tmp_path, r"is an encoder-decoder \(t5\)")
