from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from constrained.vocabularies import byte_level, decoded, of_pieces

from dllmc.policies._registry import parse
from dllmc.policies.constrain._viterbi import most_probable
from dllmc.policies.constrain.json_schema import JsonSchemaConstraint
from dllmc.spec import ConfigError

RECORD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["ü", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
}
KINDS = {"name": str, "age": int, "tags": list}


def texts(policy: JsonSchemaConstraint, count: int, length: int) -> list[str]:
    """Responses to logits drawn at random."""
    tokenizer, spec = byte_level([json.dumps({"name": "grüße", "age": 4711, "tags": ["b"]})], 300)
    automaton = policy.automaton(tokenizer, spec)
    logits = 3 * torch.randn(count, length, spec.vocab_size)
    start = torch.full((count,), automaton.start)
    fixed, left = torch.full((count, length), -1), torch.zeros(count).long()
    ids, _ = most_probable(logits, fixed, start, left, automaton)
    return [decoded(tokenizer, row) for row in ids.tolist()]


def test_every_response_is_json_of_the_schema_in_its_order() -> None:
    for text in texts(JsonSchemaConstraint(json_schema=RECORD), 20, 40):
        record = json.loads(text)
        assert [(key, type(value)) for key, value in record.items()] == [*KINDS.items()]
        assert set(record["tags"]) <= {"ü", "b"}


def test_any_object_by_default() -> None:
    assert all(isinstance(json.loads(text), dict) for text in texts(JsonSchemaConstraint(), 5, 16))


@pytest.mark.parametrize(
    ("whitespace", "allowed"), [(None, " "), ("", ""), ("[ \\n]{0,2}", " \n")]
)
def test_white_space_between_the_parts_is_what_the_pattern_says(
    whitespace: str | None, allowed: str
) -> None:
    policy = JsonSchemaConstraint(json_schema=RECORD, whitespace=whitespace)
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", "".join(texts(policy, 20, 48)))
    assert {character for character in outside if character.isspace()} == {*allowed}


def test_a_schema_is_kept_as_text_in_the_order_of_its_properties() -> None:
    policy = JsonSchemaConstraint(json_schema=RECORD)
    assert policy == JsonSchemaConstraint(json_schema=json.dumps(RECORD, indent=2))
    backwards = RECORD | {"properties": dict(reversed(RECORD["properties"].items()))}
    assert policy != JsonSchemaConstraint(json_schema=backwards)
    assert hash(policy) == hash(JsonSchemaConstraint(json_schema=RECORD))
    assert parse("constrain", policy.model_dump(mode="json")) == policy
    assert policy.knobs() == {}


@pytest.mark.parametrize("schema", [[], None, 3, "[]", "true", "{", "x"])
def test_what_is_no_schema_is_refused(schema: object) -> None:
    with pytest.raises(ConfigError, match="`json_schema`="):
        JsonSchemaConstraint(json_schema=schema)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "schema",
    [{"type": "thing"}, {"not": {}}, {"$ref": "#/none"}, {"type": "string", "pattern": "(?=a)"}],
)
def test_a_schema_that_no_regular_expression_says_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"`json_schema`=\{.* cannot be used: .*; simplify"):
        JsonSchemaConstraint(json_schema=schema)


def test_bad_white_space_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"with `whitespace`='\(' cannot be used"):
        JsonSchemaConstraint(whitespace="(")


def test_a_schema_that_the_vocabulary_cannot_write_is_refused() -> None:
    policy = JsonSchemaConstraint(json_schema={"type": "boolean"})
    with pytest.raises(ConfigError, match="can write no text"):
        policy.automaton(*of_pieces("a", "b"))
