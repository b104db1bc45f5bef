"""Block influence against a plain loop, and models with fewer blocks against the ones they were."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_stacks import LAYERS, MORE, T5, tiny  # noqa: E402

from featherweight.compress import block_influence, choose_layers, drop_layers  # noqa: E402
from featherweight.compress.calibrate import Sample, logits  # noqa: E402
from featherweight.errors import CompressError  # noqa: E402

pytestmark = pytest.mark.model

LENGTHS = (3, 17, 9, 30, 1)


def samples(model: Any) -> list[Sample]:
    """Token ids of different lengths, so that batches have padding."""
    pick = torch.Generator().manual_seed(1)
    draw = lambda n: torch.randint(2, 360, (n,), generator=pick).tolist()  # noqa: E731
    if model.config.is_encoder_decoder:
        return [Sample(draw(n), [0, *draw(m)]) for n, m in zip(LENGTHS, LENGTHS[::-1], strict=True)]
    return [Sample(draw(n), []) for n in LENGTHS]


def blocks(model: Any) -> dict[str, Any]:
    if model.config.is_encoder_decoder:
        return {"encoder": model.encoder.block, "decoder": model.decoder.block}
    return {"decoder": model.model.layers}


def plain_influence(model: Any) -> dict[str, list[float]]:
    """One unpadded text at a time in float64, all states kept, the definition written out."""
    texts = samples(model)
    model = model.double()
    found = {}
    for stack, layers in blocks(model).items():
        states: list[list[tuple[Any, Any]]] = [[] for _ in layers]
        hooks = [
            layer.register_forward_hook(
                lambda _m, args, out, kept=kept: kept.append(
                    (args[0][0], out[0][0] if isinstance(out, tuple) else out[0])
                )
            )
            for layer, kept in zip(layers, states, strict=True)
        ]
        for text in texts:
            logits(model, text)
        found[stack] = []
        for kept in states:
            values = [
                1 - float(x @ y / (x.norm() * y.norm()))
                for before, after in kept
                for x, y in zip(before, after, strict=True)
            ]
            found[stack].append(sum(values) / len(values))
        for hook in hooks:
            hook.remove()
    return found


def identity_block(model: Any, stack: str, layer: int) -> None:
    """Make a block hand on what it gets: nothing is added to the residual stream."""
    for name, weight in blocks(model)[stack][layer].named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", ".o.weight", "wo.weight")):
            weight.data.zero_()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "t5"])
def test_influence_is_the_mean_over_real_tokens(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(kind)
    found = block_influence(model, samples(model))
    monkeypatch.setattr("featherweight.compress.calibrate.BATCH_TOKENS", 40)
    steps: list[tuple[int, int]] = []
    split = block_influence(model, samples(model), lambda *step: steps.append(step))
    assert len(steps) > 2 and steps[-1] == (5, 5)
    for stack, expected in plain_influence(model).items():
        assert found[stack] == pytest.approx(expected, abs=1e-5)
        assert split[stack] == pytest.approx(expected, abs=1e-5)
        assert min(expected) > 0.01


def test_measuring_leaves_nothing_behind() -> None:
    model = tiny("llama").train()
    block_influence(model, samples(model))
    assert model.training
    assert not any(part._forward_hooks for part in model.modules())


def test_layers_of_least_influence_go_never_the_first_and_last() -> None:
    assert choose_layers([0.0, 0.3, 0.1, 0.2, 0.0], 4) == (0, 1, 3, 4)
    assert choose_layers([0.0, 0.3, 0.1, 0.2, 0.0], 2) == (0, 4)
    assert choose_layers([0.5, 0.1, 0.1, 0.1, 0.5], 3) == (0, 1, 4)
    assert choose_layers([0.5, 0.1], 2) == (0, 1)


@pytest.mark.parametrize("keep", [-1, 0, 1, 6])
def test_as_many_layers_cannot_be_kept(keep: int) -> None:
    with pytest.raises(CompressError, match=rf"^{keep} layers cannot be kept of 5; .*\.$"):
        choose_layers([0.1] * 5, keep)


@pytest.mark.parametrize("kind", [*MORE, *T5])
def test_dropping_nothing_changes_nothing(kind: str) -> None:
    model = tiny(kind)
    copy = drop_layers(model, {})
    for text in samples(model):
        assert torch.equal(logits(copy, text), logits(model, text))


@pytest.mark.parametrize("kind", [*MORE, *T5])
def test_a_block_that_does_nothing_is_found_and_not_missed(kind: str) -> None:
    model = tiny(kind)
    for stack in blocks(model):
        identity_block(model, stack, 2)
    influence = block_influence(model, samples(model))
    kept = {}
    for stack, found in influence.items():
        assert found[2] == pytest.approx(0, abs=1e-6)
        assert all(value > 1e-4 for layer, value in enumerate(found) if layer != 2)
        kept[stack] = choose_layers(found, len(found) - 1)
        assert kept[stack] == tuple(layer for layer in range(len(found)) if layer != 2)
    cut = drop_layers(model, kept)
    assert {s: len(b) for s, b in blocks(cut).items()} == {s: len(k) for s, k in kept.items()}
    for text in samples(model):
        torch.testing.assert_close(logits(cut, text), logits(model, text))


@pytest.mark.parametrize("kind", [*MORE, *T5])
def test_the_config_alone_makes_the_same_model(kind: str) -> None:
    model = tiny(kind)
    kept = dict.fromkeys(blocks(model), (0, 3, 4))
    cut = drop_layers(model, kept)
    config = type(cut.config).from_dict(cut.config.to_dict())
    again = type(cut)(config).eval()
    again.load_state_dict(cut.state_dict())
    for text in samples(model):
        assert torch.equal(logits(again, text), logits(cut, text))


def test_per_layer_lists_are_cut() -> None:
    config = drop_layers(tiny("gemma2"), {"decoder": (0, 1, 5)}).config
    assert config.layer_types == ["sliding_attention", "full_attention", "full_attention"]
    assert drop_layers(tiny("smollm3"), {"decoder": (0, 3, 5)}).config.no_rope_layers == [1, 0, 1]


def test_a_cut_model_generates_as_one_without_a_cache() -> None:
    """Layer indices number the cache's entries: a wrong one would show in the second token."""
    for kind in ("llama", "t5"):
        model = tiny(kind)
        cut = drop_layers(model, dict.fromkeys(blocks(model), (0, 2, 4)))
        ids = torch.tensor([[5, 6, 7]])
        options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
        fast = cut.generate(ids, use_cache=True, **options)
        assert fast.tolist() == cut.generate(ids, use_cache=False, **options).tolist()


def test_the_teacher_is_left_alone_and_shares_nothing() -> None:
    model = tiny("tied llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cut = drop_layers(model, {"decoder": (0, 5)})
    assert cut.lm_head.weight is cut.model.embed_tokens.weight
    assert not {p.data_ptr() for p in cut.parameters()} & {p.data_ptr() for p in model.parameters()}
    with torch.no_grad():
        for weight in cut.parameters():
            weight.add_(1)
    assert len(model.model.layers) == model.config.num_hidden_layers == LAYERS
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("layers", [[], [0, 6], [-1, 2], [2, 1], [1, 1]])
def test_layers_that_are_not_there(layers: list[int]) -> None:
    with pytest.raises(CompressError, match=r"cannot be kept of the decoder's 6; .*\.$"):
        drop_layers(tiny("llama"), {"decoder": layers})


def test_stacks_that_are_not_there() -> None:
    with pytest.raises(CompressError, match="no stack 'encoder'; this model has decoder"):
        drop_layers(tiny("llama"), {"encoder": [0]})


def test_t5_keeps_its_position_bias() -> None:
    with pytest.raises(CompressError, match="the encoder's block 0 holds the position bias"):
        drop_layers(tiny("t5"), {"encoder": [1, 2]})


def test_other_structures_are_refused_by_name() -> None:
    import transformers

    sizes = {"vocab_size": 360, "bos_token_id": 0, "eos_token_id": 1}
    gpt = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, **sizes)
    )
    with pytest.raises(CompressError, match=r"^gpt2: its structure is not known here; .*\.$"):
        block_influence(gpt, [])
    bart = transformers.BartForConditionalGeneration(
        transformers.BartConfig(d_model=16, encoder_layers=1, decoder_layers=1, **sizes)
    )
    with pytest.raises(CompressError, match=r"^bart: its structure is not known"):
        drop_layers(bart, {})
    tied = tiny("llama")
    tied.config.num_kv_shared_layers = 2
    with pytest.raises(CompressError, match="depend on one another"):
        drop_layers(tied, {})
    packed = tiny("llama")
    packed.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(CompressError, match="weights are quantised"):
        drop_layers(packed, {})
