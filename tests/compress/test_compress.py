"""The whole road: a directory and texts in, packed directories out, each proven on its own files.

What a manifest says is counted anew from the weights here, by other means.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import SafetensorError  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_llama import TEXTS  # noqa: E402
from tiny_stacks import T5, save_tiny, tiny  # noqa: E402
from trained_t5 import TrainedT5  # noqa: E402

from featherweight.compress import Made, compress, parse_recipe  # noqa: E402
from featherweight.compress.calibrate import Sample, logits  # noqa: E402
from featherweight.engines import Request, hf_open, load_engine  # noqa: E402
from featherweight.engines.hf_open import open_model  # noqa: E402
from featherweight.engines.identity import identity  # noqa: E402
from featherweight.engines.packed import FILE, read_packed  # noqa: E402
from featherweight.errors import (  # noqa: E402
    CompressError,
    DataError,
    EngineError,
    FeatherweightError,
    OutputError,
    UnknownModelError,
)
from featherweight.tasks import Example, Task  # noqa: E402

pytestmark = pytest.mark.model

MODULE = sys.modules["featherweight.compress.compress"]
CALIBRATION = Task(
    "texts", "text", tuple(Example(str(i), text, "a short one") for i, text in enumerate(TEXTS))
)
HOW: dict[str, Any] = {"tokens": 256, "length": 32, "dtype": "fp32", "device": "cpu"}
TRAINED = "trained t5"
KINDS = ["llama", "qwen2", "gemma2", "gemma3_text", "t5", "gated t5", TRAINED]
PACKED = [
    "rtn:bits=4,group=16",
    "gptq:bits=3,group=16",
    "gptq:bits=2,group=32,actorder=true",
    "magnitude:sparsity=0.5",
    "magnitude:pattern=4:8",
    "wanda:sparsity=0.613",
    "wanda:pattern=2:4",
    "sparsegpt:sparsity=0.55",
    "sparsegpt:pattern=2:4",
    "dsnot:sparsity=0.5",
    "joint:sparsity=0.5,bits=4,group=16",
    "joint:pattern=2:4,bits=8,group=32",
]
SOME = [PACKED[i] for i in (1, 7, 10)]  # a sweep that rounds, one that prunes, one that does both
KEYS = {
    "command", "recipe", "mode", "seconds", "calibration_tokens", "job", "changed", "of", "bytes",
    "bytes_theory", "bytes_model", "bytes_dense", "layers",
}  # fmt: skip


def run(source: Path, texts: Sequence[str], output: Path, **how: Any) -> list[Made]:
    recipes = [parse_recipe(text) for text in texts]
    return compress(f"hf:{source}", recipes, output, CALIBRATION, **(HOW | how))


def contents(folder: Path) -> dict[str, Any]:
    """A directory's files; what the manifest says of the clock is left out."""
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    for name in found:
        if name.endswith("manifest.json"):
            found[name] = json.loads(found[name]) | {"seconds": None}
    return found


class Ran(NamedTuple):
    """What a tiny model was made into in both modes, and the models as they were in memory."""

    kind: str
    source: Path
    shared: list[Made]
    sequential: list[Made]
    memory: list[dict[str, Any]]  # of the sequential ones


def plain(trained: Path, folder: Path) -> Path:
    """What makes a model, of a training's directory."""
    folder.mkdir()
    for path in trained.glob("*"):
        if path.suffix in (".json", ".safetensors") and path.name != "manifest.json":
            shutil.copyfile(path, folder / path.name)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All recipes on a Llama, the most different ones on the others."""
    kind, home = request.param, tmp_path_factory.mktemp("ran")
    if kind == TRAINED:
        source = plain(request.getfixturevalue("trained_t5").folder, home / "source")
    else:
        source = save_tiny(kind, home / "source")
    texts = PACKED if kind == "llama" else SOME
    memory: list[dict[str, Any]] = []
    own = MODULE._answer

    def answered(model: Any, tokenizer: Any) -> Any:
        memory.append({name: one.clone() for name, one in model.state_dict().items()})
        return own(model, tokenizer)

    shared = run(source, texts, home / "shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "_answer", answered)
        sequential = run(source, texts, home / "sequential", mode="sequential")
    return Ran(kind, source, shared, sequential, memory[::2])  # each other one was opened again


def assert_right(source: Path, one: Made, mode: str) -> None:
    """Everything that a packed directory and its manifest promise."""
    recipe, manifest = parse_recipe(one.manifest["recipe"]), one.manifest
    assert manifest.keys() == KEYS and manifest == json.loads(
        (one.folder / "manifest.json").read_text()
    )
    assert (manifest["command"], manifest["mode"]) == ("compress", mode)
    assert manifest["seconds"].keys() == {"solve", "pack"}
    assert manifest["job"]["source"]["weights"] == identity(f"hf:{source}")["weights"]

    original, _ = open_model(str(source), torch.float32, "cpu")
    opened, _ = open_model(str(one.folder), torch.float32, "cpu")
    old, new = (dict(model.named_parameters()) for model in (original, opened))
    names = [
        f"{name}.weight"
        for name, part in original.named_modules()
        if type(part) is torch.nn.Linear and name != "lm_head"
    ]
    _, packed = read_packed("m", one.folder)
    assert sorted(packed) == sorted(names) and old.keys() == new.keys()
    for name, weight in new.items():
        wanted = packed[name].dense() if name in packed else old[name]
        assert weight.equal(wanted)
    assert manifest["of"] == len(names)
    assert (
        manifest["changed"] == sum(not new[name].equal(old[name]) for name in names) == len(names)
    )

    assert [f"{layer['name']}.weight" for layer in manifest["layers"]] == list(packed)
    for layer in manifest["layers"]:
        assert layer.keys() == {
            "name", "bits", "sparsity", "error_rtn", "error", "damping", "bytes", "bytes_theory",
        }  # fmt: skip
        name = f"{layer['name']}.weight"
        weight, total = new[name], new[name].numel()
        zeros = 0
        if recipe.sparsity is not None:
            zeros = round(total * recipe.sparsity)
        if recipe.pattern is not None:
            gone = ~stay(packed[name])
            assert (gone.view(-1, recipe.pattern[1]).sum(1) == recipe.pattern[0]).all()
            zeros = total * recipe.pattern[0] // recipe.pattern[1]
        if zeros:
            assert int((~stay(packed[name])).sum()) == zeros
            assert int((weight == 0).sum()) >= zeros
            if not recipe.bits:  # not one more, either
                assert int((weight == 0).sum()) == zeros
        assert layer["sparsity"] == (zeros / total if zeros else None)
        assert layer["bits"] == recipe.bits
        theory = (total - zeros) * (recipe.bits or 16) + (total if zeros else 0)
        theory += total // recipe.group * (16 + recipe.bits) if recipe.bits and recipe.group else 0
        assert layer["bytes_theory"] == theory / 8
        assert layer["bytes"] == packed[name].nbytes()
        assert 0 <= layer["bytes"] - theory / 8 < len(packed[name].parts())
        if recipe.bits:
            grids = weight.reshape(-1, recipe.group or 1)
            assert max(len(row.unique()) for row in grids[:50]) <= 2**recipe.bits
        assert 0 <= layer["error"] < 1.5 and 0 < layer["error_rtn"] < 1.5
        assert layer["damping"] == (0.01 if recipe.kind in ("gptq", "sparsegpt", "joint") else None)
    for key in ("bytes", "bytes_theory"):
        assert manifest[key] == sum(layer[key] for layer in manifest["layers"])
    tensors = load_file(one.folder / FILE)
    assert manifest["bytes_model"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert manifest["bytes_model"] <= (one.folder / FILE).stat().st_size
    before = load_file(source / "model.safetensors").values()
    assert manifest["bytes_dense"] == sum(t.numel() * t.element_size() for t in before)
    assert sorted(path.name for path in one.folder.iterdir()) == sorted(
        [path.name for path in source.iterdir() if path.suffix != ".safetensors"]
        + [FILE, "manifest.json"]
    )


def stay(packed: Any) -> Any:
    from featherweight.engines.packed import unpack_bits

    rows, columns = packed.shape
    return unpack_bits(packed.mask, 1, rows * columns).bool()


def test_many_recipes_of_one_pass(ran: Ran) -> None:
    assert [one.folder.name for one in ran.shared] == (PACKED if ran.kind == "llama" else SOME)
    for one in ran.shared:
        assert_right(ran.source, one, "shared")
    assert not list(ran.shared[0].folder.parent.glob(".*"))


def test_recipes_each_in_a_pass_of_its_own(ran: Ran) -> None:
    assert [one.folder.name for one in ran.sequential] == [one.folder.name for one in ran.shared]
    for one in ran.sequential:
        assert_right(ran.source, one, "sequential")
    assert not list(ran.sequential[0].folder.parent.glob(".*"))


def test_what_is_opened_again_is_what_was_in_memory(ran: Ran) -> None:
    for one, memory in zip(ran.sequential, ran.memory, strict=True):
        opened, _ = open_model(str(one.folder), torch.float32, "cpu")
        original, _ = open_model(str(ran.source), torch.float32, "cpu")
        original.load_state_dict(memory)
        for name, weight in opened.state_dict().items():
            assert weight.equal(memory[name])
        sample = Sample([5, 6, 7, 8, 9], [0, 5, 6])
        torch.testing.assert_close(logits(opened, sample), logits(original, sample))


def test_layers_before_are_seen_in_sequence_alone(ran: Ran) -> None:
    """Of the first layers both know the same; of the later ones not, in the same block neither."""
    first, second = (
        load_file(one.folder / FILE)
        for one in (*ran.shared, *ran.sequential)
        if one.manifest["recipe"] == SOME[0]
    )
    block = "encoder.block.0." if ran.kind in (*T5, TRAINED) else "model.layers.0."
    inside = [name for name in first if name.startswith(block)]
    begin = [name for name in inside if re.search(r"(SelfAttention|self_attn)\.[qkv]", name)]
    assert begin and all(first[name].equal(second[name]) for name in begin)
    assert not all(first[name].equal(second[name]) for name in inside)


@pytest.mark.parametrize("ran", [TRAINED], indirect=True)
def test_what_a_t5_learned_is_harmed_less_than_by_rounding(
    ran: Ran, trained_t5: TrainedT5, tmp_path: Path
) -> None:
    """Calibrated on what it learned: its loss on that, beside the plain recipe of as many bits."""
    texts = trained_t5.task

    def loss(folder: Path) -> float:
        model, tokenizer = open_model(str(folder), torch.float32, "cpu")
        found = []
        for example in texts.examples:
            ids = tokenizer(example.prompt, return_tensors="pt").input_ids
            labels = tokenizer(example.target, return_tensors="pt").input_ids
            with torch.no_grad():
                found.append(float(model(input_ids=ids, labels=labels).loss))
        return sum(found) / len(found)

    own = loss(ran.source)
    recipes = ["rtn:bits=3,group=32", "gptq:bits=3,group=32", "gptq:bits=8,group=32",
               "magnitude:sparsity=0.5", "sparsegpt:sparsity=0.5"]  # fmt: skip
    harm = {}
    for text in recipes:
        [one] = compress(
            f"hf:{ran.source}", [parse_recipe(text)], tmp_path / text, texts, dtype="fp32"
        )
        assert one.manifest["changed"] == one.manifest["of"] == 2 * 7 + 2 * 11
        harm[text] = loss(one.folder) - own
    rtn, gptq, fine, magnitude, sparsegpt = harm.values()
    assert abs(fine) < 0.02 < gptq < rtn and sparsegpt < magnitude


@pytest.mark.parametrize("ran", ["llama", "gated t5"], indirect=True)
def test_a_recipe_among_many_is_what_it_is_alone(ran: Ran, tmp_path: Path) -> None:
    for text in (*SOME, *([PACKED[2]] if ran.kind == "llama" else [])):
        for many, how in ((ran.shared, {"mode": "shared"}), (ran.sequential, {})):
            [alone] = run(ran.source, [text], tmp_path / f"{text} {len(how)}", **how)
            [among] = [one for one in many if one.manifest["recipe"] == text]
            assert contents(alone.folder) == contents(among.folder)
            assert alone.manifest["mode"] == how.get("mode", "sequential")


def test_it_answers_through_the_engine(ran: Ran) -> None:
    engine = load_engine(f"hf:{ran.sequential[-1].folder}", dtype="fp32", device="cpu")
    [answer] = engine.generate([Request("Question:", max_tokens=4)])
    assert answer.finish_reason != "error"
    engine.close()


def test_calibrated_recipes_are_nearer_than_plain_ones(ran: Ran) -> None:
    for one in (*ran.shared, *ran.sequential):
        layers = one.manifest["layers"]
        error, plain = (sum(layer[key] for layer in layers) for key in ("error", "error_rtn"))
        if one.manifest["recipe"].startswith(("rtn", "magnitude")):
            assert error == plain
        elif not one.manifest["recipe"].startswith("dsnot"):
            assert error < plain


def test_without_texts_nothing_is_measured(tmp_path: Path) -> None:
    source = save_tiny("t5", tmp_path / "source")
    texts = ["rtn:bits=8,group=32", "magnitude:sparsity=0.25"]
    made = compress(f"hf:{source}", [parse_recipe(text) for text in texts], tmp_path / "made")
    for one in made:
        assert one.manifest["calibration_tokens"] == 0
        assert {layer["error"] for layer in one.manifest["layers"]} == {None}
        assert one.manifest["changed"] == one.manifest["of"] == 6 * 6 + 5 * 10
    with pytest.raises(CompressError, match=r"^gptq:bits=4 must read texts; .*--calibrate.*\.$"):
        compress(f"hf:{source}", [parse_recipe("gptq:bits=4")], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_layer_that_is_left_as_it_was_is_not_counted(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    model = tiny("llama")
    model.model.layers[2].mlp.down_proj.weight.data.zero_()
    model.model.layers[3].self_attn.o_proj.weight.data.fill_(15 / 32)  # on its own grid
    model.save_pretrained(source)
    [one] = run(source, ["rtn:bits=4,group=16"], tmp_path / "made")
    assert (one.manifest["changed"], one.manifest["of"]) == (40, 42)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_kept_stays_in_the_type_it_is_stored_in(dtype: Any, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    tiny("llama").to(dtype).save_pretrained(source)
    [one] = run(source, ["magnitude:sparsity=0.5"], tmp_path / "made")
    before = load_file(source / "model.safetensors")
    tensors, packed = read_packed("m", one.folder)
    for name, weight in packed.items():
        assert weight.values is not None and weight.values.dtype == dtype
        assert weight.values.equal(before[name].flatten()[stay(weight)])
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}


def test_cuts_are_recipes_too(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    texts = ["depth:layers=4", "width:kv=1,ffn=64", "rtn:bits=4,group=16"]
    made = run(source, texts, tmp_path / "made")
    assert [one.folder.name for one in made] == texts
    depth, width, rounded = (one.manifest for one in made)
    assert depth["mode"] is None and depth["layers"]["decoder"]["of"] == 6
    assert len(depth["layers"]["decoder"]["kept"]) == 4
    assert width["widths"] == {
        "ffn": {"before": 128, "after": 64},
        "kv": {"before": 2, "after": 1},
    }
    assert rounded["mode"] == "shared" and rounded["changed"] == 42
    # two blocks are gone; of each block k, v and both of its neurons' sides, q and o are smaller
    assert (depth["changed"], depth["of"]) == (14, 42) and width["changed"] == width["of"] == 42
    for one, manifest in zip(made, (depth, width), strict=False):
        held = load_file(one.folder / "model.safetensors").values()
        assert manifest["bytes"] == manifest["bytes_theory"] == sum(t.nbytes for t in held)
    for one in made[:2]:  # ordinary models
        model = transformers.AutoModelForCausalLM.from_pretrained(one.folder)
        assert sum(p.numel() for p in model.parameters()) == one.manifest["parameters"]["after"]
    assert model.config.head_dim == 8


def test_progress_is_told(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    steps: list[tuple[str, int, int]] = []
    run(source, SOME[:2], tmp_path / "made", progress=lambda *step: steps.append(step))
    blocks = [("blocks", done, 6) for done in range(1, 7)]
    assert steps == [*blocks, ("directories", 1, 2), ("directories", 2, 2)]


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1].split(os.pathsep)
from pathlib import Path
from featherweight.compress import store
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("tests_of_compress", sys.argv[3])
module = module_from_spec(spec)
spec.loader.exec_module(module)
own, calls = store.save_file, []
def save(tensors, path, said):
    calls.append(path)
    if len(calls) == int(sys.argv[2]):
        Path(path).write_bytes(b"half a file")
        os.kill(os.getpid(), signal.SIGKILL)
    own(tensors, path, said)
store.save_file = save
module.run(Path(sys.argv[4]), sys.argv[6:], Path(sys.argv[5]))
"""


@pytest.mark.parametrize(("texts", "at"), [(SOME[:1], 4), (SOME[1:], 6)], ids=["one", "many"])
def test_killed_and_called_again_it_makes_the_same_bytes(
    texts: list[str], at: int, tmp_path: Path
) -> None:
    source = save_tiny("gemma2", tmp_path / "source")
    run(source, texts, tmp_path / "whole")
    path = os.pathsep.join(filter(None, sys.path))
    paths = [__file__, source, tmp_path / "killed"]
    command = [sys.executable, "-c", KILLED, path, str(at), *paths, *texts]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = tmp_path / ".killed.partial" if len(texts) == 1 else tmp_path / "killed/.shared.partial"
    done = sorted(path.name for path in left.glob("*.safetensors"))
    assert len(done) == at - 1
    times = {name: (left / name).stat().st_mtime_ns for name in done}
    solved: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        own = MODULE._layers
        patch.setattr(MODULE, "_layers", lambda *how: solved.extend(how[1]) or own(*how))
        patch.setattr(MODULE.shutil, "rmtree", lambda *_, **__: None)  # to look at what was used
        run(source, texts, tmp_path / "killed")
    blocks = {name.split(".")[2] for name in solved}
    assert len(blocks) == 6 - (at - 1) // len(texts) and len(solved) == 7 * len(blocks)
    whole = done[: (at - 1) // len(texts) * len(texts)] if len(texts) == 1 else done[:2]
    assert all((left / name).stat().st_mtime_ns == times[name] for name in whole)
    shutil.rmtree(left)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_stopped_and_called_again_it_makes_the_same_bytes(kind: str, tmp_path: Path) -> None:
    """Wherever that happens."""
    source = save_tiny(kind, tmp_path / "source")
    run(source, SOME, tmp_path / "whole")
    stops = iter([2, 5, 6, 7, 8] if kind == "llama" else [3, 8, 11, 12])

    def stop(at: int) -> Callable[[str, int, int], None]:
        steps = iter(range(1, 99))

        def progress(*_: Any) -> None:
            if next(steps) == at:
                raise KeyboardInterrupt

        return progress

    for at in stops:
        with pytest.raises(KeyboardInterrupt):
            run(source, SOME, tmp_path / "stopped", progress=stop(at))
    run(source, SOME, tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "stopped", "whole"]


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors raises an error of its own there."""
    source = save_tiny("llama", tmp_path / "source")
    run(source, SOME[:1], tmp_path / "whole")
    before = {path.name for path in tmp_path.iterdir()}
    for module, at in ((sys.modules["featherweight.compress.store"], 4), (MODULE, 1)):
        calls: list[Any] = []
        own = module.save_file

        def full(*how: Any, own: Any = own, calls: list[Any] = calls, at: int = at) -> None:
            calls.append(how)
            if len(calls) == at:
                Path(how[1]).write_bytes(b"half")
                raise SafetensorError(FULL)
            own(*how)

        with monkeypatch.context() as patch:
            patch.setattr(module, "save_file", full)
            with pytest.raises(OutputError, match=r"^cannot write .*No space left on device.*\.$"):
                run(source, SOME[:1], tmp_path / "made")
        left = {path.name for path in tmp_path.iterdir()} - before
        assert left == {".made.partial"}
        done = sorted(path.name for path in (tmp_path / ".made.partial").iterdir())
        blocks = [f"0-decoder-{i:03}.safetensors" for i in range(3 if at == 4 else 6)]
        assert done == [".lock", *blocks, "job.json"]
    run(source, SOME[:1], tmp_path / "made")
    assert contents(tmp_path / "made") == contents(tmp_path / "whole")


def test_a_full_disk_under_a_cut_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_tiny("llama", tmp_path / "source")

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError(FULL)

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    with pytest.raises(OutputError, match=r"^cannot write .*No space left on device.*\.$"):
        run(source, ["depth:layers=3"], tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_another_runs_unfinished_work_is_left_alone(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")

    def stop(what: str, done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, SOME[:1], tmp_path / "made", progress=stop)
    before = contents(tmp_path)
    other = Task("other", "text", CALIBRATION.examples[1:])
    for texts, how in (
        (SOME[1:2], {}),
        (SOME[:1], {"tokens": 128}),
        (SOME[:1], {"length": 16}),
        (SOME[:1], {"dtype": "bf16"}),
        (SOME[:1], {"mode": "shared"}),
        (SOME[:1], {"texts": other}),
    ):
        recipes = [parse_recipe(text) for text in texts]
        with pytest.raises(OutputError, match=r"holds the unfinished work of another run .*\.$"):
            compress(
                f"hf:{source}",
                recipes,
                tmp_path / "made",
                **({"texts": CALIBRATION} | HOW | how),
            )
    assert contents(tmp_path) == before
    run(source, SOME[:1], tmp_path / "made")


def test_a_run_that_made_nothing_is_not_in_the_way(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    with pytest.raises(CompressError, match="does not fit"):
        run(source, ["gptq:bits=4,group=64"], tmp_path / "made")
    left = tmp_path / ".made.partial"  # as a kill before the first block leaves it
    left.mkdir()
    (left / "job.json").write_text('{"job": "another"}')
    run(source, SOME[:1], tmp_path / "made")
    assert not left.exists()


def test_what_is_made_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_tiny("llama", tmp_path / "source")
    [first, _] = run(source, SOME[:2], tmp_path / "made")
    shutil.rmtree(tmp_path / "made" / SOME[1])
    wrote = contents(first.folder)
    stamp = (first.folder / FILE).stat().st_mtime_ns
    found = run(source, SOME[:2], tmp_path / "made")
    assert contents(found[0].folder) == wrote and found[0].manifest == first.manifest
    assert (first.folder / FILE).stat().st_mtime_ns == stamp
    monkeypatch.setattr(MODULE, "walk", None)  # nothing is left to do
    assert [one.manifest for one in run(source, SOME[:2], tmp_path / "made")] == [
        one.manifest for one in found
    ]


@pytest.mark.parametrize("mode", ["sequential", "shared"])
def test_a_copy_that_is_not_what_was_computed_is_not_kept(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_tiny("llama", tmp_path / "source")
    own = MODULE.save_file

    def bent(which: str) -> Callable[..., None]:
        def save(tensors: dict[str, Any], *rest: Any) -> None:
            [name] = [name for name in tensors if name.endswith(which)]
            changed = tensors[name].clone()
            changed.view(-1)[5] += 1
            own(tensors | {name: changed}, *rest)

        return save

    for which, wrong in (
        ("layers.3.mlp.up_proj.weight.codes", r"^model\.layers\.3\.mlp\.up_proj\.weight: "),
        ("layers.0.self_attn.k_proj.weight.scales", r"^model\.layers\.0\.self_attn\.k_proj"),
        ("model.norm.weight", r"^model\.norm\.weight: "),
    ):
        monkeypatch.setattr(MODULE, "save_file", bent(which))
        with pytest.raises(CompressError, match=wrong + r".* is not what was computed; .*\.$"):
            run(source, SOME[:1], tmp_path / "made", mode=mode)
        assert not (tmp_path / "made").exists()

    def other_config(path: Path, *_: Any) -> Any:
        config = json.loads((path / "config.json").read_text())
        config["rms_norm_eps"] = 0.1
        (path / "config.json").write_text(json.dumps(config))
        return opened(str(path), torch.float32, "cpu")

    monkeypatch.setattr(MODULE, "save_file", own)
    opened = MODULE.open_model
    monkeypatch.setattr(
        MODULE,
        "open_model",
        lambda name, *rest: (
            opened(name, *rest) if Path(name) == source else other_config(Path(name))
        ),
    )
    with pytest.raises(CompressError, match=r"^logits: .* is not what was computed; .*\.$"):
        run(source, SOME[:1], tmp_path / "made", mode=mode)


def test_weights_that_lie_beside_the_models_are_not_read(tmp_path: Path) -> None:
    """A backup, or another layout's file: transformers opens one file, or those of an index."""
    source = save_tiny("llama", tmp_path / "source")
    alone = [run(source, SOME[: n + 1], tmp_path / f"alone-{n}")[0] for n in range(2)]
    tensors = load_file(source / "model.safetensors")
    strange = {name: tensor + 1 for name, tensor in tensors.items()} | {"more": torch.ones(9)}
    save_file(strange, source / "z-backup.safetensors", {"format": "pt"})
    for number, recipes in enumerate((SOME[:1], SOME[:2])):
        made = run(source, recipes, tmp_path / f"made-{number}")[0]
        assert (made.folder / FILE).read_bytes() == (alone[number].folder / FILE).read_bytes()
        assert made.manifest["bytes_dense"] == alone[number].manifest["bytes_dense"]


def test_two_runs_at_once_do_not_mix(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    [alone, _] = run(source, SOME[:2], tmp_path / "alone")
    refusals = []

    def meddle(what: str, done: int, of: int) -> None:
        for recipes in (SOME[:2], PACKED[:2]) if what == "blocks" else ():
            with pytest.raises(OutputError, match=r"another run is writing there; wait") as error:
                run(source, recipes, tmp_path / "made")
            refusals.append(error)

    [made, _] = run(source, SOME[:2], tmp_path / "made", progress=meddle)
    assert refusals and contents(made.folder) == contents(alone.folder)


@pytest.mark.parametrize("recipe", [SOME[0], "depth:layers=3"])
def test_what_a_killed_run_left_is_swept_up(recipe: str, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    left = tmp_path / ".made.0123abcd"  # as a kill leaves it while the copy is proven
    left.mkdir()
    (left / FILE).touch()
    kept = tmp_path / ".made.notes"
    kept.touch()
    run(source, [recipe], tmp_path / "made")
    assert not left.exists() and kept.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".made.notes", "made", "source"]


def test_two_cuts_at_once_do_not_mix(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")

    def meddle(what: str, done: int, of: int) -> None:
        with pytest.raises(OutputError, match=r"another run is writing there; wait"):
            run(source, ["depth:layers=3"], tmp_path / "made")

    run(source, ["depth:layers=3"], tmp_path / "made", progress=meddle)


def test_the_folder_that_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_tiny("llama", tmp_path / "source")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    [made] = run(source, SOME[:1], Path())
    assert made.folder == tmp_path / "here" and (tmp_path / "here" / FILE).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "source"]


@pytest.mark.parametrize("recipe", ["rtn:bits=4,group=16", *SOME, "width:ffn=64"])
def test_numbers_beyond_float32_are_no_fault_of_ours(recipe: str, tmp_path: Path) -> None:
    """The weights are finite, what is computed of them is not; nothing is in the way afterwards."""
    source = save_tiny("llama", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.3.mlp.up_proj.weight"] *= 1e20
    tensors["model.layers.3.mlp.down_proj.weight"] *= 1e30
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    message = refused(CompressError, lambda: run(source, [recipe], tmp_path / "made"), tmp_path)
    assert "NaN or infinity; look for" in message or "leaves float32's range" in message


def fp16_with_large_weights(folder: Path) -> Path:
    """Pruning makes up for what it drops, beyond what 16 bits hold."""
    model, source = tiny("llama"), save_tiny("llama", folder)
    weight = model.model.layers[2].mlp.down_proj.weight
    torch.manual_seed(0)
    weight.data.copy_(torch.randn_like(weight).clamp(-1, 1) * 65000)
    model.half().save_pretrained(source)
    return source


@pytest.mark.parametrize("shared", [True, False])
def test_a_recipe_that_fails_takes_no_other_along(shared: bool, tmp_path: Path) -> None:
    source = fp16_with_large_weights(tmp_path / "source")
    good, bad = "wanda:sparsity=0.5", "sparsegpt:sparsity=0.7"
    wrong = rf"layers\.2\.mlp\.down_proj: {bad} leaves the range of its numbers"
    with pytest.raises(CompressError, match=rf"{wrong}.*1 of 2 recipes were made") as caught:
        run(source, [bad, good], tmp_path / "out", mode="shared")
    assert str(caught.value).count(bad) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [good]
    run(source, [good], tmp_path / "alone", mode="shared")
    whole, alone = (contents(tmp_path / name) for name in (f"out/{good}", "alone"))
    assert whole[FILE] == alone[FILE]
    assert not list(tmp_path.glob("**/.*.partial"))
    with pytest.raises(CompressError, match=wrong):
        run(source, [bad], tmp_path / "bad", mode="shared" if shared else "sequential")
    assert not (tmp_path / "bad").exists()


def test_it_goes_on_in_the_precision_that_it_began_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which one is faster is measured, and may come out otherwise in the middle."""
    source, output = save_tiny("llama", tmp_path / "source"), tmp_path / "out"

    def stop(what: str, done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    for pays in (False, True):
        for names in (SOME[:1], SOME[:2]):
            how = {"dtype": "auto"}
            monkeypatch.setattr(hf_open, "bf16_pays", lambda device, p=pays: (p, "measured"))
            with pytest.raises(KeyboardInterrupt):
                run(source, names, output, progress=stop, **how)
            whole = [one.folder for one in run(source, names, tmp_path / "whole", **how)]
            monkeypatch.setattr(hf_open, "bf16_pays", lambda device, p=pays: (not p, "measured"))
            for _ in range(2):  # finished it is not made again either
                made = run(source, names, output, **how)
                for one, other in zip(made, whole, strict=True):
                    assert contents(one.folder)[FILE] == contents(other)[FILE]
                    wanted = "torch.bfloat16" if pays else "torch.float32"
                    assert one.manifest["job"]["dtype"] == wanted
            shutil.rmtree(output)
            shutil.rmtree(tmp_path / "whole")


def test_the_time_of_a_run_that_was_stopped_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = save_tiny("llama", tmp_path / "source"), tmp_path / "out"

    def stop(what: str, done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, SOME[:1], output, progress=stop)
    [made] = run(source, SOME[:1], output)
    assert made.manifest["seconds"]["solve"] is None
    [again] = run(source, SOME[:1], tmp_path / "again")
    assert again.manifest["seconds"]["solve"] > 0


def test_what_changes_nothing_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=r"prunes none of the [\d,]+ weights of .*; raise"):
        run(llama, ["sparsegpt:sparsity=1e-12"], tmp_path / "out")
    layers = len(tiny("llama").model.layers)
    for text in (f"depth:layers={layers}", "width:ffn=128"):
        with pytest.raises(CompressError, match="this cuts nothing"):
            run(llama, [text], tmp_path / "out", length=None)
    assert not (tmp_path / "out").exists()


def test_a_copy_without_its_weights_is_not_taken_for_made(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    [made] = run(source, SOME[:1], tmp_path / "made")
    (made.folder / FILE).unlink()
    with pytest.raises(OutputError, match="is there and not empty"):
        run(source, SOME[:1], tmp_path / "made")


def test_a_layer_without_outputs_has_no_error(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.model.layers[1].self_attn.k_proj.weight.data.zero_()
    model.model.layers[2].input_layernorm.weight.data.zero_()
    model.save_pretrained(source)
    [made] = run(source, SOME[:1], tmp_path / "made")
    errors = {layer["name"]: layer["error"] for layer in made.manifest["layers"]}
    silent = [name for name, error in errors.items() if error is None]
    names = [f"model.layers.2.self_attn.{part}_proj" for part in "qkvo"]
    assert sorted(silent) == ["model.layers.1.self_attn.k_proj", *sorted(names)]
    assert all(error < 1 for error in errors.values() if error is not None)


def test_all_recipes_are_checked_before_the_first(llama: Path, tmp_path: Path) -> None:
    for recipes, how, wrong in (
        ([SOME[0], "gptq:bits=4,group=24"], {"mode": "sequential"}, "no multiple of 24"),
        (["depth:layers=3", "gptq:bits=4,group=24"], {}, "no multiple of 24"),
        ([SOME[0], "width:kv=3"], {}, "the nearest is kv=1"),
        ([SOME[0], "depth:layers=7"], {}, "7 layers cannot be kept"),
        (["depth:layers=3", SOME[0]], {"length": 9999}, "--length 9,999 is more"),
        ([SOME[0], SOME[1], SOME[0]], {}, "is named twice; name each recipe once"),
        (SOME[:1], {"mode": "both"}, "no mode is called 'both'; choose sequential, shared."),
        (SOME[:1], {"tokens": -5}, "tokens is -5; give 1 or more"),
        (SOME[:1], {"length": 0}, "length is 0; give 1 or more"),
    ):
        call = lambda: run(llama, recipes, tmp_path / "made", **how)  # noqa: B023, E731
        assert wrong in refused(CompressError, call, tmp_path)


def test_weights_under_other_names_are_refused_at_once(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, source / "model.safetensors", {"format": "pt"})
    call = lambda: run(source, SOME[:1], tmp_path / "made", progress=None)  # noqa: E731
    assert "keeps model.layers.0.self_attn.q_proj.weight under another name" in refused(
        CompressError, call, tmp_path
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("llama"))


def refused(kind: type[FeatherweightError], call: Callable[[], Any], home: Path) -> str:
    """The one sentence of an error that leaves everything as it was."""
    before = {str(path) for path in home.rglob("*")}
    with pytest.raises(kind) as error:
        call()
    assert {str(path) for path in home.rglob("*")} == before
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".") or kind is EngineError  # the loader's own words
    return message


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (
            "gptq:bits=4",
            "gptq:bits=4 does not fit model.layers.0.self_attn.q_proj: 32 inputs are no multiple "
            "of 64; groups that fit every layer are 16, 32.",
        ),
        ("rtn:bits=4,group=128", "groups that fit every layer are 16, 32."),
        ("joint:bits=4,group=24,sparsity=0.5", "groups that fit every layer are 16, 32."),
        ("width:kv=3", "kv=3 does not fit: llama here has 2 key-value groups"),
        ("width:kv=3", "the nearest is kv=1."),
        ("width:ffn=100", "the nearest is ffn=64."),
        ("width:kv=1,ffn=1", "the nearest is ffn=64."),
        ("depth:layers=7", "7 layers cannot be kept of 6; keep 2 "),
    ],
)
def test_recipes_that_do_not_fit(llama: Path, text: str, wrong: str, tmp_path: Path) -> None:
    message = refused(CompressError, lambda: run(llama, [text], tmp_path / "made"), tmp_path)
    assert wrong in message


def test_a_pattern_that_does_not_fit(tmp_path: Path) -> None:
    from tiny_llama import save_tiny_llama

    source = save_tiny_llama(tmp_path / "source", intermediate_size=50)
    message = refused(
        CompressError, lambda: run(source, ["wanda:pattern=2:4"], tmp_path / "made"), tmp_path
    )
    assert message == (
        "wanda:pattern=2:4 does not fit model.layers.0.mlp.down_proj: 50 inputs are no multiple "
        "of 4; give a sparsity instead of the pattern."
    )


def test_models_that_cannot_be(llama: Path, tmp_path: Path) -> None:
    recipes = [parse_recipe(SOME[0])]

    def call(spec: str) -> Callable[[], Any]:
        return lambda: compress(spec, recipes, tmp_path / "made", CALIBRATION, **HOW)

    assert "is a server, whose weights are not here" in refused(
        CompressError, call("openai:http://localhost:1/v1#m"), tmp_path
    )
    assert "'nonsense' is no engine" in refused(UnknownModelError, call("nonsense"), tmp_path)
    assert "is not a directory" in refused(EngineError, call("hf:/nowhere/at/all"), tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert "is an adapter; merge it first" in refused(
        CompressError, call(f"hf:{adapter}"), tmp_path
    )
    [packed] = run(llama, ["rtn:bits=4,group=16"], tmp_path / "packed")
    for texts in (SOME, ["depth:layers=3"]):
        again = refused(
            CompressError,
            lambda texts=texts: run(packed.folder, texts, tmp_path / "made"),
            tmp_path,
        )
        assert "is compressed already; compress what it was made from." in again


@pytest.mark.parametrize(
    "texts",
    [
        SOME[:1],
        ["wanda:sparsity=0.5"],
        ["rtn:bits=4,group=16"],
        ["depth:layers=3"],
        ["width:ffn=64"],
    ],
)
@pytest.mark.parametrize(
    "where",
    ["model.layers.3.mlp.up_proj.weight", "model.embed_tokens.weight", "model.norm.weight"],
)
def test_weights_that_are_no_numbers(texts: list[str], where: str, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors[where].view(-1)[17] = torch.nan
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    message = refused(CompressError, lambda: run(source, texts, tmp_path / "made"), tmp_path)
    assert message == f"{where} holds NaN or infinity; mend the model first."


def test_a_model_that_is_not_whole(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    assert "is not a whole language model: 1 tensors are missing" in refused(
        EngineError, lambda: run(source, SOME[:1], tmp_path / "made"), tmp_path
    )
    raw = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(raw[: len(raw) // 2])
    message = refused(EngineError, lambda: run(source, SOME[:1], tmp_path / "made"), tmp_path)
    assert message.startswith(f"hf:{source} cannot be opened: ")


def test_a_block_of_an_unknown_kind(tmp_path: Path) -> None:
    """Mixtral's experts are one tensor for all."""
    source = save_tiny("llama", tmp_path / "source")
    (source / "model.safetensors").unlink()
    config = transformers.MixtralConfig(
        vocab_size=360, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).save_pretrained(source)
    message = refused(
        CompressError, lambda: run(source, SOME, tmp_path / "made"), tmp_path / "source"
    )
    assert "is not of a linear layer, the one kind that is known here" in message


@pytest.mark.parametrize("texts", [SOME[:1], ["depth:layers=3"]])
def test_texts_that_do_not_do(llama: Path, texts: list[str], tmp_path: Path) -> None:
    recipes = [parse_recipe(text) for text in texts]

    def call(*examples: Example) -> Callable[[], Any]:
        task = Task("rows", "text", examples)
        return lambda: compress(f"hf:{llama}", recipes, tmp_path / "made", task, **HOW)

    assert "no calibration texts" in refused(DataError, call(), tmp_path)
    empty = call(Example("1", "", "words"), Example("2", ""))
    assert "calibration text 2 is empty" in refused(DataError, empty, tmp_path)


@pytest.mark.parametrize("texts", [SOME[:1], ["depth:layers=3", SOME[0]]])
def test_texts_shorter_than_a_sequence(llama: Path, texts: list[str], tmp_path: Path) -> None:
    task = Task("rows", "text", (Example("1", "", "too short"),))
    recipes = list(map(parse_recipe, texts))
    message = refused(
        DataError,
        lambda: compress(f"hf:{llama}", recipes, tmp_path / "made", task, **HOW),
        tmp_path,
    )
    assert "less than one sequence of 32; give more text, or a shorter --length." in message


def test_t5_needs_targets(tmp_path: Path) -> None:
    source = save_tiny("t5", tmp_path / "source")
    task = Task("rows", "text", (Example("1", "a question"),))
    message = refused(
        DataError,
        lambda: compress(f"hf:{source}", [parse_recipe(SOME[0])], tmp_path / "made", task, **HOW),
        tmp_path,
    )
    assert "is an encoder-decoder" in message
    wide = refused(CompressError, lambda: run(source, ["width:kv=2"], tmp_path / "made"), tmp_path)
    assert "share one position bias" in wide


def test_other_work_is_left_alone(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for texts in (SOME[:1], ["depth:layers=3"]):
        for name in ("used", "file"):
            message = refused(
                OutputError,
                lambda name=name, texts=texts: run(llama, texts, tmp_path / name),  # type: ignore[misc]
                tmp_path,
            )
            assert "is there and not empty" in message
    [one] = run(llama, ["rtn:bits=4,group=16"], tmp_path / "made")
    # the same place for another recipe
    message = refused(OutputError, lambda: run(llama, SOME[:1], tmp_path / "made"), tmp_path)
    assert "is there and not empty" in message
    assert one.manifest == json.loads((one.folder / "manifest.json").read_text())
