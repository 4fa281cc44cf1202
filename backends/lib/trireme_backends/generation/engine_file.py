"""``model.json`` of a version: how an engine in process is to be set up, by the names of vLLM's engine arguments."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from trireme_backends.errors import ModelError

MODEL_FILE = "model.json"
_Settings = TypeVar("_Settings")


def read_engine_file(path: Path, settings: type[_Settings], engine: str) -> _Settings:
    """Read ``model.json`` into a dataclass whose fields are the keys that the engine knows, nested ones too.

    Raises:
        ModelError: not a JSON object, a key that the engine lacks, a missing or a wrong value; names file and key.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    return check_engine_settings(path, document, settings, engine)


def check_engine_settings(path: Path, document: Any, settings: type[_Settings], engine: str) -> _Settings:
    """The same of what was read from ``path`` already.

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
            raise ModelError(f"{path}: the engine {engine} has no {place}{key}; it has {known}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in document:
            raise ModelError(f"{path}: {place}{name} is missing")
    found = {}
    for key, value in document.items():
        kind = fields[key].metadata.get("section")
        if kind is not None and value is not None:
            found[key] = _section(path, f"{place}{key}.", value, kind, engine)
        else:
            found[key] = _checked(path, place + key, value, fields[key])
    return settings(**found)


def _checked(path: Path, place: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    """A value of the type of the field's default; a whole number between the field's ``least`` and ``most``."""
    kind, choices = field.metadata.get("kind", type(field.default)), field.metadata.get("choices")
    if value is None and field.default is None:
        return None
    if type(value) is not kind or (choices and value not in choices):
        named = {int: "a whole number", bool: "true or false", str: "a text"}[kind]
        raise ModelError(f"{path}: {place} is {value!r}; it must be {f'one of {choices}' if choices else named}")
    if kind is int:
        least, most = field.metadata.get("least", 0), field.metadata.get("most", 1 << 31)
        if not least <= value <= most:
            raise ModelError(f"{path}: {place} is {value}; it must be from {least} to {most}")
    return value
