"""The JSON form is what docs/summary.schema.json says."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator, ValidationError
from scripted import SMALL, ScriptedEngine, meeting

from featherweight.cli import Strategy as Choice
from featherweight.summarize import Strategy, Summary
from featherweight.summarize import summarize_transcript as summarize


@pytest.fixture
def schema(root: Path) -> Draft202012Validator:
    found = json.loads((root / "docs" / "summary.schema.json").read_text())
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


def made(params: int | None = None, **ask: Any) -> Summary:
    engine = ScriptedEngine("- The price is 19 euros.\n- Nobody said 77 things.", params=params)
    transcript = meeting("The price is 19 euros.", "Good.", "", speakers=("Ann", None))
    return summarize(transcript, engine, **ask)


@pytest.mark.parametrize(
    "ask", [{}, {"focus": "actions"}, {"query": "Price?"}, {"length": "short", "params": SMALL}]
)
def test_valid(schema: Draft202012Validator, ask: dict[str, Any]) -> None:
    schema.validate(json.loads(json.dumps(made(**ask).to_json())))


def test_exactly_these_keys() -> None:
    data = made().to_json()
    assert data.keys() >= {"summary", "points", "strategy", "model", "chunks", "usage", "seconds"}
    point = data["points"][0]
    assert point.keys() == {"text", "supported", "evidence", "reasons"}
    assert point["evidence"][0].keys() == {"turn", "speaker", "start", "quote", "score"}
    assert data["chunks"] == {"total": 1, "failed": 0}
    assert data["usage"].keys() == {"prompt_tokens", "completion_tokens"}
    assert data["summary"] == " ".join(point["text"] for point in data["points"])


def test_the_schema_is_strict_where_it_matters(schema: Draft202012Validator) -> None:
    for key in ("summary", "points", "chunks"):
        data = made().to_json()
        del data[key]
        with pytest.raises(ValidationError):
            schema.validate(data)
    data = made().to_json()
    data["points"][0]["evidence"][0]["turn"] = "0"
    with pytest.raises(ValidationError):
        schema.validate(data)
    data = made().to_json() | {"more": 1}
    schema.validate(data)


def test_schema_and_command_name_every_strategy(schema: Draft202012Validator) -> None:
    named = schema.schema["properties"]["strategy"]["enum"]  # type: ignore[index]
    assert sorted(named) == sorted(get_args(Strategy)) == sorted(Choice)
