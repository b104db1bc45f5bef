"""Whole trainings in this process: what they leave, what they refuse, T5."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import save_tiny_llama
from tiny_t5 import save_tiny_t5
from trained_t5 import TrainedT5
from trainings import losses, setting, weights
from transformers import AutoModelForCausalLM

from featherweight.compress import prune
from featherweight.distill import checkpoints
from featherweight.distill.data import Reader, samples
from featherweight.distill.settings import Settings
from featherweight.distill.student import open_base
from featherweight.distill.teach import teach, teach_text
from featherweight.distill.train import train
from featherweight.engines import load_engine
from featherweight.errors import DataError, OutputError, TrainingError
from featherweight.evaluate.rouge import rouge
from featherweight.tasks import Example, Task, evaluate, load_task
from featherweight.tasks.run import run_task
from featherweight.tasks.store import Store, locked

pytestmark = pytest.mark.model
FAST: dict[str, Any] = {"dtype": "fp32", "batch": 4, "micro_batch": 2, "lr": 0.01, "epochs": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return setting(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return load_task(str(folder / "rows.jsonl"))


def student(folder: Path) -> str:
    return f"hf:{folder / 'model'}"


def test_a_weight_of_zero_is_sft(folder: Path, task: Task, tmp_path: Path) -> None:
    for name, method, more in (("a", "sft", {}), ("b", "kd", {"kd_weight": 0.0})):
        train(
            student(folder),
            task,
            tmp_path / name,
            teacher=student(folder) if method == "kd" else None,
            settings=Settings(method=method, **more, **FAST),  # type: ignore[arg-type]
        )
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


@pytest.mark.parametrize("keep", ["hidden", "topk"])
def test_a_cached_teacher_is_the_teacher(
    folder: Path, task: Task, tmp_path: Path, keep: str
) -> None:
    """The whole way through: the same trajectory with the teacher in memory and on disk."""
    other = tmp_path / "teacher"
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    for p in model.parameters():
        p.data.mul_(1.2)
    model.save_pretrained(other)
    for file in (folder / "model").glob("tokenizer*"):
        (other / file.name).write_bytes(file.read_bytes())
    store = "float32" if keep == "topk" else None
    spec = f"hf:{other}"
    teach(spec, task, tmp_path / "cache", keep=keep, k=360, store=store, dtype="fp32")  # type: ignore[arg-type]
    for name, teacher in (("online", spec), ("cached", str(tmp_path / "cache"))):
        train(
            student(folder),
            task,
            tmp_path / name,
            teacher=teacher,
            settings=Settings(method="neo", optimiser="sgd", **FAST),
        )
    one, other_ = weights(tmp_path / "online"), weights(tmp_path / "cached")
    for key in one:
        torch.testing.assert_close(one[key], other_[key], rtol=1e-4, atol=1e-6)
    assert losses(tmp_path / "online") == pytest.approx(losses(tmp_path / "cached"), rel=1e-4)


@torch.no_grad()
def mean_loss(model: Path, task: Task) -> float:
    """Cross-entropy of all target tokens, one example at a time."""
    opened, tokenizer, _ = open_base(f"hf:{model}", torch.float32, "cpu")
    total = tokens = 0.0
    for sample in samples(task, Reader(opened, tokenizer, "m"), 128):
        ids = torch.tensor([[*sample.prompt, *sample.target]])
        rows = opened(ids).logits[0, len(sample.prompt) - 1 : -1].log_softmax(-1)
        total -= float(rows.gather(1, torch.tensor(sample.target)[:, None]).sum())
        tokens += len(sample.target)
    return total / tokens


def test_the_best_is_kept_and_patience_ends(folder: Path, task: Task, tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    settings = Settings(
        method="sft",
        eval_every=1,
        patience=2,
        eval_texts=2,
        **{**FAST, "lr": 0.5, "epochs": 9},  # far too high: the first steps are the best
    )
    found = train(
        student(folder),
        task,
        tmp_path / "o",
        val=task,
        settings=settings,
        tell=lambda kind, facts: told.append((kind, dict(facts))),
    )
    evals = [facts for kind, facts in told if kind == "eval"]
    best = min(evals, key=lambda facts: facts["eval_loss"])
    assert found.result["best_step"] == best["step"] < found.result["steps"]
    assert found.result["steps"] == best["step"] + 2 < 45
    assert {"eval_rouge1", "eval_words", "eval_ce"} <= best.keys()
    assert sum(kind == "text" for kind, _ in told) == len(evals)
    again = train(student(folder), task, tmp_path / "o", val=task, settings=settings)
    assert again.result == found.result
    # what was saved is the best one, not the last
    saved = mean_loss(tmp_path / "o", task)
    assert saved == pytest.approx(best["eval_loss"], rel=1e-4)


def test_patience_waits_while_it_gets_better(folder: Path, task: Task, tmp_path: Path) -> None:
    settings = Settings(method="sft", eval_every=1, patience=1, **{**FAST, "lr": 0.002})
    found = train(student(folder), task, tmp_path / "o", val=task, settings=settings)
    assert found.result["steps"] == found.result["best_step"] == 5


def test_nothing_is_learnt_after_the_end(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the last checkpoint and the model: the same model, not one step more."""
    from featherweight.distill import folder as module

    settings = Settings(method="sft", **{**FAST, "epochs": 9, "steps": 7}, save_every=1)
    whole = train(student(folder), task, tmp_path / "whole", settings=settings)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "publish", die)
    with pytest.raises(KeyboardInterrupt):
        train(student(folder), task, tmp_path / "cut", settings=settings)
    monkeypatch.undo()
    again = train(student(folder), task, tmp_path / "cut", settings=settings)
    assert again.result["steps"] == whole.result["steps"] == 7
    for key, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "cut")[key], value, rtol=0, atol=0)


def test_an_early_stop_stays_stopped(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featherweight.distill import folder as module

    settings = Settings(method="sft", eval_every=1, patience=2, **{**FAST, "lr": 0.5, "epochs": 9})
    whole = train(student(folder), task, tmp_path / "whole", val=task, settings=settings)
    monkeypatch.setattr(module, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(student(folder), task, tmp_path / "cut", val=task, settings=settings)
    monkeypatch.undo()
    again = train(student(folder), task, tmp_path / "cut", val=task, settings=settings)
    assert again.result["steps"] == whole.result["steps"] < 45
    assert again.result["best_step"] == whole.result["best_step"]


def test_how_much_fits_at_once_is_no_other_run(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After running out of memory the same command with a smaller micro-batch goes on."""
    from featherweight.distill import folder as module

    big = Settings(method="sft", save_every=1, **{**FAST, "micro_batch": 4})
    monkeypatch.setattr(module, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(student(folder), task, tmp_path / "o", settings=big)
    monkeypatch.undo()
    small = Settings(method="sft", save_every=1, **{**FAST, "micro_batch": 1})
    assert train(student(folder), task, tmp_path / "o", settings=small).result["steps"] == 5


def test_evaluation_is_over_all_tokens(folder: Path, task: Task, tmp_path: Path) -> None:
    """Not the mean of micro-batches' means; no blank, no example twice."""
    told: list[dict[str, Any]] = []
    train(
        student(folder),
        task,
        tmp_path / "o",
        val=task,
        settings=Settings(method="sft", eval_every=1, steps=1, **{**FAST, "lr": 1e-12}),
        tell=lambda kind, facts: told.append(dict(facts)) if kind == "eval" else None,
    )
    assert told[0]["eval_loss"] == pytest.approx(mean_loss(folder / "model", task), rel=1e-4)


def test_what_is_learnt_can_be_used(folder: Path, tmp_path: Path) -> None:
    """A LoRA that learns three answers by heart says them, through the engine and the task."""
    pairs = [("The team", " is easy"), ("Question:", " yes, no, maybe"), ("Answer:", " café")]
    rows = tuple(Example(f"{i}", p, t) for i, (p, t) in enumerate(pairs))
    own = Task("own", "summary", rows, max_tokens=12)
    settings = {**FAST, "epochs": 150, "batch": 3, "micro_batch": 3, "lr": 0.02}
    train(student(folder), own, tmp_path / "o", settings=Settings(method="lora", **settings))
    engine = load_engine(f"hf:{tmp_path / 'o'}", dtype="fp32")
    (tmp_path / "e").mkdir()
    with locked(tmp_path / "e"):
        store = Store(tmp_path / "e", {})
        outcome = run_task(own, engine, store)
        store.close()
    engine.close()
    assert [outcome.rows[e.id]["prediction"] for e in rows] == [t.strip() for _, t in pairs]
    assert {row["finish_reason"] for row in outcome.rows.values()} == {"stop"}


def test_texts_of_a_teacher_are_data(folder: Path, task: Task, tmp_path: Path) -> None:
    from dataclasses import replace

    short = replace(task, max_tokens=60)
    engine = load_engine(student(folder), dtype="fp32")
    report, kept = teach_text(engine, student(folder), short, tmp_path / "t")
    engine.close()
    rows = [json.loads(line) for line in (tmp_path / "t" / "rows.jsonl").read_text().splitlines()]
    assert report.cost.completion_tokens > 0 and 0 < len(rows) == kept
    answers = [
        json.loads(line) for line in (tmp_path / "t" / "predictions.jsonl").read_text().splitlines()
    ]
    ended = {a["id"] for a in answers if a["finish_reason"] == "stop" and a["prediction"]}
    assert {row["id"] for row in rows} == ended  # what was cut off would teach to end there
    humans = {e.id: e.target for e in task.examples}
    assert all(row["human"] == humans[row["id"]] and row["teacher"] for row in rows)
    told = load_task(str(tmp_path / "t" / "rows.jsonl"))
    found = train(student(folder), told, tmp_path / "o", settings=Settings(method="lora", **FAST))
    assert found.result["steps"] > 0


# -- what is refused, with nothing lost


def test_a_loss_that_is_no_number_stops_and_names_the_batch(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featherweight.distill.learner import Learner

    old = Learner.forward

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = old(self, *args, **kwargs)
        if self.steps > 7:
            out["loss"] = out["loss"] * float("nan")
        self.steps += 1
        return out

    Learner.steps = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(Learner, "forward", broken)
    settings = Settings(method="lora", save_every=1, **FAST)
    with pytest.raises(TrainingError, match=r"loss is not a finite number at step 5.* r\d+.*-4 is"):
        train(student(folder), task, tmp_path / "o", settings=settings)
    assert checkpoints.newest(tmp_path / "o" / "checkpoints") is not None
    monkeypatch.undo()
    again = train(student(folder), task, tmp_path / "o", settings=settings)
    assert again.result["resumed_after"] == 4 and again.result["steps"] == 5


def test_other_work_is_not_touched(folder: Path, task: Task, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of it")
    with pytest.raises(OutputError, match=r"other work \(thesis\.tex\)"):
        train(student(folder), task, tmp_path, settings=Settings(method="sft", **FAST))
    assert [p.name for p in tmp_path.iterdir() if p.name != ".lock"] == ["thesis.tex"]


def test_what_a_kill_at_the_end_left_goes(folder: Path, task: Task, tmp_path: Path) -> None:
    settings = Settings(method="sft", **FAST)
    (tmp_path / "p").mkdir()
    train(student(folder), task, tmp_path / "o", settings=settings)
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())
    (tmp_path / "p" / "manifest.json").write_text(json.dumps({"run": manifest["run"]}))
    (tmp_path / "p" / ".model.abc").mkdir()  # killed while the model was written
    train(student(folder), task, tmp_path / "p", settings=settings)
    assert not (tmp_path / "p" / ".model.abc").exists()
    (tmp_path / "p" / "checkpoints" / "checkpoint-5").mkdir(parents=True)  # or just after it
    train(student(folder), task, tmp_path / "p", settings=settings)
    assert not (tmp_path / "p" / "checkpoints").exists()


def test_another_run_is_not_overwritten(folder: Path, task: Task, tmp_path: Path) -> None:
    train(student(folder), task, tmp_path, settings=Settings(method="sft", **FAST))
    with pytest.raises(OutputError, match=r"another run \(settings differ\)"):
        train(student(folder), task, tmp_path, settings=Settings(method="sft", seed=1, **FAST))
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(OutputError, match="belongs to something else"):
        train(student(folder), task, tmp_path, settings=Settings(method="sft", **FAST))


def test_another_commands_work_is_not_overwritten(folder: Path, task: Task, tmp_path: Path) -> None:
    asked = Task("own", "summary", task.examples[:2], max_tokens=4)
    texts, trained = tmp_path / "texts", tmp_path / "trained"
    engine = load_engine(student(folder), dtype="fp32")
    evaluate(asked, engine, student(folder), texts)
    with pytest.raises(OutputError, match="the work of `featherweight eval`"):
        train(student(folder), task, texts, settings=Settings(method="sft", **FAST))
    train(student(folder), task, trained, settings=Settings(method="sft", **FAST))
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    with pytest.raises(OutputError, match="the work of `featherweight train`"):
        evaluate(asked, engine, student(folder), trained)
    engine.close()
    assert before == {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}


def test_others_may_read_what_was_learnt(folder: Path, task: Task, tmp_path: Path) -> None:
    output = tmp_path / "o"
    output.mkdir(mode=0o755)
    train(student(folder), task, output, settings=Settings(method="lora", **FAST))
    written = list(output.glob("adapter_*"))
    assert len(written) == 2
    for path in written:
        assert path.stat().st_mode & 0o777 == output.stat().st_mode & 0o666


def test_a_cache_that_has_nothing_for_val_says_so(folder: Path, task: Task, tmp_path: Path) -> None:
    few = replace(task, examples=task.examples[:12])
    val = replace(task, examples=task.examples[12:])
    teach(student(folder), few, tmp_path / "few", dtype="fp32")
    teach(student(folder), task, tmp_path / "all", dtype="fp32")
    rows: dict[str, str] = {}
    for name in ("few", "all"):

        def tell(kind: str, facts: Mapping[str, Any], name: str = name) -> None:
            if kind == "plan":
                [rows[name]] = [why for what, _, why in facts["rows"] if what == "val"]

        settings = Settings(method="neo", **FAST)
        train(student(folder), few, tmp_path / f"o-{name}", val=val,
              teacher=str(tmp_path / name), settings=settings, tell=tell)  # fmt: skip
    assert rows["all"] == "best by loss"
    assert rows["few"] == "best by loss, cross-entropy alone: the cache has nothing for it"


def test_a_log_on_a_full_disk(folder: Path, task: Task, tmp_path: Path) -> None:
    settings = Settings(method="lora", **FAST)
    train(student(folder), task, tmp_path / "o", settings=settings)
    (tmp_path / "p").mkdir()
    shutil.copy(tmp_path / "o" / "manifest.json", tmp_path / "p")
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    (tmp_path / "p" / "manifest.json").write_text(json.dumps({"run": manifest["run"]}))
    (tmp_path / "p" / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"log\.jsonl: No space left"):
        train(student(folder), task, tmp_path / "p", settings=settings)


def test_a_first_try_that_failed_leaves_the_way_free(
    folder: Path, task: Task, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="longer than 5 tokens"):
        train(student(folder), task, tmp_path, settings=Settings(max_length=5, **FAST))
    train(student(folder), task, tmp_path, settings=Settings(max_length=128, **FAST))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_length": 4096}, r"more than hf:.* holds \(128\)"),
        ({"method": "neo"}, "add --teacher"),
        ({"schedule": "zigzag"}, "transformers refuses"),
        ({"report_to": "no_such_logger"}, "transformers refuses"),
        ({"schedule": "cosine_with_min_lr"}, "transformers refuses"),
        ({"optimiser": "adamw_bnb_8bit"}, "transformers refuses"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"micro_batch": 4, "batch": 4, "targets": "no_such_layer"}, "no_such_layer"),
    ],
)
def test_settings_that_do_not_fit(
    folder: Path, task: Task, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(TrainingError, match=words):
        train(student(folder), task, tmp_path, settings=Settings(**{**FAST, **settings}))
    assert not list(tmp_path.glob("*.safetensors"))


def test_teachers_that_do_not_fit(folder: Path, task: Task, tmp_path: Path) -> None:
    neo = Settings(method="neo", **FAST)
    other = save_tiny_llama(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:20]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(TrainingError, match="another tokenizer than the student"):
        train(student(folder), task, tmp_path / "o", teacher=f"hf:{other}", settings=neo)
    t5 = save_tiny_t5(tmp_path / "t5")
    with pytest.raises(TrainingError, match="another tokenizer"):
        train(student(folder), task, tmp_path / "o", teacher=f"hf:{t5}", settings=neo)
    cache = str(tmp_path / "bits")
    teach(student(folder), task, Path(cache), keep="bits", dtype="fp32")
    with pytest.raises(TrainingError, match="only where the teacher is right"):
        train(student(folder), task, tmp_path / "o", teacher=cache, settings=neo)
    teach(student(folder), task, tmp_path / "topk", k=4, dtype="fp32")
    cache = str(tmp_path / "topk")
    jsd = Settings(method="neo", divergence="jsd", **FAST)
    with pytest.raises(TrainingError, match="the likeliest tokens only"):
        train(student(folder), task, tmp_path / "o", teacher=cache, settings=jsd)
    few = load_task(str(folder / "rows.jsonl"), limit=3)
    teach(student(folder), few, tmp_path / "few", k=4, dtype="fp32")
    with pytest.raises(TrainingError, match="nothing for 17 of 20 examples"):
        train(student(folder), task, tmp_path / "o", teacher=str(tmp_path / "few"), settings=neo)


def test_a_teacher_that_holds_less(folder: Path, task: Task, tmp_path: Path) -> None:
    small = save_tiny_llama(tmp_path / "small", context=16)
    neo = Settings(method="neo", **FAST)
    with pytest.raises(TrainingError, match="holds 16 tokens"):
        train(student(folder), task, tmp_path / "o", teacher=f"hf:{small}", settings=neo)
    short = replace(task, examples=tuple(e for e in task.examples if len(e.target or "") < 12))
    with pytest.raises(TrainingError, match="holds 16 tokens"):
        train(student(folder), short, tmp_path / "v", val=task, teacher=f"hf:{small}", settings=neo)
    with pytest.raises(TrainingError, match="longer than 16 tokens"):
        teach(f"hf:{small}", task, tmp_path / "c", student=student(folder), dtype="fp32")


def test_an_adapter_opens_from_anywhere(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    train("hf:model", task, tmp_path / "o", settings=Settings(method="lora", **FAST))
    monkeypatch.chdir(tmp_path)
    load_engine(f"hf:{tmp_path / 'o'}", dtype="fp32").close()


@pytest.mark.parametrize("keep", [None, "hidden", "topk"])
def test_heads_of_different_sizes(
    folder: Path, task: Task, tmp_path: Path, keep: str | None
) -> None:
    """Qwen's case: a teacher whose head is padded further than the student's."""
    teacher, tokenizer, _ = open_base(student(folder), torch.float32, "cpu")
    plain = tmp_path / "plain"
    padded = tmp_path / "padded"
    for path, rows in ((plain, None), (padded, teacher.config.vocab_size + 8)):
        if rows is not None:
            teacher.resize_token_embeddings(rows)  # what is added stands for no token
        teacher.save_pretrained(path)
        tokenizer.save_pretrained(path)
    settings = Settings(method="neo", **FAST)
    for path in (plain, padded):
        spec = f"hf:{path}"
        if keep is not None:
            spec = str(tmp_path / f"cache-{path.name}")
            more = {"k": 368, "store": "float32"} if keep == "topk" else {}
            teach(f"hf:{path}", task, Path(spec), keep=keep, student=student(folder),
                  dtype="fp32", **more)  # type: ignore[arg-type]  # fmt: skip
        train(student(folder), task, tmp_path / f"o-{path.name}", teacher=spec, settings=settings)
    one, other = (losses(tmp_path / f"o-{path.name}") for path in (plain, padded))
    assert one == pytest.approx(other, rel=1e-5)


def test_a_pruned_copy_learns_from_the_whole(task: Task, tmp_path: Path) -> None:
    """NEO: half of the layers, the teacher in memory; the loss falls and an adapter is left."""
    whole = f"hf:{save_tiny_llama(tmp_path / 'whole', context=128, num_hidden_layers=4)}"
    prune(whole, tmp_path / "half", task, depth=2)
    settings = Settings(method="neo", **{**FAST, "epochs": 6})
    found = train(f"hf:{tmp_path / 'half'}", task, tmp_path / "o", teacher=whole, settings=settings)
    seen = list(losses(tmp_path / "o").values())
    assert seen[-1] < seen[0]
    assert found.result["trained_parameters"] < found.result["parameters"]
    load_engine(f"hf:{tmp_path / 'o'}", dtype="fp32").close()


def test_data_without_targets(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "only a question"}\n')
    task = load_task(str(tmp_path / "rows.jsonl"))
    with pytest.raises(TrainingError, match="nothing to learn"):
        train(student(folder), task, tmp_path / "o", settings=Settings(**FAST))
    with pytest.raises(DataError):
        load_task(str(tmp_path / "none.jsonl"))


# -- T5


def test_t5_learns_real_pairs_by_heart(trained_t5: TrainedT5, tmp_path: Path) -> None:
    """Said again with ROUGE-1 above 90."""
    task = trained_t5.task
    assert len(task.examples) == 32
    assert trained_t5.loss < 3
    engine = load_engine(f"hf:{trained_t5.folder}", dtype="fp32")
    report = run_task_texts(engine, task, tmp_path / "e")
    engine.close()
    scores = rouge([report[e.id] for e in task.examples], [e.target or "" for e in task.examples])
    assert scores[:, 0].mean() > 90


def run_task_texts(engine: Any, task: Task, folder: Path) -> dict[str, str]:
    folder.mkdir()
    with locked(folder):
        store = Store(folder, {})
        outcome = run_task(task, engine, store)
        store.close()
    return {key: row["prediction"] for key, row in outcome.rows.items()}
