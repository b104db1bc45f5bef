"""Neuron importance against its definition, and narrower models against the ones they were."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_stacks import MORE, T5, tiny  # noqa: E402

from featherweight.compress import choose_neurons, cut_neurons, neuron_importance  # noqa: E402
from featherweight.compress.calibrate import Sample, logits  # noqa: E402
from featherweight.compress.width import check_neurons  # noqa: E402
from featherweight.errors import CompressError  # noqa: E402

pytestmark = pytest.mark.model

KINDS = [kind for kind in (*MORE, *T5) if kind != "phi3"]  # phi3 has gate and up in one matrix


def samples(model: Any) -> list[Sample]:
    if model.config.is_encoder_decoder:
        return [Sample([5, 6, 7, 8], [0, 9]), Sample([9], [0, 3, 4, 5])]
    return [Sample([5, 6, 7, 8], []), Sample([9], []), Sample([11, 12], [])]


def outputs(model: Any) -> dict[str, list[Any]]:
    """The last matrix of every MLP."""
    if model.config.is_encoder_decoder:
        return {
            "encoder": [block.layer[-1].DenseReluDense.wo for block in model.encoder.block],
            "decoder": [block.layer[-1].DenseReluDense.wo for block in model.decoder.block],
        }
    return {"decoder": [block.mlp.down_proj for block in model.model.layers]}


@pytest.mark.parametrize("kind", ["llama", "t5", "gated t5"])
def test_importance_is_the_mean_activation_over_real_tokens(kind: str) -> None:
    model = tiny(kind)
    found = neuron_importance(model, samples(model))
    model = model.double()
    for stack, linears in outputs(model).items():
        for linear, one in zip(linears, found[stack], strict=True):
            seen: list[Any] = []
            hook = linear.register_forward_pre_hook(
                lambda _m, args, seen=seen: seen.append(args[0][0])
            )
            for text in samples(model):
                logits(model, text)
            hook.remove()
            expected = [
                sum(abs(float(row[i])) for rows in seen for row in rows)
                / sum(len(rows) for rows in seen)
                for i in range(linear.in_features)
            ]
            assert one.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert not any(part._forward_pre_hooks for part in model.modules())


def first(linear: Any, model: Any) -> Any:
    """The matrix whose rows are silent neurons where they are zero."""
    [found] = [
        getattr(owner, name)
        for owner in model.modules()
        for name in ("up_proj", "wi_1", "wi")
        if hasattr(owner, name) and linear in owner.children()
    ]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_silent_neurons_go_and_are_not_missed(kind: str) -> None:
    model = tiny(kind)
    silent: dict[str, list[Any]] = {}
    for stack, linears in outputs(model).items():
        silent[stack] = [torch.randperm(128)[:64].sort().values for _ in linears]
        for linear, rows in zip(linears, silent[stack], strict=True):
            first(linear, model).weight.data[rows] = 0
    keep = choose_neurons(neuron_importance(model, samples(model)), 64)
    for stack, rows in silent.items():
        for one, gone in zip(keep[stack], rows, strict=True):
            if kind != "t5":  # of ReLU neurons some more never fire on these texts
                assert sorted([*one.tolist(), *gone.tolist()]) == list(range(128))
    assert_same_answers(model, keep)


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_that_nobody_reads_are_not_missed(kind: str) -> None:
    model = tiny(kind)
    keep: dict[str, list[Any]] = {}
    for stack, linears in outputs(model).items():
        keep[stack] = []
        for linear in linears:
            order = torch.randperm(128)
            linear.weight.data[:, order[64:]] = 0
            keep[stack].append(order[:64].sort().values)
    assert_same_answers(model, keep)


def assert_same_answers(model: Any, keep: dict[str, list[Any]]) -> None:
    """Of the cut model, and of the one that its config and weights alone make."""
    cut = cut_neurons(model, keep)
    assert all(one.in_features == 64 for linears in outputs(cut).values() for one in linears)
    config = type(cut.config).from_dict(cut.config.to_dict())
    again = type(cut)(config).eval()
    again.load_state_dict(cut.state_dict())
    for text in samples(model):
        torch.testing.assert_close(logits(cut, text), logits(model, text))
        assert torch.equal(logits(again, text), logits(cut, text))


def test_all_neurons_are_all_of_the_model() -> None:
    model = tiny("llama")
    keep = choose_neurons(neuron_importance(model, samples(model)), 128)
    cut = cut_neurons(model, keep)
    for text in samples(model):
        assert torch.equal(logits(cut, text), logits(model, text))


def test_biases_are_cut_too_and_training_goes_on() -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=6, num_hidden_layers=2,
        num_attention_heads=2, mlp_bias=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    keep = {"decoder": [torch.tensor([1, 4]), torch.tensor([0, 5])]}
    cut = cut_neurons(model, keep)
    old, new = model.model.layers[1].mlp, cut.model.layers[1].mlp
    assert torch.equal(new.gate_proj.bias, old.gate_proj.bias[[0, 5]])
    assert torch.equal(new.down_proj.bias, old.down_proj.bias)
    assert torch.equal(new.down_proj.weight, old.down_proj.weight[:, [0, 5]])
    assert new.intermediate_size == 2 and old.intermediate_size == 6
    assert all(weight.requires_grad for weight in cut.parameters()) and cut.training
    shared = {p.data_ptr() for p in cut.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert not shared


@pytest.mark.parametrize(
    ("size", "ffn", "nearest"),
    [
        (128, 1, 64),
        (128, 63, 64),
        (128, 100, 64),
        (128, 129, 64),
        (128, 10**6, 64),
        (192, 97, 128),
        (48, 49, 47),
    ],
)
def test_a_width_that_does_not_fit_is_refused_with_the_nearest_that_does(
    size: int, ffn: int, nearest: int
) -> None:
    model = narrow(size)
    with pytest.raises(CompressError, match=rf"^ffn={ffn} does not fit: .* is ffn={nearest}\.$"):
        check_neurons(model, ffn)
    check_neurons(model, nearest)


def test_widths_that_fit() -> None:
    for size, fits in ((192, (64, 128, 192)), (48, (1, 17, 48))):
        for ffn in fits:
            check_neurons(narrow(size), ffn)


def narrow(size: int) -> Any:
    """A Llama of one block with so many neurons."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=size, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def test_equal_neurons_go_by_index() -> None:
    [kept] = choose_neurons({"decoder": [torch.tensor([1.0, 2.0, 1.0, 1.0])]}, 2)["decoder"]
    assert kept.tolist() == [0, 1]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CompressError, match=r"^phi3: its MLP is not known here"):
        check_neurons(tiny("phi3"), 64)
    model = tiny("llama")
    uneven = {"decoder": [torch.arange(3 + (layer == 1)) for layer in range(6)]}
    for keep in ({}, {"decoder": [torch.arange(3)]}, uneven):
        with pytest.raises(CompressError, match="do not fit the model"):
            cut_neurons(model, keep)
    model.model.layers[2].mlp.down_proj = torch.nn.Linear(16, 32, bias=False)
    with pytest.raises(CompressError, match=r"differ in width \(16, 128\)"):
        check_neurons(model, 64)
