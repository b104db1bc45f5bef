"""The module that is trained, against transformers' own loss; decoder-only and T5."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_llama import save_tiny_llama
from tiny_t5 import save_tiny_t5
from transformers import AutoModelForCausalLM, GemmaConfig, GemmaForCausalLM

from featherweight.distill.data import BLANK, Reader, Sample, collate
from featherweight.distill.head import head_of
from featherweight.distill.learner import Learner, check_head, headless, label_states
from featherweight.distill.objective import Objective
from featherweight.distill.student import adapt, open_base
from featherweight.errors import TrainingError

pytestmark = pytest.mark.model
SAMPLES = [
    Sample("a", (5, 9, 200), (17, 33, 4, 1)),
    Sample("b", (7,), (8, 1)),
    Sample("c", (3, 4, 6, 8, 10, 12), (99, 98, 97, 96, 95, 1)),
]


@pytest.fixture(scope="module", params=["llama", "t5"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    make = save_tiny_llama if request.param == "llama" else save_tiny_t5
    folder = make(tmp_path_factory.mktemp("m") / "m")
    yield open_base(f"hf:{folder}", torch.float32, "cpu")


def batch(model: Any, samples: list[Sample] = SAMPLES) -> dict[str, torch.Tensor]:
    reader = Reader(model[0], model[1], "m")
    return collate(samples, seq2seq=reader.seq2seq, start=reader.start, pad=0)


def reference(model: Any, samples: list[Sample]) -> torch.Tensor:
    """Sum of transformers' own losses, one example at a time, without padding."""
    total = torch.zeros(())
    for sample in samples:
        if model.config.is_encoder_decoder:
            ids = torch.tensor([sample.prompt])
            labels = torch.tensor([sample.target])
        else:
            ids = torch.tensor([[*sample.prompt, *sample.target]])
            labels = torch.tensor([[-100] * len(sample.prompt) + list(sample.target)])
        total = total + model(input_ids=ids, labels=labels).loss * len(sample.target)
    return total


def test_the_loss_is_transformers_own(model: Any) -> None:
    student = model[0].eval()
    learner = Learner(student, Objective(), name="m")
    tokens = sum(len(s.target) for s in SAMPLES)
    got = learner(**batch(model), num_items_in_batch=torch.tensor(tokens))["loss"]
    want = reference(student, SAMPLES) / tokens
    torch.testing.assert_close(got, want)
    parameters = list(student.parameters())
    for a, b in zip(
        torch.autograd.grad(got, parameters),
        torch.autograd.grad(want, parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert float(learner.tally["tokens"]) == tokens


def test_distillation_is_the_plain_formula(model: Any) -> None:
    """KL of the first answer token counts, that of the place after the end does not."""
    student = model[0].eval()
    torch.manual_seed(0)
    teacher = type(student)(student.config).eval()
    learner = Learner(student, Objective(0.5), name="m", teacher=teacher)
    want = torch.zeros(())
    for sample in SAMPLES:
        found = []
        for each in (student, teacher):
            if student.config.is_encoder_decoder:
                fed = torch.tensor([[0, *sample.target[:-1]]])
                out = each(input_ids=torch.tensor([sample.prompt]), decoder_input_ids=fed)
                found.append(out.logits[0].log_softmax(-1))
            else:
                ids = torch.tensor([[*sample.prompt, *sample.target]])
                place = slice(len(sample.prompt) - 1, -1)
                found.append(each(ids).logits[0, place].log_softmax(-1))
        s, t = found[0], found[1].detach()
        ce = F.nll_loss(s, torch.tensor(sample.target), reduction="sum")
        want = want + 0.5 * ce + 0.5 * F.kl_div(s, t, reduction="sum", log_target=True)
    got = learner(**batch(model), num_items_in_batch=1)["loss"]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


def test_what_stands_at_masked_places_does_not_count(model: Any) -> None:
    """Other padding, another pad token, other examples beside it: the same loss."""
    learner = Learner(model[0].eval(), Objective(), name="m")
    alone = [learner(**batch(model, [s]), num_items_in_batch=1)["loss"] for s in SAMPLES]
    together = learner(**batch(model), num_items_in_batch=1)["loss"]
    torch.testing.assert_close(together, sum(alone), rtol=1e-5, atol=1e-4)
    changed = batch(model)
    changed["input_ids"][changed["attention_mask"] == 0] = 77
    torch.testing.assert_close(
        learner(**changed, num_items_in_batch=1)["loss"], together, rtol=1e-5, atol=1e-4
    )


def test_a_blank_example_adds_nothing(model: Any) -> None:
    learner = Learner(model[0].eval(), Objective(), name="m")
    want = learner(**batch(model), num_items_in_batch=3)["loss"]
    got = learner(**batch(model, [*SAMPLES, BLANK]), num_items_in_batch=3)["loss"]
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-5)
    loss = learner(**batch(model, [BLANK]), num_items_in_batch=3)["loss"]
    assert float(loss.detach()) == 0.0
    loss.backward()  # a process whose micro-batch is all blanks takes part
    model[0].zero_grad()


def test_the_last_layer_is_left_out_and_put_back(model: Any) -> None:
    student = model[0].eval()
    inputs = {k: v for k, v in batch(model).items() if k != "labels"}
    before = student(**inputs).logits
    with headless(student) as seen:
        assert student(**inputs).logits.numel() == 0
    assert seen[0].shape[-1] == head_of(student, "m").weight.shape[1]
    torch.testing.assert_close(student(**inputs).logits, before, rtol=0, atol=0)


def test_the_last_block_ends_at_the_labels_rows(model: Any) -> None:
    student = model[0].eval()
    decoder = student.get_decoder()
    if hasattr(decoder, "block"):
        output = decoder.block[-1].layer[-1].DenseReluDense.wo
    else:
        output = decoder.layers[-1].mlp.down_proj
    shapes = []
    hook = output.register_forward_hook(lambda _, given, out: shapes.append(out.shape))
    tensors = batch(model)
    rows = (tensors.pop("labels").flatten() != -100).nonzero()[:, 0]
    got = label_states(student, tensors, rows)
    with headless(student) as seen:
        student(**tensors, use_cache=False)
    hook.remove()
    torch.testing.assert_close(got, seen[0].flatten(0, 1)[rows])
    few, whole = shapes
    assert few[:-1].numel() == len(rows) < whole[:-1].numel()


def test_lora_on_the_head_gets_its_gradients(tmp_path: Path) -> None:
    """TRL refuses it: A and B of the last layer must get what plain autograd gives them."""
    base = save_tiny_llama(tmp_path / "m")
    model, _, name = open_base(f"hf:{base}", torch.float32, "cpu")
    torch.manual_seed(0)
    model = adapt(model, name, "lora", 4, 8.0, 0.0, "lm_head,q_proj").eval()
    for key, p in model.named_parameters():
        if "lora_B" in key:
            p.data.normal_()
    got = Learner(model, Objective(), name="m")(
        **collate(SAMPLES, seq2seq=False, start=[], pad=0), num_items_in_batch=1
    )["loss"]
    want = reference(model, SAMPLES)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    learnt = [p for p in model.parameters() if p.requires_grad]
    assert len(learnt) == 6
    for a, b in zip(
        torch.autograd.grad(got, learnt), torch.autograd.grad(want, learnt), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_capped_logits_are_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    settings = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "initializer_range": 1.0,
    }
    check_head(GemmaForCausalLM(GemmaConfig(**settings)), "gemma")
    capped = Gemma2ForCausalLM(Gemma2Config(**settings, final_logit_softcapping=1.0))
    with pytest.raises(TrainingError, match="scales or caps"):
        check_head(capped, "gemma2")


def test_gradient_checkpointing_is_no_other_training(tmp_path: Path) -> None:
    base = save_tiny_llama(tmp_path / "m")
    found = []
    for checkpointing in (False, True):
        model, _, name = open_base(f"hf:{base}", torch.float32, "cpu")
        torch.manual_seed(0)
        model = adapt(model, name, "lora", 4, 8.0, 0.0, "all-linear").train()
        learner = Learner(model, Objective(), name="m")
        if checkpointing:
            learner.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        loss = learner(**collate(SAMPLES, seq2seq=False, start=[], pad=0))["loss"]
        loss.backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_bf16_is_near(tmp_path: Path) -> None:
    base = save_tiny_llama(tmp_path / "m")
    exact = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    inputs = collate(SAMPLES, seq2seq=False, start=[], pad=0)
    want = Learner(exact, Objective(), name="m")(**inputs)["loss"]
    rough = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
    learner = Learner(rough, Objective(), name="m")
    got = learner(**inputs)["loss"]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)
    got.backward()
    assert all(p.grad.dtype == torch.bfloat16 for p in rough.parameters() if p.grad is not None)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = Learner(exact, Objective(), name="m")(**inputs)["loss"]
    torch.testing.assert_close(mixed, want, rtol=0.02, atol=0.02)
