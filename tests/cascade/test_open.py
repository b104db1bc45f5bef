"""A cascade directory: opened only if its models are those of its rule."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamed import StreamedEngine, words

from featherweight.cascade.cascade import Cascade
from featherweight.cascade.open import cascade_identity, open_cascade
from featherweight.cascade.rule import DeferralRule, StageRule
from featherweight.cascade.rule_file import write_rule
from featherweight.cascade.scores import Score
from featherweight.cascade.stages import check_stages, facts, template_sha256
from featherweight.cascade.types import Metric, Threshold
from featherweight.engines import Request
from featherweight.engines.identity import identity
from featherweight.errors import CascadeError, EngineError

SERVER = "openai:http://127.0.0.1:9/v1#large"
TEMPLATE = "{{ messages }}"


class Templated(StreamedEngine):
    chat_template = TEMPLATE


class Opened:
    """Stands in for `load_engine`: the small stage is sure of what is easy."""

    def __init__(self) -> None:
        self.engines: list[StreamedEngine] = []
        self.fails: str | None = None

    def __call__(self, spec: str) -> StreamedEngine:
        if self.fails and spec.startswith(self.fails):
            raise EngineError(f"{spec} cannot be opened.")
        if spec == SERVER:
            self.engines.append(StreamedEngine(lambda request: words(0.95, 0.95), name=spec))
        else:
            self.engines.append(Templated(lambda request: words(0.2), name=spec))
        return self.engines[-1]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    found = Opened()
    monkeypatch.setattr("featherweight.cascade.open.load_engine", found)
    return found


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"GGUF and the weights")
    return path


def rule_of(spec: str) -> DeferralRule:
    """As `facts` of two engines make it."""
    small = Templated(lambda request: [], name=spec)
    large = StreamedEngine(lambda request: [], name=SERVER)
    return DeferralRule(
        stages=(
            StageRule(
                **facts(small),
                max_tokens=8,
                score=Score.parse("mean"),
                threshold=Threshold(-0.5),
            ),
            StageRule(**facts(large), max_tokens=8),
        ),
        metric=Metric("accuracy", 0.0, 1.0),
        promise={"kind": "budget", "deferral": 0.3},
        n=10,
        groups=10,
        data_sha256="0" * 64,
    )


@pytest.fixture
def folder(tmp_path: Path, gguf: Path) -> Path:
    write_rule(tmp_path / "mine" / "rule.json", rule_of(f"gguf:{gguf}"))
    return tmp_path / "mine"


def test_opened_and_asked(folder: Path, opened: Opened, gguf: Path) -> None:
    cascade = open_cascade(folder)
    assert cascade.name == f"cascade:{folder}" and cascade.hold
    assert [engine.name for engine in opened.engines] == [f"gguf:{gguf}", SERVER]
    assert next(cascade.generate([Request("x")])).model == SERVER
    cascade.close()
    assert all(engine.closed for engine in opened.engines)
    assert not open_cascade(folder, hold=False).hold


def test_what_a_stage_is(gguf: Path) -> None:
    small, large = rule_of(f"gguf:{gguf}").stages
    assert (
        small.engine == "gguf"
        and small.identity["weights"] == hashlib.sha256(gguf.read_bytes()).hexdigest()
    )
    assert small.template_sha256 == hashlib.sha256(TEMPLATE.encode()).hexdigest()
    assert large.engine == "openai" and large.template_sha256 is None
    assert small.dtype is None and large.dtype is None
    assert large.identity["weights"] is None and "URL and name" in large.identity["note"]


def test_other_weights_are_refused_before_anything_is_opened(
    folder: Path, opened: Opened, gguf: Path
) -> None:
    gguf.write_bytes(b"GGUF and other weights")
    message = (
        r"stage 0, gguf:.*: not the weights that the rule was made for \(now sha256 \w{12}, "
        r"then sha256 \w{12}\); calibrate a rule with this model, or put back the one"
    )
    with pytest.raises(CascadeError, match=message):
        open_cascade(folder)
    assert opened.engines == []


@pytest.mark.parametrize(
    "part", ["weights", "adapter", "adapter_config", "bank", "config", "tokenizer"]
)
def test_every_part_of_a_model_counts(gguf: Path, part: str) -> None:
    """Changed, new, or gone: another tokenizer gives other log-probabilities as well."""
    rule = rule_of(f"gguf:{gguf}")
    engines = [Templated(lambda r: [], name=f"gguf:{gguf}"), StreamedEngine(lambda r: [], SERVER)]
    check_stages(rule, engines)
    first = replace(rule.stages[0], identity={**rule.stages[0].identity, part: "f" * 64})
    with pytest.raises(CascadeError, match=rf"stage 0, .*not the {part.replace('_', ' ')} that"):
        check_stages(replace(rule, stages=(first, rule.stages[1])), engines)


def test_another_template_is_refused_and_all_is_closed(
    folder: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Templated, "chat_template", "{{ messages }} today")
    with pytest.raises(CascadeError, match=r"stage 0, .*not the chat template that the rule"):
        open_cascade(folder)
    assert len(opened.engines) == 2 and all(engine.closed for engine in opened.engines)


def test_another_server_is_refused(gguf: Path) -> None:
    rule = rule_of(f"gguf:{gguf}")
    engines = [
        Templated(lambda r: [], name=f"gguf:{gguf}"),
        StreamedEngine(lambda r: [], "openai:http://127.0.0.1:9/v1#other"),
    ]
    with pytest.raises(CascadeError, match=r"stage 1: the rule was made for openai:.*#large, not"):
        check_stages(rule, engines)
    with pytest.raises(CascadeError, match="2 stages and 1 engines"):
        check_stages(rule, engines[:1])


def test_a_stage_that_cannot_be_opened_closes_the_others(folder: Path, opened: Opened) -> None:
    opened.fails = "openai:"
    with pytest.raises(EngineError, match="cannot be opened"):
        open_cascade(folder)
    assert [engine.closed for engine in opened.engines] == [True]


def test_folders_that_hold_no_cascade(tmp_path: Path, folder: Path, gguf: Path) -> None:
    for path, message in (
        (tmp_path / "nowhere", "there is no such folder; make one with `featherweight cascade ca"),
        (gguf, ": a file; name its folder"),
        (tmp_path, r"no rule.json in it; name a folder that"),
    ):
        for open_it in (open_cascade, cascade_identity):
            with pytest.raises(CascadeError, match=message):
                open_it(path)
    gguf.unlink()
    with pytest.raises(EngineError, match="cannot read the model"):
        open_cascade(folder)


def test_a_cascade_is_known_by_its_rule_and_its_models(folder: Path, gguf: Path) -> None:
    found = cascade_identity(folder)
    path = folder / "rule.json"
    assert found == {
        "spec": f"cascade:{folder}",
        "rule": hashlib.sha256(path.read_bytes()).hexdigest(),
        "stages": [identity(f"gguf:{gguf}"), identity(SERVER)],
    }
    gguf.write_bytes(b"GGUF and other weights")
    assert cascade_identity(folder)["stages"] != found["stages"]


@pytest.mark.model
def test_real_templates(tmp_path: Path) -> None:
    """The two engines with a template of their own tell it; a change of it is seen."""
    pytest.importorskip("torch")
    pytest.importorskip("xllamacpp")
    from tiny_llama import save_tiny_llama, tiny_tokenizer

    from featherweight.engines.embedded import shipped_model
    from featherweight.engines.load import load_engine

    hashes: list[Any] = []
    for template in (None, TEMPLATE, TEMPLATE + " "):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        engine = load_engine(
            f"hf:{save_tiny_llama(tmp_path / str(len(hashes)), tokenizer=tokenizer)}"
        )
        hashes.append(template_sha256(engine))
        engine.close()
    sha256: Callable[[str], str] = lambda text: hashlib.sha256(text.encode()).hexdigest()  # noqa: E731
    assert hashes == [sha256(""), sha256(TEMPLATE), sha256(TEMPLATE + " ")]
    engine = load_engine(f"gguf:{shipped_model()}", parallel=1, context_length=256)
    try:
        assert "<|im_start|>" in engine.chat_template  # type: ignore[attr-defined]
        assert facts(engine)["template_sha256"] == template_sha256(engine) != sha256("")
    finally:
        engine.close()


def test_a_stage_is_computed_as_it_was_logged(tmp_path: Path) -> None:
    """Whatever this machine would choose: another precision moves log-probabilities."""
    pytest.importorskip("transformers")
    from tiny_llama import save_tiny_llama

    from featherweight.engines.load import load_engine

    spec = f"hf:{save_tiny_llama(tmp_path / 'model')}"
    large = StageRule(**facts(StreamedEngine(lambda r: [], name=SERVER)), max_tokens=8)
    made = rule_of(SERVER)
    for dtype in ("float32", "bfloat16"):
        engine = load_engine(spec, dtype=dtype)
        small = replace(made.stages[0], **facts(engine))
        assert small.dtype == dtype
        rule = replace(made, stages=(small, large))
        write_rule(tmp_path / dtype / "rule.json", rule)
        cascade = open_cascade(tmp_path / dtype)
        assert cascade.engines[0].dtype == dtype  # type: ignore[attr-defined]
        other = load_engine(spec, dtype="fp32" if dtype == "bfloat16" else "bf16")
        with pytest.raises(CascadeError, match=rf"and the rule was made for {dtype}; open it with"):
            Cascade([other, cascade.engines[1]], rule)
        for one in (engine, other, cascade):
            one.close()
