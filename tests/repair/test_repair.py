"""Whole repairs: what they leave, how they go on, what they refuse."""

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import SafetensorError  # noqa: E402
from tiny_banks import save_tiny_whole  # noqa: E402
from trainings import WORDS, other_weights, setting, weights  # noqa: E402

from featherweight.compress import compress, parse_recipe  # noqa: E402
from featherweight.distill import Settings  # noqa: E402
from featherweight.distill.data import Reader, samples  # noqa: E402
from featherweight.distill.soft import save_bank  # noqa: E402
from featherweight.distill.teach import teach  # noqa: E402
from featherweight.distill.trainer import ObjectiveTrainer  # noqa: E402
from featherweight.engines import Request, load_engine  # noqa: E402
from featherweight.engines.hf_bank import Selection, read_bank  # noqa: E402
from featherweight.engines.hf_prompts import Encoded  # noqa: E402
from featherweight.engines.hf_score import Pair, score  # noqa: E402
from featherweight.engines.transformers import TransformersEngine  # noqa: E402
from featherweight.errors import OutputError, RepairError, TrainingError  # noqa: E402
from featherweight.repair import METHODS, Repaired, repair  # noqa: E402
from featherweight.repair.repair import _slice  # noqa: E402
from featherweight.tasks import Example, Task, load_task  # noqa: E402

pytestmark = pytest.mark.model
module = importlib.import_module("featherweight.repair.repair")  # the package's is the function
PLACES, WIDTH, COUNT = 4, 32, 3
FAST = Settings(
    prompt_tokens=PLACES, steps=3, batch=4, micro_batch=4, lr=0.05, dtype="fp32", save_every=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = setting(tmp_path_factory.mktemp("repair"))
    save_tiny_whole(found / "whole")
    return found


@pytest.fixture(scope="module")
def spec(folder: Path) -> str:
    return f"hf:{folder / 'whole'}"


@pytest.fixture(scope="module")
def data(folder: Path) -> Task:
    return load_task(str(folder / "rows.jsonl"))


@pytest.fixture(scope="module")
def val(folder: Path) -> Task:
    lines = [
        {"prompt": " ".join(WORDS[i : i + 1 + i % 3]), "target": f" {WORDS[-1 - i]} {WORDS[i]}"}
        for i in range(11)
    ]
    path = folder / "val.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_task(str(path))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> str:
    return other_weights(folder / "whole", folder / "teacher")


def loss_of(made: Path, task: Task) -> float:
    """Nats a token of a task's answers, by the engine that a directory opens as."""
    engine = load_engine(f"hf:{made}", dtype="fp32")
    assert isinstance(engine, TransformersEngine)
    model = engine._opened()
    read = samples(task, Reader(model.raw, engine._prompts._tokenizer, "m"), 128)
    pairs = [Pair(i, Encoded(list(s.prompt), []), list(s.target)) for i, s in enumerate(read)]
    values = [value for row in score(model, pairs) for value in row]
    engine.close()
    return -sum(values) / len(values)


def told(manifest: Any) -> Any:
    """A manifest without what differs from run to run."""
    return {key: value for key, value in manifest.items() if key != "versions"}


@pytest.fixture(scope="module")
def made(spec: str, data: Task, val: Task, folder: Path) -> Repaired:
    """A bank of three that was never stopped."""
    return repair(spec, "idp", data, folder / "idp", val=val, count=COUNT, settings=FAST)


# -- a bank


def test_a_bank_of_prompts_that_learnt_apart(made: Repaired, data: Task, val: Task) -> None:
    manifest, output = made.manifest, made.folder
    assert json.loads((output / "manifest.json").read_text()) == manifest
    assert (manifest["m"], manifest["n"]) == (COUNT, PLACES)
    assert manifest["parameters"] == COUNT * PLACES * WIDTH
    parts = [output / "prompts" / f"{k}" for k in range(COUNT)]
    learnt = torch.cat([weights(part)["prompts"] for part in parts])
    assert torch.equal(weights(output)["prompts"], learnt)
    assert len({tuple(prompt.flatten().tolist()) for prompt in learnt}) == COUNT
    runs = [json.loads((part / "manifest.json").read_text())["run"] for part in parts]
    assert [run["settings"]["seed"] for run in runs] == [0, 1, 2]
    assert {run["settings"]["tune"] for run in runs} == {"prompt"}
    assert [run["data"]["examples"] for run in runs] == [6, 7, 7]
    assert sum(manifest["chosen"]) == len(val.examples)
    facts = manifest["val"]
    assert facts["tokens"] > 0 and facts["each"] == pytest.approx([loss_of(p, val) for p in parts])
    assert facts["best"] == min(range(COUNT), key=lambda k: facts["each"][k])
    assert facts["none"] == pytest.approx(loss_of(Path(runs[0]["student"]["spec"][3:]), val))
    best = facts["ways"][0]
    assert facts["oracle"] <= best["loss"] == min(way["loss"] for way in facts["ways"])
    assert facts["oracle"] <= min(facts["each"]) and best["wins"] == manifest["chosen"]
    way = dict(best["selection"])
    assert read_bank("b", output).selection == Selection(**way | {"usual": tuple(way["usual"])})
    assert loss_of(output, val) == pytest.approx(best["loss"], rel=1e-4)
    engine = load_engine(f"hf:{output}", dtype="fp32")
    assert engine.context_length == 256 - PLACES
    (answer,) = engine.generate([Request("The team", max_tokens=5)])
    assert answer.error is None
    engine.close()


def test_one_pass_over_a_deeper_layer_is_told_beside_two(
    made: Repaired, val: Task, tmp_path: Path
) -> None:
    facts = made.manifest["val"]
    once = facts["one_pass"]
    two = next(way for way in facts["ways"] if way["selection"]["layer"] > 0)
    assert once["selection"] == two["selection"]
    how = dict(once["selection"])
    how |= {"usual": tuple(how["usual"])}
    stored = read_bank("b", made.folder)
    for passes, loss in ((1, once["loss"]), (2, two["loss"])):
        output = tmp_path / f"{passes}"
        output.mkdir()
        save_bank(replace(stored, selection=Selection(**how | {"passes": passes})), output)
        assert loss_of(output, val) == pytest.approx(loss, rel=1e-4)


def test_the_best_single_prompt_has_the_least_loss(
    made: Repaired, spec: str, data: Task, val: Task, tmp_path: Path
) -> None:
    found = repair(spec, "prompts", data, tmp_path, val=val, count=COUNT, settings=FAST)
    manifest = found.manifest
    each = manifest["val"]["each"]
    best = each.index(min(each))
    assert each == made.manifest["val"]["each"]  # the same three prompts
    assert manifest["val"]["best"] == best and len(set(each)) == COUNT
    assert (manifest["m"], manifest["parameters"]) == (1, PLACES * WIDTH)
    assert "chosen" not in manifest and "ways" not in manifest["val"]
    assert torch.equal(
        weights(tmp_path)["prompts"], weights(tmp_path / "prompts" / f"{best}")["prompts"]
    )
    assert loss_of(tmp_path, val) == pytest.approx(min(each), rel=1e-4)


def test_one_prompt_needs_no_val(spec: str, data: Task, tmp_path: Path) -> None:
    found = repair(spec, "prompts", data, tmp_path, count=1, settings=FAST)
    assert found.manifest["m"] == 1 and "val" not in found.manifest
    assert loss_of(tmp_path, data) == pytest.approx(loss_of(tmp_path / "prompts" / "0", data))


def test_running_text_is_chosen_for_by_its_beginning(spec: str, tmp_path: Path) -> None:
    """Pieces that fill the context, prompt included, whatever length was asked for."""
    text = Task(
        "text",
        "text",
        tuple(Example(f"{i}", "", " ".join((WORDS[i:] + WORDS[:i]) * 14)) for i in range(4)),
    )
    learnt = replace(
        text, examples=tuple(Example(e.id, "", f"A {e.target}") for e in text.examples)
    )
    long = replace(FAST, max_length=256)
    found = repair(spec, "idp", learnt, tmp_path / "o", val=text, count=2, settings=long)
    engine = load_engine(spec, dtype="fp32")
    assert isinstance(engine, TransformersEngine)
    reader = Reader(engine._opened().raw, engine._prompts._tokenizer, "m")
    read = samples(text, reader, 256 - PLACES)
    lengths = [len(sample) for sample in read]
    assert max(lengths) == 256 - PLACES
    assert found.manifest["val"]["tokens"] == sum(max(0, length - 128) for length in lengths)
    assert sum(found.manifest["chosen"]) == sum(length > 128 for length in lengths)
    short = replace(text, examples=(Example("s", "", "too short"),))
    for method in ("prompts", "idp"):
        with pytest.raises(RepairError, match="no text of text is longer than the 128 tokens"):
            repair(spec, method, learnt, tmp_path / "s", val=short, count=2, settings=FAST)  # type: ignore[arg-type]
        assert not (tmp_path / "s" / "prompts").exists()  # it is said before anything is learnt
    again = repair(spec, "prompts", learnt, tmp_path / "s", val=text, count=2, settings=FAST)
    assert again.manifest["m"] == 1


def test_a_teacher_in_memory_and_from_its_cache(
    spec: str, data: Task, val: Task, teacher: str, tmp_path: Path
) -> None:
    teach(teacher, data, tmp_path / "cache", keep="topk", k=360, store="float32", dtype="fp32")
    found = [
        repair(spec, "prompts", data, tmp_path / name, val=val, teacher=who, count=2, settings=FAST)
        for name, who in (("online", teacher), ("cached", str(tmp_path / "cache")))
    ]
    one, other = (each.manifest["val"]["each"] for each in found)
    assert one == pytest.approx(other, rel=1e-3)
    alone = repair(spec, "prompts", data, tmp_path / "alone", val=val, count=2, settings=FAST)
    assert one != pytest.approx(alone.manifest["val"]["each"], rel=1e-3)
    part = json.loads((tmp_path / "online" / "prompts" / "0" / "manifest.json").read_text())
    assert part["run"]["teacher"]["spec"] == teacher


def test_parts_are_neighbours_and_nobody_shares_a_row() -> None:
    for total, count in ((10, 3), (4, 4), (7, 1), (1000, 7)):
        rows = tuple(Example(f"{i}", "") for i in range(total))
        parts = [_slice(rows, number, count) for number in range(count)]
        assert tuple(row for part in parts for row in part) == rows
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1 and min(sizes) > 0


def test_learnt_rows_choose_nothing(spec: str, data: Task, val: Task, tmp_path: Path) -> None:
    """Of a val that shares rows with what is learnt only the others count."""
    mixed = replace(val, examples=(*data.examples[:3], *val.examples))
    made = [
        repair(spec, "prompts", data, tmp_path / name, val=one, count=2, settings=FAST)
        for name, one in (("mixed", mixed), ("alone", val))
    ]
    assert made[0].manifest["val"] == made[1].manifest["val"]
    for method in ("prompts", "prefix"):
        with pytest.raises(RepairError, match="are learnt, where the best is who knows them"):
            repair(spec, method, data, tmp_path / "o", val=replace(val, examples=data.examples[:4]))
    assert not (tmp_path / "o").exists()


# -- the rivals


def test_a_prefix_is_a_bank_of_one(spec: str, data: Task, val: Task, tmp_path: Path) -> None:
    found = repair(spec, "prefix", data, tmp_path, val=val, settings=FAST)
    learnt = weights(tmp_path)
    assert {name: tuple(value.shape) for name, value in learnt.items()} == {
        "keys": (1, 4, 2, PLACES, 8),
        "values": (1, 4, 2, PLACES, 8),
    }
    size = 2 * 4 * 2 * PLACES * 8
    assert found.manifest["result"]["trained_parameters"] == size
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert (written["m"], written["n"], written["parameters"]) == (1, PLACES, size)
    assert written == found.manifest and written["method"] == "prefix"
    again = repair(spec, "prefix", data, tmp_path, val=val, settings=FAST)
    assert again.manifest == found.manifest
    assert loss_of(tmp_path, val) == pytest.approx(
        found.manifest["result"]["best_metric"], rel=1e-4
    )


def test_lora_and_neo_on_packed_weights(spec: str, data: Task, val: Task, tmp_path: Path) -> None:
    """The uncompressed model teaches; the packed one gets an adapter, and opens with it."""
    packed = tmp_path / "packed"
    compress(spec, [parse_recipe("rtn:bits=4,group=16")], packed, dtype="fp32")
    before = loss_of(packed, data)
    results = {}
    for method, who in (("lora", None), ("neo", spec)):
        output = tmp_path / method
        settings = replace(FAST, steps=6, rank=2, lr=0.01)
        found = repair(
            f"hf:{packed}",
            method,  # type: ignore[arg-type]
            data,
            output,
            val=val,
            teacher=who,
            settings=settings,
        )
        assert (output / "adapter_config.json").is_file()
        assert found.manifest["result"]["steps"] == 6
        results[method] = loss_of(output, data)
    assert results["lora"] < before and results["neo"] < before
    assert results["lora"] != pytest.approx(results["neo"], rel=1e-4)


# -- going on


def test_a_second_equal_call_returns_at_once(
    made: Repaired, spec: str, data: Task, val: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    for name in ("train", "open_base"):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("nothing is left to do"))
    smaller = replace(FAST, micro_batch=2)  # how much fits at once is no other repair
    for settings in (FAST, smaller):
        again = repair(spec, "idp", data, made.folder, val=val, count=COUNT, settings=settings)
        assert again.manifest == made.manifest and again.folder == made.folder
    after = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    assert {p: t for p, t in after.items() if p.name != ".lock"} == {
        p: t for p, t in before.items() if p.name != ".lock"
    }


def die(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def in_the_second_prompt(patch: pytest.MonkeyPatch) -> None:
    step, started = ObjectiveTrainer.training_step, []

    def training_step(self: Any, *rest: Any) -> Any:
        if self.state.global_step == 0:
            started.append(self)
        if len(started) == 2 and self.state.global_step == 2:
            raise KeyboardInterrupt
        return step(self, *rest)

    patch.setattr(ObjectiveTrainer, "training_step", training_step)


def before_the_end(patch: pytest.MonkeyPatch) -> None:
    """The bank is there, the manifest does not say so yet."""
    write = module.write_atomic

    def last(path: Path, raw: bytes) -> None:
        if b'"versions"' in raw:
            raise KeyboardInterrupt
        write(path, raw)

    patch.setattr(module, "write_atomic", last)


@pytest.mark.parametrize(
    "stop",
    [
        in_the_second_prompt,
        lambda patch: patch.setattr(module, "losses", die),
        lambda patch: patch.setattr(module, "choose", die),
        lambda patch: patch.setattr(module, "save_bank", die),
        before_the_end,
    ],
    ids=["second prompt", "on val", "ways", "writing", "before the end"],
)
def test_a_stopped_repair_goes_on(
    made: Repaired, spec: str, data: Task, val: Task, tmp_path: Path, stop: Any
) -> None:
    given: dict[str, Any] = {"val": val, "count": COUNT, "settings": FAST}
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)
        with pytest.raises(KeyboardInterrupt):
            repair(spec, "idp", data, tmp_path, **given)
    finished = tmp_path / "prompts" / "0" / "prompts.safetensors"
    before = finished.stat().st_mtime_ns
    found = repair(spec, "idp", data, tmp_path, **given)
    assert finished.stat().st_mtime_ns == before  # a part that was done is not done again
    assert torch.equal(weights(tmp_path)["prompts"], weights(made.folder)["prompts"])
    assert told(found.manifest) == told(made.manifest)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "bank.json", "manifest.json", "prompts", "prompts.safetensors"}


def test_a_stopped_repair_may_become_another(
    spec: str, data: Task, val: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its prompts learnt depends on neither method nor val; on all else it does."""
    monkeypatch.setattr(module, "losses", die)
    with pytest.raises(KeyboardInterrupt):
        repair(spec, "idp", data, tmp_path, val=val, count=2, settings=FAST)
    monkeypatch.undo()
    with pytest.raises(OutputError, match=r"prompts/0 holds another run \(data differ\)"):
        repair(spec, "prompts", data, tmp_path, val=val, count=3, settings=FAST)
    with pytest.raises(OutputError, match=r"another run \(settings differ\)"):
        other = replace(FAST, lr=0.01)
        repair(spec, "prompts", data, tmp_path, val=val, count=2, settings=other)
    monkeypatch.setattr(ObjectiveTrainer, "training_step", die)
    other = replace(val, name="other", examples=val.examples[1:])
    found = repair(spec, "prompts", data, tmp_path, val=other, count=2, settings=FAST)
    assert found.manifest["run"]["val"]["name"] == "other" and found.manifest["m"] == 1


# -- what is refused


def test_another_repair_is_not_overwritten(
    made: Repaired, spec: str, data: Task, val: Task
) -> None:
    """Rows of the same file's name are compared themselves."""
    fewer = replace(data, examples=data.examples[:-1])
    other = replace(val, examples=(*val.examples[1:], val.examples[0]))
    given: dict[str, Any] = {"val": val, "count": COUNT, "settings": FAST}
    before = (made.folder / "manifest.json").read_bytes()
    for method, rows, changed, words in (
        ("prompts", data, {}, r"\(method differ\)"),
        ("idp", fewer, {}, r"\(data differ\)"),
        ("idp", data, {"val": other}, r"\(val differ\)"),
        ("idp", data, {"count": 2}, r"\(count differ\)"),
        ("idp", data, {"settings": replace(FAST, seed=1)}, r"\(settings differ\)"),
    ):
        with pytest.raises(OutputError, match=rf"holds another repair {words}; choose another"):
            repair(spec, method, rows, made.folder, **given | changed)  # type: ignore[arg-type]
    assert (made.folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["thesis.tex", "manifest.json", "bank.json"])
def test_other_work_is_not_touched(
    spec: str, data: Task, val: Task, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text('{"run": {"command": "train"}}')
    with pytest.raises(OutputError, match=rf"holds other work \({name}\)"):
        repair(spec, "prompts", data, tmp_path, val=val, count=2, settings=FAST)
    assert {path.name for path in tmp_path.iterdir()} <= {name, ".lock"}
    assert (tmp_path / name).read_text() == '{"run": {"command": "train"}}'


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        ("magic", {}, "no repair is called 'magic'; choose prompts, idp, prefix, lora, neo"),
        ("neo", {}, "neo learns from the uncompressed model; name it with --teacher"),
        ("lora", {"teacher": "hf:x"}, "lora learns from no teacher; .* or choose neo"),
        ("idp", {"count": 1}, "idp cannot choose among 1 prompts; give it 2 or more"),
        ("prompts", {"count": 0}, "cannot choose among 0 prompts"),
        ("idp", {"val": None}, "idp chooses among 4 prompts on val; name one with --val"),
        ("prompts", {"val": None, "count": 2}, "prompts chooses among 2 prompts on val"),
        ("idp", {"count": 21}, "21 prompts cannot each learn a part of 20 rows; give more rows"),
        (
            "idp",
            {"settings": replace(FAST, seed=2**32 - 2)},
            "prompt 3 would learn with seed 4294967297, and seeds are below",
        ),
    ],
)
def test_repairs_that_lack_something(
    spec: str, data: Task, val: Task, tmp_path: Path, method: Any, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(RepairError, match=words):
        repair(spec, method, data, tmp_path / "o", **{"val": val, "settings": FAST} | given)
    assert not (tmp_path / "o").exists()


def test_a_bank_is_not_repaired(made: Repaired, data: Task, val: Task, tmp_path: Path) -> None:
    for method in METHODS[:4]:
        with pytest.raises(TrainingError, match="is a prompt bank, not a whole model; name its"):
            repair(f"hf:{made.folder}", method, data, tmp_path / method, val=val, settings=FAST)  # type: ignore[arg-type]


def test_a_full_disk_is_told_and_nothing_is_lost(
    spec: str, data: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(module, "save_bank", full)
    with pytest.raises(OutputError, match=r"cannot write .*No space left"):
        repair(spec, "prompts", data, tmp_path, count=1, settings=FAST)
    monkeypatch.undo()
    assert not (tmp_path / "bank.json").exists()
    monkeypatch.setattr(ObjectiveTrainer, "training_step", die)
    assert repair(spec, "prompts", data, tmp_path, count=1, settings=FAST).manifest["m"] == 1


def running(name: str, words: int) -> Task:
    rows = [" ".join((WORDS[i % 7 :] * 40)[:words]) for i in range(12)]
    return Task(name, "text", tuple(Example(str(i), "", row) for i, row in enumerate(rows)))


def test_texts_too_short_to_choose_by_are_told_of_val_alone(spec: str, tmp_path: Path) -> None:
    long, other, short = running("long", 200), running("other", 199), running("short", 4)
    for data, val, settings, words in (
        (long, short, FAST, "no text of short is longer than the 128 tokens"),
        (
            long,
            other,
            replace(FAST, max_length=64),
            "no text of other, cut at --max-length 64, is longer than",
        ),
        (
            long,
            other,
            replace(FAST, prompt_tokens=300),
            "--prompt-tokens 300 leaves no room in hf:",
        ),
    ):
        with pytest.raises(RepairError, match=words):
            repair(spec, "idp", data, tmp_path / "o", val=val, count=2, settings=settings)
    # what is learnt from may be short: only the prompts' usual scores are taken from it
    found = repair(spec, "idp", short, tmp_path / "bank", val=long, count=2, settings=FAST)
    assert all(not way["selection"]["usual"] for way in found.manifest["val"]["ways"])


def test_a_pad_token_without_an_embedding(folder: Path, data: Task, tmp_path: Path) -> None:
    """A `[PAD]` that was added behind the vocabulary is never read by the model."""
    own = shutil.copytree(folder / "whole", tmp_path / "whole")
    tokenizer = transformers.AutoTokenizer.from_pretrained(own)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(own)
    model = transformers.AutoModelForCausalLM.from_pretrained(own)
    assert tokenizer.pad_token_id >= model.get_input_embeddings().num_embeddings
    assert repair(f"hf:{own}", "prompts", data, tmp_path / "o", count=1, settings=FAST)
