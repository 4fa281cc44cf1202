from __future__ import annotations

import pytest
from trireme_backends.generation.errors import InvalidRequestError, UnsupportedError
from trireme_backends.generation.json_schema import check_schema

POINT = {
    "type": "object",
    "title": "P",
    "properties": {"x": {"type": ["integer", "null"], "minimum": 0}},
    "required": ["x"],
}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        POINT,
        {"type": "array", "items": {"$ref": "#/$defs/P"}, "maxItems": 3, "$defs": {"P": POINT}},
        {"anyOf": [{"type": "string", "maxLength": 4}, {"const": 1}, {"enum": ["a", None]}]},
        {"type": "object", "additionalProperties": {"type": "string"}},
    ],
    ids=str,
)
def test_common_schemas_are_accepted(schema):
    check_schema(schema)


def nested(depth: int) -> dict[str, object]:
    return {"type": "array", "items": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "nosuch"}, "#/type"),
        ({"properties": {"a": {"type": 3}}}, "#/properties/a/type"),
        ({"items": []}, "#/items"),
        ({"$ref": "#/$defs/Q", "$defs": {}}, "#/$ref"),
        ({"$ref": "http://x/y"}, "#/$ref"),
        ({"pattern": "(?=a)"}, "#/pattern"),
        ({"anyOf": []}, "#/anyOf"),
        ({"minLength": 5, "maxLength": 2}, "#"),
        ({"required": ["a"]}, "#/required"),
        ({"maxLength": 10**9}, "#/maxLength"),
        (nested(40), "nested"),
    ],
    ids=lambda value: f"{value!s:.40}",
)
def test_schemas_that_a_grammar_compiler_may_not_support_are_rejected_with_the_place(schema, place):
    with pytest.raises((InvalidRequestError, UnsupportedError)) as caught:
        check_schema(schema)
    assert place in str(caught.value)
