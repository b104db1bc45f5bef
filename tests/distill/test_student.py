"""LoRA of every kind: silent at first, saved so that PEFT opens it, resumed exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_llama import save_tiny_llama
from transformers import AutoModelForCausalLM

from featherweight.distill.student import (
    LORA_KINDS,
    adapt,
    alpha_of,
    counted,
    load_trainable,
    open_base,
    save_student,
    save_trainable,
    trainable,
)
from featherweight.engines import load_engine
from featherweight.errors import EngineError, TrainingError

pytestmark = pytest.mark.model
IDS = torch.tensor([[5, 9, 200, 17, 33, 4]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("m") / "base")


def adapted(base: Path, kind: str, **options: Any) -> Any:
    model, _, name = open_base(f"hf:{base}", torch.float32, "cpu")
    torch.manual_seed(3)
    settings = {"rank": 4, "alpha": alpha_of(kind, 4), "dropout": 0.0, "targets": "all-linear"}  # type: ignore[arg-type]
    return adapt(model, name, kind, **{**settings, **options})  # type: ignore[arg-type]


def learn(model: Any) -> None:
    """Some steps that move every parameter."""
    torch.manual_seed(4)
    optimiser = torch.optim.Adam(list(trainable(model).values()), 0.02)
    for _ in range(4):
        model(IDS, labels=IDS).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("kind", LORA_KINDS)
def test_before_training_nothing_is_changed(base: Path, kind: str) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    close = 1e-4 if kind in ("pissa", "dora") else 0.0  # W is taken apart and put together
    torch.testing.assert_close(
        logits(adapted(base, kind)), logits(plain), rtol=close, atol=close * 10
    )


@pytest.mark.parametrize("kind", LORA_KINDS)
def test_saved_opens_in_peft_and_engine_and_merges(base: Path, kind: str, tmp_path: Path) -> None:
    model = adapted(base, kind)
    learn(model)
    want = logits(model)
    _, tokenizer, _ = open_base(f"hf:{base}", torch.float32, "cpu")
    save_student(model, tokenizer, tmp_path, torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert (want - logits(plain)).abs().max() > 0.1
    opened = PeftModel.from_pretrained(plain, tmp_path)
    torch.testing.assert_close(logits(opened), want, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(logits(opened.merge_and_unload()), want, rtol=1e-4, atol=1e-3)
    engine = load_engine(f"hf:{tmp_path}", dtype="fp32")
    (scored,) = engine.score([("Question: is", " the claim true?")])
    assert len(scored) > 1
    engine.close()


@pytest.mark.parametrize("kind", LORA_KINDS)
def test_a_checkpoint_brings_back_every_bit(base: Path, kind: str, tmp_path: Path) -> None:
    model = adapted(base, kind)
    learn(model)
    save_trainable(model, tmp_path / "t.safetensors")
    again = adapted(base, kind)
    load_trainable(again, tmp_path / "t.safetensors")
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    other = adapted(base, kind, rank=8)
    with pytest.raises(TrainingError, match="another LoRA"):
        load_trainable(other, tmp_path / "t.safetensors")


def test_pissa_saves_a_difference_of_twice_the_rank(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = adapted(base, "pissa")
    _, tokenizer, _ = open_base(f"hf:{base}", torch.float32, "cpu")
    save_student(model, tokenizer, tmp_path, torch.float32)
    state = load_file(tmp_path / "adapter_model.safetensors")
    assert {v.shape[0] for k, v in state.items() if "lora_A" in k} == {8}
    products = [state[k.replace("lora_A", "lora_B")] @ v for k, v in state.items() if "lora_A" in k]
    assert max(float(p.abs().max()) for p in products) < 1e-5  # not trained: no difference


def test_a_mixer_learns_and_is_folded(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = adapted(base, "moslora")
    mixers = [name for name in trainable(model) if name.endswith("mix")]
    start = {name: trainable(model)[name].detach().clone() for name in mixers}
    learn(model)
    assert all((trainable(model)[n] - start[n]).abs().max() > 1e-4 for n in mixers)
    _, tokenizer, _ = open_base(f"hf:{base}", torch.float32, "cpu")
    save_student(model, tokenizer, tmp_path, torch.float32)
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in names)


def test_only_lora_learns(base: Path) -> None:
    model = adapted(base, "lora")
    assert all("lora_" in name for name in trainable(model))
    learnt, all_ = counted(model)
    assert 0 < learnt < all_
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}


def test_lora_on_the_head_alone(base: Path) -> None:
    model = adapted(base, "lora", targets="lm_head")
    assert all("lm_head" in name for name in trainable(model))


def test_what_cannot_learn_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing_like_it"):
        adapted(base, "lora", targets="nothing_like_it")
    with pytest.raises(TrainingError, match="server"):
        open_base("openai:http://localhost:1#m", torch.float32, "cpu")
    model = adapted(base, "lora")
    _, tokenizer, _ = open_base(f"hf:{base}", torch.float32, "cpu")
    save_student(model, tokenizer, tmp_path, torch.float32)
    with pytest.raises(TrainingError, match="merge it first"):
        open_base(f"hf:{tmp_path}", torch.float32, "cpu")
    with pytest.raises(EngineError):
        open_base(f"hf:{tmp_path / 'nothing'}", torch.float32, "cpu")


def test_full_weights_are_saved_in_the_asked_type(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, tokenizer, _ = open_base(f"hf:{base}", torch.float32, "cpu")
    save_student(model, tokenizer, tmp_path, torch.bfloat16)
    state = load_file(tmp_path / "model.safetensors")
    assert {v.dtype for v in state.values()} == {torch.bfloat16}


def test_the_embedded_model_can_be_a_student() -> None:
    """Its GGUF weights come dequantised; the values are the file's."""
    model, tokenizer, folder = open_base("smollm2-135m", torch.float32, "cpu")
    assert 134e6 < counted(model)[1] < 136e6 and Path(folder, "config.json").is_file()
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        token = int(model(ids).logits[0, -1].argmax())
    assert tokenizer.decode(token).strip() == "Paris"
