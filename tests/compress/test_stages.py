"""Layers in turn: what runs, how often, and what is kept instead of running again."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_stacks import tiny  # noqa: E402

from featherweight.compress import layerwise  # noqa: E402
from featherweight.compress.calibrate import Sample  # noqa: E402
from featherweight.compress.calls import Space, capture  # noqa: E402
from featherweight.compress.layerwise import linears, places, walk  # noqa: E402
from featherweight.compress.stages import Stage, find_stages  # noqa: E402
from featherweight.errors import CompressError  # noqa: E402

pytestmark = pytest.mark.model

TEXTS = [[Sample([5, 6, 7, 8], [0, 9, 9]), Sample([7, 5, 4, 2], [0, 3, 3])], [Sample([6], [0])]]
LLAMA = [
    Stage(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Stage(("self_attn.o_proj",), "self_attn", 1),
    Stage(("mlp.gate_proj", "mlp.up_proj")),
    Stage(("mlp.down_proj",), "mlp"),
]


def stages(model: Any, stack: str = "decoder") -> list[Stage]:
    space = Space(torch.float32, Path())
    encoded = (
        [torch.randn(len(b), len(b[0].ids), 32) for b in TEXTS] if stack != "encoder" else None
    )
    with torch.no_grad():
        calls = capture(model, stack, TEXTS, encoded, space)
        place, block = next(one for one in places(model) if one[0].stack == stack)
        return find_stages(block, place.prefix, calls[0], place.index)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "gemma3_text"])
def test_the_stages_of_a_decoder(kind: str) -> None:
    model = tiny(kind)
    assert stages(model) == LLAMA
    assert not any(part._forward_hooks for part in model.modules())
    assert not any("forward" in vars(part) for part in model.modules())


def test_the_stages_of_an_encoder_decoder() -> None:
    """Attention tells a position bias beside its output, of which the block makes no states."""

    def attention(name: str) -> list[Stage]:
        return [Stage((f"{name}.o",), name, 2)]

    own, cross = "layer.0.SelfAttention", "layer.1.EncDecAttention"
    first = [Stage((f"{own}.q", f"{own}.k", f"{own}.v")), *attention(own)]
    mlp = [Stage(("layer.1.DenseReluDense.wi",))]
    mlp += [Stage(("layer.1.DenseReluDense.wo",), "layer.1.DenseReluDense")]
    assert stages(tiny("t5"), "encoder") == [*first, *mlp]
    assert stages(tiny("t5"))[:5] == [
        *first,
        Stage((f"{cross}.q",)),
        Stage((f"{cross}.k", f"{cross}.v")),
        *attention(cross),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_whose_block_needs_more_of_it_runs_again(fails: bool) -> None:
    model = tiny("gemma2")
    layer = type(model.model.layers[0])

    def forward(self: Any, hidden_states: Any, **rest: Any) -> Any:
        out, weights = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **rest)
        if weights is not None or fails:
            out = out + weights.mean()
        return out + self.mlp(hidden_states + out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer, "forward", forward)
        assert stages(model) == [LLAMA[0], Stage(("self_attn.o_proj",)), *LLAMA[2:]]


def test_every_layer_runs_once_for_each_text() -> None:
    model = tiny("llama")
    ran: Counter[str] = Counter()
    run = torch.nn.functional.linear
    names: dict[int, str] = {}

    def counted(inputs: Any, weight: Any, bias: Any = None) -> Any:
        ran[names.get(id(weight), "other")] += 1
        return run(inputs, weight, bias)

    def solve(place: Any, layers: dict[str, Any], found: Any) -> dict[str, Any]:
        return {name: layer.weight.data for name, layer in layers.items()}

    copied: list[Any] = []
    copy = layerwise.copy.deepcopy

    def copying(block: Any) -> Any:
        copied.append(copy(block))
        names.update({id(one.weight): name for name, one in linears(copied[-1], "").items()})
        return copied[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layerwise.copy, "deepcopy", copying)
        patch.setattr(torch.nn.functional, "linear", counted)
        walk(model, TEXTS, solve, sequential=True, dtype=torch.float32)
    blocks = len(places(model))
    assert len(copied) == blocks
    del ran["other"]  # the model's own, while it is found out what its first block reads
    # and once more for the first text of the first block, to see in which order they run
    assert set(ran.values()) == {blocks * len(TEXTS) + 1} and len(ran) == 7


def test_a_layer_that_runs_twice_is_refused() -> None:
    model = tiny("llama")
    mlp = type(model.model.layers[0].mlp)
    own = mlp.forward
    told = r"^model\.layers\.0\.mlp\.gate_proj runs more than once .*--shared\.$"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlp, "forward", lambda self, x: own(self, x) + own(self, x))
        with pytest.raises(CompressError, match=told):
            stages(model)
        walk(model, TEXTS, lambda *_: {}, sequential=False, dtype=torch.float32)


def test_a_layer_that_a_later_text_does_not_reach_is_refused() -> None:
    model = tiny("llama")
    attention = type(model.model.layers[0].self_attn)
    own = attention.forward

    def lazy(self: Any, hidden_states: Any, **rest: Any) -> Any:
        if hidden_states.shape[1] == 1:
            return hidden_states, None
        return own(self, hidden_states, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "forward", lazy)
        with pytest.raises(CompressError, match=r"^model\.layers\.0\.self_attn\..* read nothing"):
            walk(
                model,
                TEXTS,
                lambda _place, layers, _found: {n: one.weight.data for n, one in layers.items()},
                sequential=True,
                dtype=torch.float32,
            )


def test_room_is_used_again_by_what_has_its_shape() -> None:
    space = Space(torch.float32, Path())
    first = space.put(torch.ones(2, 3))
    space.give_back(first)
    other = space.put(torch.ones(3, 2))
    again = space.put(torch.full((2, 3), 7.0))
    assert again.data_ptr() == first.data_ptr() and again.eq(7).all() and other.eq(1).all()
    assert space.put(torch.zeros(2, 3)).data_ptr() != again.data_ptr()
