"""Logs made by real (tiny) models: who answered, how good it was, and what it cost."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_llama import TEXTS, save_tiny_llama

import featherweight.cascade.record as record_module
from featherweight.cascade.answers import ALTERNATIVES
from featherweight.cascade.asking import prompt_key
from featherweight.cascade.log import read_log
from featherweight.cascade.make import scored
from featherweight.cascade.record import dealt, record
from featherweight.cascade.scores import Score
from featherweight.engines import Generation, Request, load_engine
from featherweight.errors import CascadeError, FeatherweightError, OutputError
from featherweight.evaluate.cost import flops
from featherweight.evaluate.score import ROUGE, score
from featherweight.files import sha256
from featherweight.tasks import Example, Task

ASKED = tuple(
    Example(f"q{i}", TEXTS[i % 3][: 20 + i], TEXTS[(i + 1) % 3], group=f"g{i % 4}")
    for i in range(8)
)
TASK = Task("t", "summary", ASKED, max_tokens=12)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    small = save_tiny_llama(folder / "small", num_hidden_layers=1)
    return [f"hf:{small}", f"hf:{save_tiny_llama(folder / 'large')}"]


@pytest.fixture(scope="module")
def folder(specs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logged") / "run"
    record(TASK, specs, folder, usd_per_hour=3.6, top_logprobs=ALTERNATIVES)
    return folder


def test_what_is_logged_is_what_the_models_said(specs: list[str], folder: Path) -> None:
    log = read_log(folder / "log.jsonl")
    assert [row.id for row in log.rows] == [e.id for e in ASKED] and log.models == tuple(specs)
    assert [row.prompt_sha256 for row in log.rows] == [prompt_key(e.prompt) for e in ASKED]
    assert (log.metric.name, log.metric.low, log.metric.high) == ("rougeLsum", 0, 100)
    for stage, spec in enumerate(specs):
        engine = load_engine(spec)
        wanted = [Request(e.prompt, max_tokens=12, top_logprobs=ALTERNATIVES) for e in ASKED]
        for row, said in zip(log.rows, engine.generate(wanted), strict=True):
            answer = row.stages[stage]
            assert answer.text == said.text.strip()
            assert answer.token_logprobs == pytest.approx(said.token_logprobs, abs=1e-5)
            assert answer.margins is not None and answer.entropies is not None
            assert len(answer.margins) == len(answer.entropies) == len(said.token_logprobs or ())
            assert answer.ended == (said.finish_reason == "stop")
            assert (answer.prompt_tokens, answer.completion_tokens) == (
                said.prompt_tokens,
                said.completion_tokens,
            )
            of = (engine.params, said.prompt_tokens, said.completion_tokens)
            counted = flops(*of, engine.attention_width)  # type: ignore[arg-type]
            assert counted is not None and answer.flops == pytest.approx(counted.total)
            assert answer.usd == pytest.approx(answer.seconds * 3.6 / 3600)
        engine.close()


def test_quality_is_what_score_says(folder: Path) -> None:
    log = read_log(folder / "log.jsonl")
    for stage in (0, 1):
        run = folder / f"stage-{stage}"
        found = score([run / "predictions.jsonl"], run / "references.jsonl").to_json()
        mean = found["metrics"]["rougeLsum"]["mean"]
        assert log.quality()[:, stage].mean() == pytest.approx(mean, abs=1e-9)
        assert len(set(log.quality()[:, stage])) > 1
    assert "rougeLsum" in ROUGE


def test_the_header_says_who_answered_and_how(specs: list[str], folder: Path) -> None:
    header = json.loads((folder / "log.jsonl").read_text().splitlines()[0])
    assert header["task"] == "t" and len(header["stages"]) == 2
    for about, spec in zip(header["stages"], specs, strict=True):
        assert about["model"] == spec and len(about["identity"]["weights"]) == 64
        assert about["max_tokens"] == 12 and about["top_logprobs"] == ALTERNATIVES
        assert about["decoding"] == {"temperature": 0.0, "stop": []}
        assert about["usd_basis"] == "$3.6 an hour x measured seconds"


def test_the_manifest_says_what_the_log_is(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    log = read_log(folder / "log.jsonl")
    assert manifest["run"]["command"] == "cascade log"
    assert [stage["model"] for stage in manifest["run"]["stages"]] == list(log.models)
    result = manifest["result"]
    assert result["log"] == sha256(folder / "log.jsonl") == log.sha256
    assert result["quality"] == pytest.approx(np.nanmean(log.quality(), axis=0).tolist())
    assert (result["n"], result["failed"]) == (len(log.rows), [0, 0])


def test_another_commands_folder_is_refused(specs: list[str], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"run": {"command": "train"}}')
    with pytest.raises(OutputError, match="holds the work of `featherweight train`; choose"):
        record(TASK, specs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_stopped_one_goes_on(specs: list[str], folder: Path, tmp_path: Path) -> None:
    first, second = specs
    with pytest.raises(CascadeError, match="named twice"):
        record(TASK, [first, first], tmp_path / "x")

    def stop(spec: str) -> None:
        if spec == second:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(TASK, specs, tmp_path / "y", top_logprobs=ALTERNATIVES, progress=stop)
    assert not (tmp_path / "y" / "log.jsonl").exists()
    before = (tmp_path / "y" / "stage-0" / "predictions.jsonl").read_bytes()
    log = record(TASK, specs, tmp_path / "y", top_logprobs=ALTERNATIVES)
    assert (tmp_path / "y" / "stage-0" / "predictions.jsonl").read_bytes() == before
    np.testing.assert_allclose(log.quality(), read_log(folder / "log.jsonl").quality())


def test_splits_hold_whole_groups_and_follow_the_seed() -> None:
    groups = [f"m{i // 3}" for i in range(60)]
    found = dealt(groups, 0)
    counts = {split: list(found.values()).count(split) for split in ("fit", "calibrate", "test")}
    assert counts == {"fit": 5, "calibrate": 10, "test": 5}
    assert dealt(groups[::-1], 0) == found != dealt(groups, 1)
    assert sorted(dealt(["a", "b", "c"], 0).values()) == ["calibrate", "fit", "test"]
    with pytest.raises(CascadeError, match=r"2 groups .* --part"):
        dealt(["a", "b", "a"], 0)


@pytest.mark.parametrize("other", [{"seed": 3}, {"part": "fit"}, {"metric": "rouge1"}])
def test_a_log_is_not_dealt_anew(specs: list[str], folder: Path, other: dict[str, Any]) -> None:
    before = (folder / "log.jsonl").read_bytes()
    same = {"usd_per_hour": 3.6, "top_logprobs": ALTERNATIVES}
    with pytest.raises(CascadeError, match=r"other options .*another output folder"):
        record(TASK, specs, folder, **{**same, **other})
    assert (folder / "log.jsonl").read_bytes() == before
    record(TASK, specs, folder, **same)  # type: ignore[arg-type]


def test_one_split_for_all(specs: list[str], tmp_path: Path) -> None:
    few = Task("t", "summary", ASKED[:2], max_tokens=4)
    log = record(few, specs, tmp_path / "run", part="test", metric="rouge1")
    assert {row.split for row in log.rows} == {"test"} and log.metric.name == "rouge1"
    assert log.rows[0].stages[0].margins is None  # nobody asked for alternatives


def test_a_failed_answer_is_in_the_log_with_its_reason(specs: list[str], tmp_path: Path) -> None:
    long = Example("long", "easy to use " * 400, "x", group="g9")
    log = record(Task("t", "summary", (*ASKED[:2], long), 4), specs, tmp_path / "r", part="fit")
    (failed,) = [row for row in log.rows if row.id == "long"]
    for answer in failed.stages:
        assert answer.quality is None and answer.token_logprobs is None
        assert "context holds 256" in (answer.error or "")
        assert (answer.completion_tokens, answer.flops) == (0, 0.0)  # refused before it was read
    assert np.isnan(log.quality()).sum() == 2
    again = read_log(tmp_path / "r" / "log.jsonl")
    assert again.rows == log.rows


class Breaking:
    """A real engine that breaks while it answers `prompt`."""

    def __init__(self, spec: str, prompt: str) -> None:
        self._engine, self._prompt = load_engine(spec), prompt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        for request in requests:
            (said,) = self._engine.generate([request])
            if request.prompt == self._prompt:
                said = replace(said, text="", finish_reason="error", error="it broke", seconds=1e-6)
            yield said


def test_what_a_failed_answer_took_is_in_the_log_and_counts(
    specs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = str(ASKED[3].prompt)
    monkeypatch.setattr(
        record_module,
        "load_engine",
        lambda spec: Breaking(spec, prompt) if spec == specs[0] else load_engine(spec),
    )
    log = record(TASK, specs, tmp_path / "r", part="fit", usd_per_hour=3.6)
    (row,) = [row for row in read_log(tmp_path / "r" / "log.jsonl").rows if row.id == ASKED[3].id]
    assert row in log.rows
    failed, other = row.stages
    assert failed.error == "it broke" and failed.quality is None and failed.text == ""
    assert failed.prompt_tokens == other.prompt_tokens > 0 and failed.completion_tokens > 0
    assert failed.seconds == 1e-6 and failed.usd == pytest.approx(1e-9)
    same = [r.stages[0].flops for r in log.rows if r.stages[0].error is None]
    assert failed.flops is not None and 0.5 * max(filter(None, same)) < failed.flops
    at = log.rows.index(row)
    for kind in ("seconds", "flops", "usd"):
        costs = scored(log, [Score("mean")]).cost(kind)  # type: ignore[arg-type]
        assert costs[at, 0] == getattr(failed, kind) > 0


@pytest.mark.parametrize(
    ("task", "metric", "wanted"),
    [
        (Task("wikitext2", "text", ASKED), None, "lets a model write no answer"),
        (Task("arc", "choice", ASKED), None, "add --how generation"),
        (TASK, "accuracy", "choose rouge1, rouge2, rougeL, rougeLsum"),
        (Task("t", "summary", (Example("q", "x"),), 4), None, "q has no target"),
    ],
)
def test_what_cannot_be_logged(task: Task, metric: str | None, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(CascadeError, match=wanted):
        record(task, ["hf:a", "hf:b"], tmp_path / "r", metric=metric)
    with pytest.raises(CascadeError, match="two models or more"):
        record(TASK, ["hf:a"], tmp_path / "r")
    assert not (tmp_path / "r").exists()


class Untouched:
    """No model is asked: nothing is loaded."""

    def __call__(self, spec: str) -> Any:
        raise AssertionError(f"{spec} was loaded")


@pytest.mark.parametrize("bad", ["nomodel", "hf:no/dir", "cascade:c1", "gguf:/no/such.gguf"])
def test_all_stages_are_there_before_the_first_is_asked(
    bad: str, specs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "load_engine", Untouched())
    with pytest.raises(FeatherweightError, match=re.sub("^(gguf|hf):", "", bad)):
        record(TASK, [specs[0], bad], tmp_path / "run")


def test_groups_are_dealt_out_before_anybody_is_asked(
    specs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "load_engine", Untouched())
    two = replace(TASK, examples=ASKED[:2])
    with pytest.raises(CascadeError, match="2 groups cannot be dealt out"):
        record(two, specs, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fewer_alternatives_than_asked_for_are_none(
    specs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entropy of three of five is no entropy of five."""

    class Stingy(Breaking):
        def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
            for said in super().generate(requests):
                assert said.top_logprobs is not None
                yield replace(said, top_logprobs=tuple(token[:3] for token in said.top_logprobs))

    monkeypatch.setattr(record_module, "load_engine", lambda spec: Stingy(spec, "none of them"))
    log = record(TASK, specs, tmp_path / "run", top_logprobs=ALTERNATIVES)
    assert all(a.entropies is None and a.token_logprobs for r in log.rows for a in r.stages)
    log = record(TASK, specs, tmp_path / "less", top_logprobs=3)
    assert all(a.entropies and a.margins for r in log.rows for a in r.stages)
