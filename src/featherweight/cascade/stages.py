"""Which model a stage is, and whether an engine is the one that a rule was made for.

A threshold means something for one model only: other weights, another tokenizer or chat template
give other log-probabilities for the same question.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.cascade.rule import DeferralRule, StageRule
from featherweight.engines.identity import identity
from featherweight.engines.load import parse
from featherweight.engines.types import Engine
from featherweight.errors import CascadeError

PARTS = ("weights", "adapter", "adapter_config", "bank", "config", "tokenizer")
"""What of an `identity` decides about answers; the rest is for people."""

OTHER = "calibrate a rule with this model, or put back the one it was made for"


def facts(engine: Engine) -> dict[str, Any]:
    """What a rule and a log say of a stage: spec, kind of engine, identity, template, dtype.

    Raises `EngineError` where the engine was not opened from a spec, or its files are gone.
    """
    return {
        "model": engine.name,
        "engine": parse(engine.name)[0],
        "identity": identity(engine.name),
        "template_sha256": template_sha256(engine),
        "dtype": getattr(engine, "dtype", None),
    }


def template_sha256(engine: Engine) -> str | None:
    """The hash of the chat template that `engine` says it has; `None` where it cannot tell.

    Of its source, not of a filled-in one: some templates write today's date.
    """
    template: str | None = getattr(engine, "chat_template", None)
    return None if template is None else hashlib.sha256(template.encode()).hexdigest()


def check_stages(rule: DeferralRule, engines: Sequence[Engine]) -> None:
    """Raise `CascadeError` unless `engines` are the models that `rule` was made for.

    Hashes their files, which takes a second or two a gigabyte.
    """
    check_number(rule, engines)
    for number, (stage, engine) in enumerate(zip(rule.stages, engines, strict=True)):
        check_identity(number, stage, identity(engine.name))
        check_opened(number, stage, engine)


def check_number(rule: DeferralRule, engines: Sequence[Engine]) -> None:
    """Raise `CascadeError` unless there is an engine for each stage, and two at least."""
    if len(engines) != len(rule.stages):
        raise CascadeError(
            f"the rule has {len(rule.stages)} stages and {len(engines)} engines were given; give "
            "one for each stage."
        )
    if len(engines) < 2:
        raise CascadeError("a cascade of one stage decides nothing; give two or more.")


def check_identity(number: int, stage: StageRule, found: Mapping[str, Any]) -> None:
    """Raise `CascadeError` where `found`, an `identity`, is another than the rule's."""
    known = stage.identity
    if stage.engine == "openai" and found.get("spec") != known.get("spec"):
        raise CascadeError(
            f"stage {number}: the rule was made for {known.get('spec')}, not for "
            f"{found.get('spec')}; {OTHER}."
        )
    for part in PARTS:
        now, then = found.get(part), known.get(part)
        if now != then:
            raise CascadeError(
                f"stage {number}, {stage.model}: not the {part.replace('_', ' ')} that the rule "
                f"was made for (now {_short(now)}, then {_short(then)}); {OTHER}."
            )


def check_opened(number: int, stage: StageRule, engine: Engine) -> None:
    """Raise `CascadeError` where the engine's chat template or dtype is not the rule's."""
    dtype = getattr(engine, "dtype", None)
    if stage.dtype not in (None, dtype):
        raise CascadeError(
            f"stage {number}, {stage.model}: computed in {dtype}, and the rule was made for "
            f"{stage.dtype}; open it with dtype={stage.dtype!r}, or calibrate a rule for this."
        )
    found = template_sha256(engine)
    if found != stage.template_sha256:
        raise CascadeError(
            f"stage {number}, {stage.model}: not the chat template that the rule was made for "
            f"(now {_short(found)}, then {_short(stage.template_sha256)}); {OTHER}."
        )


def _short(digest: object) -> str:
    return f"sha256 {str(digest)[:12]}" if digest else "none"
