"""Checks that an engine's grammar compiler supports a JSON schema.

A schema that cannot be compiled fails inside a step of the engine and with it all requests of the batch. Anything that
is not known to be supported is therefore rejected beforehand, with its place in the schema.
"""

from __future__ import annotations

from typing import Any

from trireme_backends.generation.errors import InvalidRequestError, UnsupportedError

_PARAM = "structured_outputs"
_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_IGNORED = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "strict"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_COUNTS = {"minLength", "maxLength", "minItems", "maxItems"}
_MAX_DEPTH = 32
_MAX_COUNT = 4096


def check_schema(schema: Any) -> None:
    """Check a JSON schema.

    Raises:
        InvalidRequestError: it is not a schema. UnsupportedError: a keyword or value is not supported.
    """
    _Checker(schema).check(schema, "#", 0)


class _Checker:
    def __init__(self, root: Any) -> None:
        self._root = root

    def check(self, schema: Any, place: str, depth: int) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise _invalid(place, "must be an object")
        if depth > _MAX_DEPTH:
            raise UnsupportedError(f"{place} is nested deeper than {_MAX_DEPTH}", param=_PARAM)
        for key, value in schema.items():
            self._keyword(key, value, f"{place}/{key}", depth)
        for least, most in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")):
            if least in schema and most in schema and schema[least] > schema[most]:
                raise _invalid(place, f"{least} is greater than {most}")
        if missing := [name for name in schema.get("required", ()) if name not in schema.get("properties", {})]:
            raise UnsupportedError(f"{place}/required: {missing[0]!r} is not in properties; add it", param=_PARAM)

    def _keyword(self, key: str, value: Any, place: str, depth: int) -> None:
        if key in _IGNORED:
            return
        if key == "type":
            names = value if isinstance(value, list) else [value]
            if not names or not all(isinstance(name, str) and name in _TYPES for name in names):
                raise _invalid(place, f"must be one or more of {', '.join(sorted(_TYPES))}")
        elif key in ("properties", "$defs", "definitions"):
            if not isinstance(value, dict):
                raise _invalid(place, "must be an object")
            for name, inner in value.items():
                self.check(inner, f"{place}/{name}", depth + 1)
        elif key in ("items", "additionalProperties"):
            self.check(value, place, depth + 1)
        elif key in ("anyOf", "prefixItems"):
            if not isinstance(value, list) or not value:
                raise _invalid(place, "must be a list of schemas")
            for index, inner in enumerate(value):
                self.check(inner, f"{place}/{index}", depth + 1)
        elif key == "required":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise _invalid(place, "must be a list of names")
        elif key == "enum":
            if not isinstance(value, list) or not value:
                raise _invalid(place, "must be a list of values")
        elif key in _COUNTS:
            if type(value) is not int or not 0 <= value <= _MAX_COUNT:
                raise _invalid(place, f"must be an integer from 0 to {_MAX_COUNT}")
        elif key in _NUMBERS:
            if type(value) is not int or abs(value) > 1 << 53:
                raise UnsupportedError(f"{place} must be an integer", param=_PARAM)
        elif key == "$ref":
            self._reference(value, place)
        elif key != "const":
            raise UnsupportedError(f"{place}: this keyword is not supported", param=_PARAM)

    def _reference(self, value: Any, place: str) -> None:
        parts = value.split("/") if isinstance(value, str) else []
        if len(parts) != 3 or parts[:2] not in (["#", "$defs"], ["#", "definitions"]):
            raise UnsupportedError(f"{place} must be '#/$defs/NAME'", param=_PARAM)
        if not isinstance(self._root, dict) or parts[2] not in self._root.get(parts[1], {}):
            raise _invalid(place, f"refers to {value}, which does not exist")


def _invalid(place: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"json {place} {problem}", param=_PARAM)
