"""A LoRA in GGUF: what llama.cpp would add to the base's rows is what peft adds."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_llama import save_tiny_llama, save_tiny_lora  # noqa: E402

from featherweight.distill.gguf_adapter import (  # noqa: E402
    adapter_fields,
    adapter_tensors,
    check_plain_lora,
)
from featherweight.distill.gguf_model import gguf_module, permute, rotated_heads  # noqa: E402
from featherweight.distill.merge import adapter_settings, load_adapter, load_base, locate  # noqa: E402
from featherweight.errors import EngineError  # noqa: E402

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


def tuned(folder: Path) -> Any:
    place = locate(str(folder))
    return load_adapter(place, load_base(place))


@pytest.mark.parametrize(
    ("settings", "alpha"),
    [
        ({}, 6.0),
        ({"use_rslora": True}, 12.0),  # 6 / sqrt(4) = 12 / 4
        ({"alpha_pattern": {"k_proj": 30, "down_proj": 1}}, 6.0),
        ({"rank_pattern": {"q_proj": 2}}, 6.0),
        ({"rank_pattern": {"v_proj": 2}, "use_rslora": True, "alpha_pattern": {"v_proj": 5}}, 12.0),
        ({"alpha_pattern": {"q_proj": 0}}, 6.0),
    ],
)
def test_what_llama_cpp_adds_is_what_peft_adds(
    base: Path, tmp_path: Path, settings: dict[str, Any], alpha: float
) -> None:
    save_tiny_lora(tmp_path, base, **settings)
    model = tuned(tmp_path)
    found_alpha, tensors = adapter_tensors("m", model, "F32")
    assert found_alpha == pytest.approx(alpha)
    named = {one.name: one for one in tensors}
    seen = 0
    for module, layer in model.get_base_model().named_modules():
        if not hasattr(layer, "get_delta_weight"):
            continue
        name = f"{gguf_module(module)}.weight"
        a, b = named.pop(f"{name}.lora_a"), named.pop(f"{name}.lora_b")
        rank = a.shape[0]
        assert b.shape[1] == rank and (a.kind, b.kind) == ("F32", "F32")
        ours = torch.tensor(b.values() @ a.values()) * (found_alpha / rank)
        delta = layer.get_delta_weight("default").detach()
        heads = rotated_heads(module, model.config)
        theirs = delta if heads is None else permute(delta, heads)
        assert torch.allclose(ours, theirs, atol=1e-6)
        assert heads is None or not torch.allclose(ours, delta, atol=1e-6) or not delta.any()
        seen += 1
    assert seen == 12 and not named


def test_fields_say_what_it_is() -> None:
    found = {name: one.value for name, one in adapter_fields("mine", 6.0).items()}
    assert found == {
        "general.type": "adapter",
        "general.name": "mine",
        "adapter.type": "lora",
        "adapter.lora.alpha": 6.0,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "has DoRA which"),
        ({"modules_to_save": ["lm_head"]}, r"whole trained modules \(lm_head\)"),
        ({"target_modules": ["embed_tokens"]}, r"a tensor .*embed_tokens\.base_layer\.weight"),
        ({"trainable_token_indices": [3, 4]}, "trained tokens"),
        ({"lora_bias": True}, r"a tensor .*lora_B\.bias"),
    ],
)
def test_what_an_adapter_cannot_hold(
    base: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    save_tiny_lora(tmp_path, base, **settings)
    with pytest.raises(EngineError, match=f"{message}.*leave --adapter out"):
        check_plain_lora("m", tmp_path, tied=False)


def test_a_base_that_was_changed(base: Path, tmp_path: Path) -> None:
    save_tiny_lora(tmp_path, base)
    check_plain_lora("m", tmp_path, tied=False)
    for way in ("pissa", "olora", "pissa_niter_4", "corda"):
        settings = adapter_settings(tmp_path) | {"init_lora_weights": way}
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        with pytest.raises(EngineError, match=f"a base changed by '{way}'"):
            check_plain_lora("m", tmp_path, tied=False)


def test_a_lora_on_a_head_that_the_base_ties(tmp_path: Path) -> None:
    for tied in (True, False):
        base = save_tiny_llama(tmp_path / f"base-{tied}", tie_word_embeddings=tied)
        lora = save_tiny_lora(tmp_path / f"lora-{tied}", base, target_modules=["lm_head"])
        if tied:
            with pytest.raises(EngineError, match=r"LoRA on lm_head.*leave --adapter out"):
                check_plain_lora("m", lora, tied)
        else:
            with pytest.raises(EngineError, match=r"a tensor lm_head\.base_layer\.weight"):
                check_plain_lora("m", lora, tied)  # peft saves the head beside its LoRA
            weights = load_file(lora / "adapter_model.safetensors")
            pair = {key: one for key, one in weights.items() if "lora_" in key}
            save_file(pair, lora / "adapter_model.safetensors")
            check_plain_lora("m", lora, tied)
            names = [one.name for one in adapter_tensors("m", tuned(lora), "F32")[1]]
            assert names == ["output.weight.lora_a", "output.weight.lora_b"]


def test_one_that_changes_nothing(base: Path, tmp_path: Path) -> None:
    save_tiny_lora(tmp_path, base, lora_alpha=0)
    with pytest.raises(EngineError, match="changes nothing"):
        adapter_tensors("m", tuned(tmp_path), "F32")
