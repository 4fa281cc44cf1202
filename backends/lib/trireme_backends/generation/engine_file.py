"""Reads ``model.json`` of a version: the settings of an in-process engine, named after vLLM's engine arguments."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from trireme_backends.errors import ModelError

MODEL_FILE = "model.json"
_Settings = TypeVar("_Settings")


def read_engine_file(path: Path, settings: type[_Settings], engine: str) -> _Settings:
    """Read ``model.json`` into a dataclass whose fields, nested ones included, are the keys that the engine supports.

    Raises:
        ModelError: not a JSON object, an unknown key, or a missing or invalid value; names the file and the key.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    return check_engine_settings(path, document, settings, engine)


def check_engine_settings(path: Path, document: Any, settings: type[_Settings], engine: str) -> _Settings:
    """Check a document that was already read from ``path``.

    Raises:
        ModelError: as ``read_engine_file``.
    """
    return _section(path, "", document, settings, engine)


def _section(path: Path, place: str, document: Any, settings: type[_Settings], engine: str) -> _Settings:
    if not isinstance(document, dict):
        raise ModelError(f"{path}: {place or 'the file'} must be a JSON object")
    fields = {field.name: field for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    for key in document:
        if key not in fields:
            known = ", ".join(sorted(fields))
            raise ModelError(f"{path}: unknown key {place}{key} for engine {engine}; available: {known}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in document:
            raise ModelError(f"{path}: {place}{name} is missing")
    values = {}
    for key, value in document.items():
        kind = fields[key].metadata.get("section")
        if kind is not None and value is not None:
            values[key] = _section(path, f"{place}{key}.", value, kind, engine)
        else:
            values[key] = _checked(path, place + key, value, fields[key])
    return settings(**values)


def _checked(path: Path, place: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    """``value``, if it has the type of the field's default and is within the field's ``minimum`` and ``maximum``."""
    kind, choices = field.metadata.get("kind", type(field.default)), field.metadata.get("choices")
    if value is None and field.default is None:
        return None
    if type(value) is not kind or (choices and value not in choices):
        expected = {int: "an integer", bool: "true or false", str: "a string"}[kind]
        raise ModelError(f"{path}: {place} is {value!r}; it must be {f'one of {choices}' if choices else expected}")
    if kind is int:
        minimum, maximum = field.metadata.get("minimum", 0), field.metadata.get("maximum", 1 << 31)
        if not minimum <= value <= maximum:
            raise ModelError(f"{path}: {place} is {value}; it must be from {minimum} to {maximum}")
    return value
