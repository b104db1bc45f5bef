"""Caches: equal to the teacher in memory, resumable, refused for other data or tokens."""

import json
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny_llama import save_tiny_llama
from trainings import setting

from featherweight.distill.cache import TeacherCache, tokens_digest
from featherweight.distill.data import Reader, collate, samples
from featherweight.distill.learner import Learner
from featherweight.distill.objective import Objective
from featherweight.distill.settings import Settings
from featherweight.distill.spans import byte_spans, carried
from featherweight.distill.student import open_base
from featherweight.distill.teach import teach
from featherweight.distill.train import train
from featherweight.errors import OutputError, TrainingError
from featherweight.tasks import Task, load_task

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = setting(tmp_path_factory.mktemp("teach"))
    torch.manual_seed(1)
    model, tokenizer, _ = open_base(f"hf:{folder / 'model'}", torch.float32, "cpu")
    for p in model.parameters():  # a teacher that differs
        p.data.mul_(1.3)
    model.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    return folder


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return load_task(str(folder / "rows.jsonl"))


def loss(folder: Path, task: Task, objective: Objective, cache: Path | None) -> torch.Tensor:
    """Loss of all examples, and its gradient, with the teacher in memory or on disk."""
    model, tokenizer, _ = open_base(f"hf:{folder / 'model'}", torch.float32, "cpu")
    reader = Reader(model, tokenizer, "model")
    found = samples(task, reader, 128)
    batch = collate(found, seq2seq=False, start=[], pad=0)
    teacher = head = None
    if cache is None:
        teacher = open_base(f"hf:{folder / 'teacher'}", torch.float32, "cpu")[0].eval()
    else:
        opened = TeacherCache(cache)
        opened.check(found, tokenizer)
        head = opened.head(torch.float32, "cpu")
        batch |= opened.batch(found)
    learner = Learner(model, objective, name="model", teacher=teacher, teacher_head=head)
    out = learner(**batch)["loss"]
    out.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return torch.cat([out.detach()[None], gradient])


CASES = [
    ("hidden", {}, Objective(0.5)),
    ("hidden", {}, Objective(1.0, "jsd", temperature=2.0)),
    ("hidden", {}, Objective(0.5, mask="either")),
    ("topk", {"k": 360, "store": "float32"}, Objective(0.5)),
    ("topk", {"k": 360, "store": "float32"}, Objective(0.5, mask="either")),
    ("topk", {"k": 4}, Objective(0.0, mask="either")),
    ("bits", {}, Objective(0.0, mask="teacher")),
]


@pytest.mark.parametrize(("keep", "options", "objective"), CASES, ids=str)
def test_a_cache_equals_the_teacher(
    folder: Path, task: Task, tmp_path: Path, keep: str, options: dict, objective: Objective
) -> None:
    spec = f"hf:{folder / 'teacher'}"
    told = teach(spec, task, tmp_path / "c", keep=keep, dtype="fp32", **options)  # type: ignore[arg-type]
    want = loss(folder, task, objective, None)
    got = loss(folder, task, objective, tmp_path / "c")
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert told.examples == 20 and told.tokens > 0


def test_half_precision_top_k_is_near(folder: Path, task: Task, tmp_path: Path) -> None:
    teach(f"hf:{folder / 'teacher'}", task, tmp_path / "c", k=300, dtype="fp32")
    want, got = (loss(folder, task, Objective(0.5), c) for c in (None, tmp_path / "c"))
    torch.testing.assert_close(got[0], want[0], rtol=2e-3, atol=2e-3)


def test_a_stopped_cache_goes_on(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after some examples, with half a row written: the rest is added, nothing twice."""
    module = import_module("featherweight.distill.teach")  # the room exports its function
    spec, out = f"hf:{folder / 'teacher'}", tmp_path / "c"
    monkeypatch.setattr(module, "BATCH_TOKENS", 60)
    asked = []

    def stop(done: int, _: int) -> None:
        asked.append(done)
        if done > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(spec, task, out, k=8, dtype="fp32", progress=stop)
    with (out / "logprobs.bin").open("ab") as file:
        file.write(b"half a row")
    resumed: list[int] = []
    teach(spec, task, out, k=8, dtype="fp32", progress=lambda done, _: resumed.append(done))
    assert resumed[0] == asked[-1] > 6
    monkeypatch.undo()
    teach(spec, task, tmp_path / "whole", k=8, dtype="fp32")
    a, b = TeacherCache(out), TeacherCache(tmp_path / "whole")
    model, tokenizer, _ = open_base(spec, torch.float32, "cpu")
    for sample in samples(task, Reader(model, tokenizer, "model"), 128):
        for name, tensor in a.batch([sample]).items():
            torch.testing.assert_close(tensor, b.batch([sample])[name], rtol=1e-3, atol=1e-3)


def test_other_data_other_tokens_other_teacher_are_refused(
    folder: Path, task: Task, tmp_path: Path
) -> None:
    spec, out = f"hf:{folder / 'teacher'}", tmp_path / "c"
    teach(spec, task, out, k=4, dtype="fp32")
    model, tokenizer, _ = open_base(spec, torch.float32, "cpu")
    reader = Reader(model, tokenizer, "model")
    rows = [{"id": "new", "prompt": "Other", "target": " words"}]
    (tmp_path / "o.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    other = samples(load_task(str(tmp_path / "o.jsonl")), reader, 128)
    with pytest.raises(TrainingError, match="nothing for 1 of 1 examples"):
        TeacherCache(out).check(other, tokenizer)
    with pytest.raises(OutputError, match=r"another teacher's cache .*k"):
        teach(spec, task, out, k=5, dtype="fp32")
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(TrainingError, match="another tokenizer"):
        TeacherCache(out).check(samples(task, reader, 128), tokenizer)
    (out / "ids.bin").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"ids\.bin is missing or too short"):
        TeacherCache(out)
    with pytest.raises(TrainingError, match="no teacher's cache"):
        TeacherCache(folder / "model")


def test_the_digest_is_of_tokens_not_of_files(folder: Path) -> None:
    _, a, _ = open_base(f"hf:{folder / 'model'}", torch.float32, "cpu")
    _, b, _ = open_base(f"hf:{folder / 'teacher'}", torch.float32, "cpu")
    assert tokens_digest(a) == tokens_digest(b)
    b.add_tokens(["<new>"])
    assert tokens_digest(a) != tokens_digest(b)


def test_bits_are_the_argmax(folder: Path, task: Task, tmp_path: Path) -> None:
    teach(f"hf:{folder / 'teacher'}", task, tmp_path / "c", keep="bits", dtype="fp32")
    model, tokenizer, _ = open_base(f"hf:{folder / 'teacher'}", torch.float32, "cpu")
    found = samples(task, Reader(model, tokenizer, "model"), 128)
    cache = TeacherCache(tmp_path / "c")
    for sample in found:
        ids = torch.tensor([[*sample.prompt, *sample.target]])
        logits = model(ids).logits[0, len(sample.prompt) - 1 : -1]
        want = logits.argmax(1) == torch.tensor(sample.target)
        assert cache.batch([sample])["teacher_correct"].tolist() == want.tolist()


TEXT = "The marketing team: café, naïve, Größe – 3,141 words!"


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.integers(0, 2**20))
def test_carried_to_itself_is_itself(lengths: list[int], seed: int) -> None:
    ends = np.cumsum(lengths).tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    bits = [bool(seed >> i & 1) for i in range(len(spans))]
    assert carried(bits, spans, spans) == bits


def test_carried_truth() -> None:
    """Large tokens [ab][c][def], small ones [a][bcd][ef] and one without bytes."""
    large, small = [(0, 2), (2, 3), (3, 6)], [(0, 1), (1, 4), (4, 6), (6, 6)]
    assert carried([True, False, True], large, small) == [True, False, True, True]
    assert carried([True, True, False], large, small) == [True, False, False, False]
    assert carried([False, True, True], large, small) == [False, False, True, True]
    assert carried([True, True, True], large, small) == [True] * 4


def test_spans_spell_the_text(folder: Path) -> None:
    model, tokenizer, _ = open_base(f"hf:{folder / 'model'}", torch.float32, "cpu")
    reader = Reader(model, tokenizer, "model")
    spans = byte_spans(reader, reader.prompts.plain(TEXT), TEXT)
    assert spans[0][0] == 0 and spans[-1][1] == len(TEXT.encode())
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    with pytest.raises(TrainingError, match="do not spell"):
        byte_spans(reader, reader.prompts.plain("something else"), TEXT)


def test_bits_across_tokenizers(folder: Path, task: Task, tmp_path: Path) -> None:
    """A teacher with a tokenizer of its own: its bits land on the student's tokens."""
    other = save_tiny_llama(tmp_path / "other", context=200)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:20]  # shorter tokens
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    knowing = Settings(method="sft", lr=0.01, epochs=20, batch=10, micro_batch=10, dtype="fp32")
    train(f"hf:{other}", task, tmp_path / "knows", settings=knowing)  # right now and then
    spec = f"hf:{tmp_path / 'knows'}"
    with pytest.raises(TrainingError, match="another tokenizer"):
        teach(spec, task, tmp_path / "no", student=f"hf:{folder / 'model'}", dtype="fp32")
    teach(spec, task, tmp_path / "c", keep="bits", student=f"hf:{folder / 'model'}", dtype="fp32")
    model, own, _ = open_base(f"hf:{folder / 'model'}", torch.float32, "cpu")
    found = samples(task, Reader(model, own, "model"), 128)
    cache = TeacherCache(tmp_path / "c")
    cache.check(found, own)
    got = [cache.batch([s])["teacher_correct"].tolist() for s in found]
    teach(spec, task, tmp_path / "theirs", keep="bits", dtype="fp32")
    theirs = TeacherCache(tmp_path / "theirs")
    model, its, _ = open_base(spec, torch.float32, "cpu")
    read, want = Reader(model, its, "teacher"), []
    for mine, seen, example in zip(found, samples(task, read, 200), task.examples, strict=True):
        *bits, end = theirs.batch([seen])["teacher_correct"].tolist()
        of = byte_spans(read, seen.target[:-1], example.target)
        to = byte_spans(Reader(model, own, "model"), mine.target[:-1], example.target)
        want.append([*carried(bits, of, to), end])
    assert got == want and 0.2 < np.mean(np.concatenate(want)) < 0.99


def test_log_probabilities_and_tail_are_a_distribution(
    folder: Path, task: Task, tmp_path: Path
) -> None:
    teach(f"hf:{folder / 'teacher'}", task, tmp_path / "c", k=8, dtype="fp32")
    model, tokenizer, _ = open_base(f"hf:{folder / 'teacher'}", torch.float32, "cpu")
    sample = samples(task, Reader(model, tokenizer, "model"), 128)[3]
    rows = TeacherCache(tmp_path / "c").batch([sample])
    total = rows["teacher_logprobs"].float().exp().sum(1) + rows["teacher_tail"]
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-3)
    ids = torch.tensor([[*sample.prompt, *sample.target]])
    logits = model(ids).logits[0, len(sample.prompt) - 1 : -1]
    values, at = F.log_softmax(logits.float(), 1).topk(8)
    assert rows["teacher_ids"].tolist() == at.tolist()
    torch.testing.assert_close(rows["teacher_logprobs"].float(), values, rtol=2e-3, atol=2e-3)
    header = orjson.loads((tmp_path / "c" / "teacher.json").read_bytes())
    assert header["k"] == 8 and header["teacher"]["weights"]
