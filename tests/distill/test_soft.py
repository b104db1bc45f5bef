"""Soft prompts and prefixes: their gradient, what learns, what is saved, what is refused."""

import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_banks import save_tiny_whole, tiny_whole
from tiny_llama import save_tiny_llama
from tiny_stacks import save_tiny
from torch import Tensor
from torch.nn import functional
from trainings import losses, other_weights, setting, weights
from transformers import AutoModelForCausalLM, DynamicCache

from featherweight.compress import compress, parse_recipe
from featherweight.distill.data import BLANK, Reader, Sample, collate, samples
from featherweight.distill.learner import Learner
from featherweight.distill.objective import Objective
from featherweight.distill.settings import Settings, derive, described
from featherweight.distill.soft import Soft
from featherweight.distill.student import open_base, trainable
from featherweight.distill.teach import teach
from featherweight.distill.train import _tokens_of, train
from featherweight.distill.trainer import ObjectiveTrainer
from featherweight.engines import Request, hf_open, load_engine
from featherweight.engines.hf_bank import read_bank
from featherweight.engines.hf_model import Model
from featherweight.engines.hf_prompts import Encoded
from featherweight.engines.hf_score import Pair, score
from featherweight.engines.identity import identity
from featherweight.engines.transformers import TransformersEngine
from featherweight.errors import TrainingError
from featherweight.tasks import Example, Task, load_task

pytestmark = pytest.mark.model
PLACES = 5
FAST: dict[str, Any] = {
    "dtype": "fp32",
    "batch": 4,
    "micro_batch": 2,
    "prompt_tokens": PLACES,
    "lr": 0.05,
}
KINDS = ["prompt", "prefix"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return setting(tmp_path_factory.mktemp("soft"))


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return load_task(str(folder / "rows.jsonl"))


def student(folder: Path) -> str:
    return f"hf:{folder / 'model'}"


def ragged(rows: Sequence[tuple[int, int]] = ((3, 4), (1, 1), (6, 2), (2, 9))) -> list[Sample]:
    """Samples with so many tokens of prompt and target."""
    drawn = torch.Generator().manual_seed(2)
    return [
        Sample(
            f"{i}",
            tuple(torch.randint(2, 360, (prompt,), generator=drawn).tolist()),
            tuple(torch.randint(2, 360, (target,), generator=drawn).tolist()),
        )
        for i, (prompt, target) in enumerate(rows)
    ]


def cross_entropy(logits: Tensor, sample: Sample) -> Tensor:
    """Summed over the targets; the last `len(sample)` rows of `logits` are the sample's."""
    rows = logits[-len(sample) :][len(sample.prompt) - 1 : -1]
    return functional.cross_entropy(rows, torch.tensor(sample.target), reduction="sum")


def behind(model: Any, prompt: Tensor, sample: Sample) -> Tensor:
    """Plain logits of [prompt; sample], embeddings put together."""
    read = model.get_input_embeddings()(torch.tensor([*sample.prompt, *sample.target]))
    embeds = torch.cat([prompt, read])[None]
    found: Tensor = model(inputs_embeds=embeds, use_cache=False).logits[0]
    return found


# -- the gradient


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma"])
@pytest.mark.parametrize("tune", KINDS)
def test_the_gradient_is_that_of_plain_cross_entropy(kind: str, tune: Any) -> None:
    """In float64, one unpadded row at a time, against a padded batch with a blank in it."""
    model, batch = tiny_whole(kind), ragged()
    slow = copy.deepcopy(model).double()
    soft = Soft(model, "base", tune, torch.tensor([7, 9, 300, 7]))
    learner = Learner(soft, Objective(), name="base")
    tokens = sum(len(sample.target) for sample in batch)
    inputs = collate([*batch, BLANK], seq2seq=False, start=[], pad=0)
    loss = learner(**inputs, num_items_in_batch=tokens)["loss"]
    loss.backward()
    learnt = {name: p.detach().double().requires_grad_() for name, p in trainable(soft).items()}
    want = torch.zeros((), dtype=torch.float64)
    for sample in batch:
        if tune == "prompt":
            logits = behind(slow, learnt["prompts"], sample)
        else:
            cache = DynamicCache()
            for layer, pair in enumerate(zip(learnt["keys"], learnt["values"], strict=True)):
                cache.update(pair[0][None], pair[1][None], layer)
            ids = torch.tensor([[*sample.prompt, *sample.target]])
            logits = slow(ids, past_key_values=cache, use_cache=True).logits[0]
        want = want + cross_entropy(logits, sample) / tokens
    want.backward()
    assert float(loss.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    assert sorted(learnt) == (["prompts"] if tune == "prompt" else ["keys", "values"])
    for name, parameter in trainable(soft).items():
        reference = learnt[name].grad
        assert reference is not None and float(reference.abs().max()) > 1e-3
        torch.testing.assert_close(parameter.grad, reference.float(), rtol=1e-3, atol=1e-6)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize("tune", KINDS)
def test_it_starts_as_tokens_that_are_put_before(kind: str, tune: Any) -> None:
    model, ids = tiny_whole(kind), [7, 9, 300, 7]
    soft = Soft(model, "base", tune, torch.tensor(ids))
    batch = ragged()
    inputs = collate(batch, seq2seq=False, start=[], pad=0)
    with torch.no_grad():
        got = soft(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        for row, sample in zip(got, batch, strict=True):
            read = [*sample.prompt, *sample.target[:-1]]
            want = model(torch.tensor([[*ids, *read]])).logits[0, len(ids) :]
            torch.testing.assert_close(row[: len(read)], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tune", KINDS)
def test_the_first_loss_is_that_of_the_drawn_tokens(
    folder: Path, task: Task, tmp_path: Path, tune: Any
) -> None:
    settings = Settings(tune=tune, steps=1, **{**FAST, "batch": 20})
    train(student(folder), task, tmp_path / "o", settings=settings)
    model, tokenizer, _ = open_base(student(folder), torch.float32, "cpu")
    read = samples(task, Reader(model, tokenizer, "m"), 128)
    start = _tokens_of(read, PLACES, settings.seed)
    assert set(start.tolist()) <= {token for s in read for token in (*s.prompt, *s.target)}
    assert len(start) == PLACES and len(set(start.tolist())) > 1
    assert start.tolist() != _tokens_of(read, PLACES, 1).tolist()
    with torch.no_grad():
        prompt = model.get_input_embeddings()(start)
        sums = [cross_entropy(behind(model, prompt, sample), sample) for sample in read]
    tokens = sum(len(sample.target) for sample in read)
    assert losses(tmp_path / "o")[1] == pytest.approx(float(sum(sums)) / tokens, rel=1e-5)


# -- a training


@pytest.mark.parametrize("tune", KINDS)
def test_nothing_learns_but_the_prompt(
    folder: Path, task: Task, tmp_path: Path, tune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Soft] = []
    module = sys.modules["featherweight.distill.train"]  # the package's `train` is the function
    save = module.save_student

    def note(model: Any, *rest: Any, **more: Any) -> None:
        made.append(model)
        save(model, *rest, **more)

    monkeypatch.setattr(module, "save_student", note)
    before = identity(student(folder))
    settings = Settings(tune=tune, weight_decay=0.1, epochs=2, **FAST)
    found = train(student(folder), task, tmp_path / "o", settings=settings)
    fresh = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    (soft,) = made
    kept = soft.base.state_dict()
    for name, value in fresh.state_dict().items():
        assert torch.equal(kept[name], value), name
    assert identity(student(folder)) == before
    learnt = weights(tmp_path / "o")
    shapes = {name: tuple(value.shape) for name, value in learnt.items()}
    side = (1, 2, 2, PLACES, 8)
    assert shapes == (
        {"prompts": (1, PLACES, 32)} if tune == "prompt" else {"keys": side, "values": side}
    )
    count = sum(value.numel() for value in learnt.values())
    assert found.result["trained_parameters"] == count
    told = losses(tmp_path / "o")
    epochs = [sum(told[step] for step in steps) for steps in (range(1, 6), range(6, 11))]
    assert max(told) == 10 and epochs[1] < epochs[0]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        ".lock",
        "bank.json",
        "log.jsonl",
        "manifest.json",
        "prompts.safetensors",
    ]


@pytest.mark.parametrize("tune", KINDS)
def test_accumulation_is_no_other_training(
    folder: Path, task: Task, tmp_path: Path, tune: Any
) -> None:
    for name, at_once in (("1x8", 8), ("8x1", 1)):
        settings = Settings(
            tune=tune,
            optimiser="sgd",  # Adam would hide a loss that is scaled wrongly
            **{**FAST, "batch": 8, "micro_batch": at_once, "lr": 0.1, "epochs": 2, "clip": 100.0},
        )
        train(student(folder), task, tmp_path / name, settings=settings)
    one, other = weights(tmp_path / "1x8"), weights(tmp_path / "8x1")
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-4, atol=2e-5)
    assert losses(tmp_path / "1x8") == pytest.approx(losses(tmp_path / "8x1"), rel=1e-4)
    assert max(losses(tmp_path / "1x8")) == 6


@pytest.mark.parametrize("tune", KINDS)
def test_stopped_and_resumed_is_never_stopped(
    folder: Path, task: Task, tmp_path: Path, tune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(tune=tune, save_every=2, epochs=2, **FAST)
    whole = train(student(folder), task, tmp_path / "whole", settings=settings)
    step = ObjectiveTrainer.training_step

    def die(self: Any, *rest: Any) -> Any:
        if self.state.global_step == 7:  # in the second epoch; the last checkpoint is of step 6
            raise KeyboardInterrupt
        return step(self, *rest)

    monkeypatch.setattr(ObjectiveTrainer, "training_step", die)
    with pytest.raises(KeyboardInterrupt):
        train(student(folder), task, tmp_path / "cut", settings=settings)
    monkeypatch.undo()
    assert not (tmp_path / "cut" / "bank.json").exists()
    again = train(student(folder), task, tmp_path / "cut", settings=settings)
    assert again.result["resumed_after"] == 6 and whole.result["resumed_after"] is None
    assert again.result["steps"] == whole.result["steps"] == 10
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=0)
    once_more = train(student(folder), task, tmp_path / "cut", settings=settings)
    assert once_more.result == again.result


@pytest.mark.parametrize("pays", [False, True])
def test_it_goes_on_in_the_precision_that_it_began_in(
    folder: Path, task: Task, tmp_path: Path, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which one is faster is measured, and may come out otherwise in the middle."""
    settings = Settings(tune="prompt", save_every=2, steps=5, **FAST | {"dtype": "auto"})
    monkeypatch.setattr(hf_open, "bf16_pays", lambda device: (pays, "measured"))
    train(student(folder), task, tmp_path / "whole", settings=settings)
    step = ObjectiveTrainer.training_step

    def die(self: Any, *rest: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ObjectiveTrainer, "training_step", die)
        train(student(folder), task, tmp_path / "cut", settings=settings)
    monkeypatch.setattr(hf_open, "bf16_pays", lambda device: (not pays, "measured"))
    heard: dict[str, Any] = {}
    train(student(folder), task, tmp_path / "cut", settings=settings, tell=heard.__setitem__)
    [precision] = [row[1:] for row in heard["plan"]["rows"] if row[0] == "precision"]
    assert precision == ("bfloat16" if pays else "float32", "as the run began")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=0)


@pytest.fixture(scope="module")
def teacher(folder: Path) -> str:
    return other_weights(folder / "model", folder / "teacher")


def test_a_teacher_reads_without_the_prompt(
    folder: Path, task: Task, tmp_path: Path, teacher: str
) -> None:
    """In memory and from its cache: one trajectory, whose first loss is CE and KL by hand."""
    teach(teacher, task, tmp_path / "cache", keep="topk", k=360, store="float32", dtype="fp32")
    for name, source in (("online", teacher), ("cached", str(tmp_path / "cache"))):
        settings = Settings(tune="prompt", optimiser="sgd", **{**FAST, "batch": 20})
        train(student(folder), task, tmp_path / name, teacher=source, settings=settings)
    one, other = weights(tmp_path / "online"), weights(tmp_path / "cached")
    torch.testing.assert_close(other["prompts"], one["prompts"], rtol=1e-4, atol=1e-6)
    model, tokenizer, _ = open_base(student(folder), torch.float32, "cpu")
    large, _, _ = open_base(teacher, torch.float32, "cpu")
    read = samples(task, Reader(model, tokenizer, "m"), 128)
    start = model.get_input_embeddings()(_tokens_of(read, PLACES, 0))
    total, tokens = 0.0, 0
    with torch.no_grad():
        for sample in read:
            logits = behind(model, start, sample)
            kept = slice(len(sample.prompt) - 1, len(sample) - 1)
            ours = logits[-len(sample) :][kept].log_softmax(-1)
            ids = torch.tensor([[*sample.prompt, *sample.target]])
            theirs = large(ids).logits[0][kept].log_softmax(-1)
            total += 0.5 * float(cross_entropy(logits, sample))
            total += 0.5 * float((theirs.exp() * (theirs - ours)).sum())
            tokens += len(sample.target)
    assert losses(tmp_path / "online")[1] == pytest.approx(total / tokens, rel=1e-4)
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "online"), rel=1e-4)


def loss_of(bank: Path, task: Task) -> float:
    """Nats a token of a task behind a saved bank, as an engine scores them."""
    engine = load_engine(f"hf:{bank}", dtype="fp32")
    assert isinstance(engine, TransformersEngine)
    model: Model = engine._opened()
    read = samples(task, Reader(model.raw, engine._prompts._tokenizer, "m"), 120)
    pairs = [Pair(i, Encoded(list(s.prompt), []), list(s.target)) for i, s in enumerate(read)]
    values = [value for row in score(model, pairs) for value in row]
    engine.close()
    return -sum(values) / len(values)


@pytest.mark.parametrize("tune", KINDS)
def test_what_is_saved_is_what_was_evaluated(
    folder: Path, task: Task, tmp_path: Path, tune: Any
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    short = replace(task, max_tokens=40)
    found = train(
        student(folder),
        task,
        tmp_path / "o",
        val=short,
        settings=Settings(tune=tune, eval_every=2, eval_texts=2, epochs=2, **FAST),
        tell=lambda kind, facts: told.append((kind, dict(facts))),
    )
    evals = {facts["step"]: facts for kind, facts in told if kind == "eval"}
    assert sorted(evals) == [2, 4, 6, 8, 10]
    best = evals[found.result["best_step"]]
    assert best["eval_loss"] == min(facts["eval_loss"] for facts in evals.values())
    assert loss_of(tmp_path / "o", task) == pytest.approx(best["eval_loss"], rel=1e-4)
    # the texts on the way were written behind the prompt too
    answers = {facts["step"]: facts["answer"] for kind, facts in told if kind == "text"}
    engine, alone = (
        load_engine(f"hf:{path}", dtype="fp32") for path in (tmp_path / "o", folder / "model")
    )
    asked = Request(task.examples[0].prompt, max_tokens=40)
    (answer,), (without,) = engine.generate([asked]), alone.generate([asked])
    assert answer.text == answers[found.result["best_step"]] != without.text
    assert set(answers) == set(evals)


def test_a_prompt_that_learns_an_answer_by_heart_gives_it(folder: Path, tmp_path: Path) -> None:
    own = Task("own", "summary", (Example("1", "The team", " is easy"),), max_tokens=12)
    settings = Settings(tune="prompt", steps=60, **{**FAST, "batch": 1, "micro_batch": 1})
    train(student(folder), own, tmp_path / "o", settings=settings)
    engine = load_engine(f"hf:{tmp_path / 'o'}", dtype="fp32")
    (answer,) = engine.generate([Request("The team", max_tokens=12)])
    assert answer.text == " is easy" and answer.finish_reason == "stop"
    engine.close()


def test_steps_too_small_for_bfloat16_are_not_lost(
    folder: Path, task: Task, tmp_path: Path
) -> None:
    """The base is computed in bfloat16, the prompt learns in float32."""
    settings = Settings(tune="prompt", steps=1, warmup=0, **{**FAST, "dtype": "bf16", "lr": 1e-6})
    train(student(folder), task, tmp_path / "o", settings=settings)
    model, tokenizer, _ = open_base(student(folder), torch.bfloat16, "cpu")
    read = samples(task, Reader(model, tokenizer, "m"), 128)
    start = model.get_input_embeddings()(_tokens_of(read, PLACES, 0)).detach().float()
    (learnt,) = weights(tmp_path / "o").values()
    moved = (learnt[0] - start).abs()
    assert learnt.dtype == torch.float32 and 0 < float(moved.max()) < 2e-6
    assert torch.equal(learnt[0].bfloat16().float(), start)  # bfloat16 would have seen nothing


def test_the_bank_is_of_one_and_names_its_base(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    train("hf:model", task, tmp_path / "o", settings=Settings(tune="prompt", steps=1, **FAST))
    monkeypatch.chdir(tmp_path)
    stored = read_bank("o", tmp_path / "o")
    assert (stored.m, stored.n) == (1, PLACES)
    assert stored.base == str(folder / "model")
    assert stored.weights == identity(student(folder))["weights"]
    load_engine("hf:o", dtype="fp32").close()


# -- what is derived, what is refused


def test_the_method_follows_the_teacher() -> None:
    for tune in KINDS:
        alone, taught = (derive(Settings(tune=tune), 1, told) for told in (False, True))  # type: ignore[arg-type]
        assert (alone.method, taught.method) == ("sft", "kd")
        assert alone.rank is alone.alpha is None and alone.lr == 1e-2 and alone.places == 20
        assert ("places", "20", "") in described(alone)
        assert derive(Settings(tune=tune, method="sft"), 1, False).tune == tune  # type: ignore[arg-type]
    assert "places" not in {name for name, _, _ in described(derive(Settings(), 1, False))}


@pytest.mark.parametrize("tune", KINDS)
@pytest.mark.parametrize(
    ("method", "told", "words"),
    [
        ("lora", False, "say --method sft"),
        ("neo", True, "say --method kd"),
        ("cat-xent", True, "say --method sft"),
        ("cat-dist", True, "say --method kd"),
        ("gatekeeper", False, "say --method sft"),
        ("sft", True, "leave it out, or choose kd"),
        ("kd", False, "add --teacher"),
    ],
)
def test_methods_that_learn_otherwise(tune: Any, method: Any, told: bool, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        derive(Settings(tune=tune, method=method), 1, told)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gradient_checkpointing": True}, "leave --gradient-checkpointing out"),
        ({"max_length": 4096}, r"more than hf:.* holds \(128\)"),
        ({"prompt_tokens": 127}, r"--prompt-tokens 127 leaves no room in hf:.* holds 128"),
        ({"prompt_tokens": 500}, "leaves no room"),
        ({"prompt_tokens": 110}, "longer than 18 tokens"),
    ],
)
@pytest.mark.parametrize("tune", KINDS)
def test_settings_that_do_not_fit(
    folder: Path, task: Task, tmp_path: Path, tune: Any, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(TrainingError, match=words):
        train(student(folder), task, tmp_path, settings=Settings(tune=tune, **{**FAST, **settings}))
    assert not (tmp_path / "bank.json").exists()


@pytest.mark.parametrize("kind", ["t5", "phi3", "mistral"])
def test_models_that_take_no_prompt(task: Task, tmp_path: Path, kind: str) -> None:
    spec = f"hf:{save_tiny(kind, tmp_path / 'model')}"
    with pytest.raises(TrainingError, match="learn a LoRA instead"):
        train(spec, task, tmp_path / "o", settings=Settings(tune="prompt", **FAST))


def test_running_text_leaves_room_for_the_prompt(folder: Path, tmp_path: Path) -> None:
    """Pieces of it and the prompt fill the context together, and no more than that."""
    text = Task("text", "text", (Example("1", "", "the remote control is easy " * 30),))
    seen: list[int] = []
    forward = Soft.forward

    def note(self: Any, input_ids: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(input_ids.shape[1])
        return forward(self, input_ids, *rest, **more)

    settings = Settings(tune="prompt", steps=1, **{**FAST, "batch": 1, "micro_batch": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Soft, "forward", note)
        train(student(folder), text, tmp_path / "o", settings=settings)
    assert max(seen) <= 128 - PLACES


# -- packed models


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A packed directory, and its dequantised dense copy."""
    base = save_tiny_whole(tmp_path_factory.mktemp("base"))
    root = tmp_path_factory.mktemp("packed")
    recipe = parse_recipe("rtn:bits=4,group=16")
    compress(f"hf:{base}", [recipe], root / "packed", dtype="fp32")
    model, _, _ = open_base(f"hf:{root / 'packed'}", torch.float32, "cpu")
    save_tiny_llama(root / "dense")
    (root / "dense" / "model.safetensors").unlink()
    model.save_pretrained(root / "dense")
    original = load_file(base / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(load_file(root / "dense" / "model.safetensors")[name], original[name])
    return root / "packed", root / "dense"


def test_packed_logits_are_dequantised_logits(packed: tuple[Path, Path]) -> None:
    inputs = collate(ragged(), seq2seq=False, start=[], pad=0)
    read = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    both = [open_base(f"hf:{path}", torch.float32, "cpu")[0] for path in packed]
    with torch.no_grad():
        one, other = (model(**read).logits for model in both)
        assert torch.equal(one, other)
        for tune in KINDS:
            start = torch.tensor([7, 9, 300])
            one, other = (Soft(model, "m", tune, start)(**read).logits for model in both)  # type: ignore[arg-type]
            assert torch.equal(one, other)


def test_a_prompt_learns_on_a_packed_model(
    packed: tuple[Path, Path], task: Task, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in packed[0].iterdir()}
    settings = Settings(tune="prompt", eval_every=5, epochs=2, **FAST)
    results = [
        train(f"hf:{path}", task, tmp_path / path.name, val=task, settings=settings).result
        for path in packed
    ]
    one, other = (weights(tmp_path / path.name)["prompts"] for path in packed)
    assert torch.equal(one, other) and results[0]["best_metric"] == results[1]["best_metric"]
    assert loss_of(tmp_path / "packed", task) == pytest.approx(results[0]["best_metric"], rel=1e-4)
    told = losses(tmp_path / "packed")
    assert told[10] < told[1]
    assert {path.name: path.read_bytes() for path in packed[0].iterdir()} == files
