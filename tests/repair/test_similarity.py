"""How like one model's layers work to another's."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_stacks import tiny  # noqa: E402

from featherweight.engines.hf_bank import Bank, Selection, Stored  # noqa: E402
from featherweight.repair import similarity  # noqa: E402

pytestmark = pytest.mark.model
TEXTS = [[5, 9, 200, 31, 7, 8, 100], [40, 41, 42, 43]]


def changed(layer: int) -> Any:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[layer].self_attn.q_proj.weight.mul_(-1)
    return model


def test_a_model_is_like_itself() -> None:
    found = similarity(tiny("llama"), tiny("llama"), TEXTS)
    assert found.attention.shape == found.activations.shape == (2, 6)
    torch.testing.assert_close(found.attention, torch.ones(2, 6, dtype=torch.float64))
    torch.testing.assert_close(found.activations, torch.ones(2, 6, dtype=torch.float64))


def test_layers_before_a_change_are_alike_and_those_from_it_on_are_not() -> None:
    found = similarity(tiny("llama"), changed(3), TEXTS)
    for values in (found.attention, found.activations):
        assert (values[:, :3] > 1 - 1e-6).all() and (values[:, 3:] < 1 - 1e-4).all()


def test_cosines_by_hand() -> None:
    one, other = tiny("llama"), changed(0)
    found = similarity(one, other, TEXTS[:1])
    ids = torch.tensor(TEXTS[:1])
    outs = []
    for model in (one, other):
        model.set_attn_implementation("eager")
        with torch.no_grad():
            outs.append(
                model.model(input_ids=ids, output_attentions=True, output_hidden_states=True)
            )
    for layer in range(6):
        rows = [out.attentions[layer][0].transpose(0, 1).flatten(1).double() for out in outs]
        by_hand = [
            float(a @ b / a.norm() / b.norm()) for a, b in zip(rows[0], rows[1], strict=True)
        ]
        assert float(found.attention[0, layer]) == pytest.approx(sum(by_hand) / len(by_hand))


def test_a_prompt_is_left_out_of_attention_and_the_usual_way_comes_back() -> None:
    model = tiny("llama")
    usual = model.config._attn_implementation
    model.prompt_bank = Bank(
        model, Stored("", None, Selection(), {"prompts": torch.randn(2, 3, 32)}), "a bank"
    )
    found = similarity(tiny("llama"), model, TEXTS)
    assert found.attention.shape == (2, 6)
    assert (found.activations < 1 - 1e-4).any() and (found.attention <= 1 + 1e-9).all()
    assert model.config._attn_implementation == usual
