"""Block after block, against the model's own forward."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_stacks import MORE, T5, tiny  # noqa: E402

from featherweight.compress import calls, layerwise  # noqa: E402
from featherweight.compress.calibrate import Sample, logits  # noqa: E402
from featherweight.compress.layerwise import Found, Place, linears, places, walk  # noqa: E402
from featherweight.errors import CompressError  # noqa: E402

pytestmark = pytest.mark.model

KINDS = [*MORE, *T5]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
SOLVED = ["llama", "qwen2", "gemma2", "gemma3_text", "t5", "gated t5"]


def batches(model: Any, ragged: bool = False) -> list[list[Sample]]:
    """Longer than a sliding window of 8; `ragged` ones are padded."""
    torch.manual_seed(1)

    def row(length: int) -> list[int]:
        return torch.randint(2, 360, (length,)).tolist()

    if model.config.is_encoder_decoder:
        # of the first batch's rows encoder and decoder read equally many tokens
        shapes = [[(12, 5), (3, 12)], [(9, 4)]] if ragged else [[(12, 12), (12, 12)], [(9, 4)]]
        return [[Sample(row(n), [0, *row(m - 1)]) for n, m in batch] for batch in shapes]
    lengths = [[12, 5], [9, 9], [1]] if ragged else [[12, 12], [9], [9, 9]]
    return [[Sample(row(n), []) for n in batch] for batch in lengths]


def kept(place: Place, layers: dict[str, Any], found: Found | None) -> dict[str, Any]:
    return {name: layer.weight.data.clone() for name, layer in layers.items()}


def coarse(place: Place, layers: dict[str, Any], found: Found | None) -> dict[str, Any]:
    """Other weights, by far, and always the same ones."""
    return {name: layer.weight.data.sign() * 0.1 for name, layer in layers.items()}


def written(model: Any, sample: Sample) -> dict[str, Any]:
    """What each stack's last block writes of a text, by the model's own forward."""
    last = {place.stack: block for place, block in places(model)}
    seen: dict[str, Any] = {}
    hooks = [
        block.register_forward_hook(
            lambda _m, _args, out, stack=stack: seen.update(
                {stack: out[0] if isinstance(out, tuple) else out}
            )
        )
        for stack, block in last.items()
    ]
    logits(model, sample)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By stack what the walk holds of every batch."""
    held: dict[str, Any] = {}

    def noting(own: Any) -> Any:
        def noted(place: Place, block: Any, working: Any, found: Any, *rest: Any) -> None:
            own(place, block, working, found, *rest)
            held[place.stack] = [call.hidden.clone() for call in found]

        return noted

    for name in ("_sequential", "_shared"):
        monkeypatch.setattr(layerwise, name, noting(getattr(layerwise, name)))
    return held


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_with_what_the_model_writes(
    kind: str, sequential: bool, ragged: bool, inputs: dict[str, Any]
) -> None:
    model = tiny(kind)
    before = copy.deepcopy(model.state_dict())
    texts = batches(model, ragged)
    walk(model, texts, kept, sequential=sequential, dtype=torch.float32)
    for number, batch in enumerate(texts):
        for row, sample in enumerate(batch):
            for stack, expected in written(model, sample).items():
                found = inputs[stack][number][row, : expected.shape[1]]
                torch.testing.assert_close(found, expected[0], **CLOSE)
    for name, weight in model.state_dict().items():
        assert weight.equal(before[name])
    assert not any(part._forward_pre_hooks for part in model.modules())


def heard(model: Any, place: Place, texts: list[list[Sample]]) -> dict[str, Any]:
    """X^T X / N in float64 of every layer of a block, one text at a time by its own forward."""
    [block] = [one for other, one in places(model) if other == place]
    sums: dict[str, list[Any]] = {}

    def hook(name: str) -> Callable[..., None]:
        return lambda _layer, args: sums.setdefault(name, []).append(args[0][0].double())

    layers = linears(block, place.prefix)
    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    for batch in texts:
        for sample in batch:
            logits(model, sample)
    for one in hooks:
        one.remove()
    return {
        name: (torch.cat(rows).t() @ torch.cat(rows) / len(torch.cat(rows)), len(torch.cat(rows)))
        for name, rows in sums.items()
    }


def assert_heard(found: Found | None, expected: dict[str, Any]) -> None:
    assert found is not None
    for names, one in found:
        for name in names:
            hessian, tokens = expected[name]
            assert one.tokens == tokens
            scale = float(hessian.diagonal().mean())
            torch.testing.assert_close(one.hessian.double(), hessian, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", SOLVED)
def test_sequential_statistics_are_of_the_compressed_layers_before(kind: str, ragged: bool) -> None:
    model = tiny(kind)
    plain = copy.deepcopy(model)  # its layers are changed one by one, as the walk comes by
    texts = batches(model, ragged)
    seen: dict[Place, list[str]] = {}

    def solve(place: Place, layers: dict[str, Any], found: Found | None) -> dict[str, Any]:
        assert sorted(layers) == sorted(name for names, _ in found or [] for name in names)
        assert_heard(found, heard(plain, place, texts))
        seen.setdefault(place, []).extend(layers)
        weights = coarse(place, layers, found)
        for name, weight in weights.items():
            plain.get_parameter(f"{name}.weight").data = weight
        return weights

    ended = []
    walk(model, texts, solve, sequential=True, dtype=torch.float32, after=ended.append)
    assert [*seen] == ended == [place for place, _ in places(model)]
    assert len(seen) == (11 if kind in T5 else 6)
    for place, block in places(model):
        assert sorted(seen[place]) == sorted(linears(block, place.prefix))
    for name, weight in plain.state_dict().items():
        assert model.state_dict()[name].equal(weight)


@pytest.mark.parametrize("kind", SOLVED)
def test_shared_statistics_are_of_the_model_as_it_is(kind: str) -> None:
    model = tiny(kind)
    plain = copy.deepcopy(model)
    texts = batches(model, ragged=True)

    def solve(place: Place, layers: dict[str, Any], found: Found | None) -> dict[str, Any]:
        assert sorted(name for names, _ in found or [] for name in names) == sorted(layers)
        assert_heard(found, heard(plain, place, texts))
        return {}

    walk(model, texts, solve, sequential=False, dtype=torch.float32)
    for name, weight in plain.state_dict().items():
        assert model.state_dict()[name].equal(weight)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gated t5"])
def test_layers_that_read_the_same_are_known_together(kind: str) -> None:
    model = tiny(kind)
    together: dict[str, list[list[str]]] = {}

    def solve(place: Place, layers: dict[str, Any], found: Found | None) -> dict[str, Any]:
        assert found is not None
        together[place.stack] = [
            [name.removeprefix(f"{place.prefix}.") for name in names] for names, _ in found
        ]
        return {}

    walk(model, batches(model), solve, sequential=False, dtype=torch.float32)
    if kind == "gated t5":
        own = [["q", "k", "v"], ["o"]]
        first = [[f"layer.0.SelfAttention.{name}" for name in names] for names in own]
        cross = [["layer.1.EncDecAttention.q"]]
        cross += [[f"layer.1.EncDecAttention.{name}" for name in "kv"]]
        cross += [["layer.1.EncDecAttention.o"]]
        for stack, at in (("encoder", 1), ("decoder", 2)):
            mlp = f"layer.{at}.DenseReluDense."
            expected = first + (cross if stack == "decoder" else [])
            expected = [*expected, [f"{mlp}wi_0", f"{mlp}wi_1"], [f"{mlp}wo"]]
            assert together[stack] == expected
        return
    assert together == {
        "decoder": [
            [f"self_attn.{name}_proj" for name in "qkv"],
            ["self_attn.o_proj"],
            ["mlp.gate_proj", "mlp.up_proj"],
            ["mlp.down_proj"],
        ]
    }


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("kind", ["gemma2", "t5"])
def test_blocks_that_are_known_are_passed_by(kind: str, sequential: bool) -> None:
    """As when a stopped run goes on: what comes after is measured as if nothing had been."""

    def run(known: int) -> dict[str, Any]:
        model, found_at, done = tiny(kind), {}, iter(range(99))

        def solve(place: Place, layers: dict[str, Any], found: Found | None) -> dict[str, Any]:
            found_at.setdefault(place.name, []).append(found)
            return coarse(place, layers, found) if sequential else {}

        walk(
            model,
            batches(model),
            solve,
            sequential=sequential,
            dtype=torch.bfloat16,
            before=lambda place: next(done) < known,
        )
        return found_at

    whole, part = run(0), run(8 if kind == "t5" else 4)
    assert list(whole) == list(part)
    for number, (place, found) in enumerate(part.items()):
        if number < (8 if kind == "t5" else 4):
            assert found == [None]
            continue
        flat = [[one for stage in every for one in stage] for every in (found, whole[place])]
        for (names, one), (same, other) in zip(*flat, strict=True):
            assert names == same and one.hessian.equal(other.hessian)
            assert one.mean.equal(other.mean)


@pytest.mark.parametrize("kind", ["llama", "gated t5"])
def test_activations_in_a_file_are_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    own = torch.from_file

    def from_file(name: str, **how: Any) -> Any:
        opened.append(how["size"])
        return own(name, **how)

    monkeypatch.setattr(torch, "from_file", from_file)

    def run() -> list[Any]:
        model, hessians = tiny(kind), []

        def solve(place: Place, layers: dict[str, Any], found: Found | None) -> dict[str, Any]:
            hessians.extend(one.hessian for _, one in found or [])
            return coarse(place, layers, found)

        walk(model, batches(model), solve, sequential=True, dtype=torch.bfloat16)
        return hessians

    memory = run()
    assert not opened
    monkeypatch.setattr(calls, "IN_MEMORY", 100)
    spilled = run()
    # what every batch is, and beside it what it is told: T5's biases are the larger part
    for batch in batches(tiny(kind)):
        assert sum(len(sample.ids) for sample in batch) * 32 in opened
        assert sum(len(sample.target) for sample in batch) * 32 in opened or kind == "llama"
    each = 3 if kind == "llama" else 5
    assert len(opened) >= each * len(batches(tiny(kind)))
    assert len(memory) == len(spilled)
    assert all(one.equal(other) for one, other in zip(memory, spilled, strict=True))


def test_a_full_disk_is_told_before_it_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapped file that finds no room kills the process; so the room is taken at once."""
    import errno
    import os

    from featherweight.errors import OutputError

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(calls, "IN_MEMORY", 100)
    model = tiny("llama")
    told = r"^no room for \d+ MiB .* \(No space left on device\); set TMPDIR to .*\.$"
    with pytest.raises(OutputError, match=told):
        walk(model, batches(model), kept, sequential=True, dtype=torch.float32)
    assert logits(model, Sample([5, 6], [])).isfinite().all()  # its blocks are in their places


def test_half_precision_is_near_and_the_model_keeps_its_own() -> None:
    hessians: dict[Any, list[Any]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny("gemma3_text")
        found_all = hessians.setdefault(dtype, [])

        def solve(
            place: Place,
            layers: dict[str, Any],
            found: Found | None,
            found_all: list[Any] = found_all,
        ) -> dict[str, Any]:
            found_all.extend(one.hessian for _, one in found or [])
            return {}

        walk(model, batches(model, ragged=True), solve, sequential=False, dtype=dtype)
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for exact, rounded in zip(*hessians.values(), strict=True):
        assert rounded.dtype == torch.float32 and not rounded.equal(exact)
        assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_without_texts_every_block_is_solved() -> None:
    model = tiny("t5")
    seen, steps = [], []

    def solve(place: Place, layers: dict[str, Any], found: Found | None) -> dict[str, Any]:
        assert found is None
        seen.append(place.name)
        return coarse(place, layers, found)

    walk(
        model,
        [],
        solve,
        sequential=True,
        dtype=torch.float32,
        progress=lambda *step: steps.append(step),
    )
    assert seen == [f"encoder-{i:03}" for i in range(6)] + [f"decoder-{i:03}" for i in range(5)]
    assert steps == [(done, 11) for done in range(1, 12)]
    for _, block in places(model):
        for layer in linears(block, "").values():
            assert math.isclose(float(layer.weight.data.abs().max()), 0.1, rel_tol=1e-6)


def test_all_linear_layers_of_the_blocks_and_only_they() -> None:
    for kind, count in (
        ("llama", 42),
        ("phi3", 24),
        ("t5", 6 * 6 + 5 * 10),
        ("gated t5", 6 * 7 + 5 * 11),
    ):
        model = tiny(kind)
        found = {name for place, block in places(model) for name in linears(block, place.prefix)}
        assert len(found) == count
        assert all(type(model.get_submodule(name)) is torch.nn.Linear for name in found)


@pytest.mark.parametrize("kind", ["a table", "a convolution", "a kind of linear"])
def test_a_block_with_weights_of_another_kind_is_refused(kind: str) -> None:
    from transformers.pytorch_utils import Conv1D

    class Other(torch.nn.Linear):  # type: ignore[misc]
        pass

    model = tiny("llama")
    block = model.model.layers[4]
    if kind == "a table":
        block.experts = torch.nn.Parameter(torch.zeros(2, 3, 4))
    elif kind == "a convolution":
        block.mlp.experts = Conv1D(3, 4)
    else:
        block.mlp.experts = Other(3, 4)
    solved = []
    with pytest.raises(CompressError, match=r"^model\.layers\.4\..*experts.* is not of a linear"):
        walk(
            model,
            batches(model),
            lambda place, *_: solved.append(place) or {},
            sequential=False,
            dtype=torch.float32,
        )
    assert [place.index for place in solved] == [0, 1, 2, 3]


def test_a_layer_that_nothing_runs_through_is_refused() -> None:
    model = tiny("qwen2")
    model.model.layers[0].mlp.spare = torch.nn.Linear(32, 4)
    with pytest.raises(CompressError, match=r"^model\.layers\.0\.mlp\.spare read nothing"):
        walk(model, batches(model), kept, sequential=True, dtype=torch.float32)


def test_broken_numbers_are_refused_where_they_are_first_read() -> None:
    model = tiny("llama")
    model.model.layers[2].input_layernorm.weight.data[3] = torch.nan
    with pytest.raises(CompressError, match=r"^model\.layers\.2\.self_attn\.q_proj: .* NaN"):
        walk(model, batches(model), kept, sequential=True, dtype=torch.float32)
