"""Strict JSON and TOML readers for dataclasses: they reject unknown keys and report all errors of a file.

Example:
    >>> manifest = read_json(Manifest, path, fix="export the model again")
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from trireme.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_Target = TypeVar("_Target")
_POSITION = re.compile(r"\s*\(?at line (\d+),? column (\d+)\)?")
_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(target: type[Any]) -> TypeAdapter[Any]:
    if target not in _adapters:
        # pydantic rejects a config for a dataclass, but accepts one for a NewType of it.
        named = NewType("named", target)  # type: ignore[valid-newtype, valid-type]
        _adapters[target] = TypeAdapter(named, config=ConfigDict(extra="forbid", strict=True))
    return _adapters[target]


def parse_json(target: type[_Target], text: str | bytes) -> _Target:
    """Parse JSON into the dataclass ``target``.

    Raises:
        ValueError: ``text`` is not JSON or does not match ``target``.
    """
    parsed: _Target = _adapter(target).validate_json(text)
    return parsed


def read_json(target: type[_Target], path: Path, fix: str = "") -> _Target:
    """Read a JSON file into the dataclass ``target``.

    Args:
        fix: what to do about an error; appended to each message.

    Raises:
        ConfigError: the file is not JSON or does not match ``target``; the message names each invalid field.
        OSError: the file cannot be read.
    """
    return parse_json_of(path, target, path.read_bytes(), fix)


def parse_json_of(
    path: Path, target: type[_Target], content: bytes, fix: str = "", *, line: int | None = None
) -> _Target:
    """Parse the JSON content of a file, or of one ``line`` of it; see ``read_json``."""
    text = _decoded(path, content, line or 1)
    try:
        return parse_json(target, text)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise _syntax_error(path, "JSON", str(error.errors()[0]["ctx"]["error"]), line or 1) from None
        lines = {"": line} if line else {}
        raise _config_error(target, error, path, from_json(text), lines, fix) from None


@dataclass(frozen=True, slots=True)
class TomlDocument:
    """A TOML file: its parsed ``content``, and the ``lines`` of its tables and keys by dotted name."""

    path: Path
    content: dict[str, Any]
    lines: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> TomlDocument:
        """Parse a file.

        Raises:
            ConfigError: the file is not TOML.
        """
        text = _decoded(path, path.read_bytes())
        try:
            return cls(path, tomllib.loads(text), _key_lines(text))
        except tomllib.TOMLDecodeError as error:
            raise _syntax_error(path, "TOML", str(error)) from None

    def parse(self, target: type[_Target]) -> _Target:
        """Parse ``content`` into the dataclass ``target``.

        Raises:
            ConfigError: it does not match ``target``; the message names each invalid key with its line.
        """
        try:
            # Via JSON, where strict mode accepts a list for a tuple and a string for an enum member.
            return parse_json(target, json.dumps(self.content, default=str))
        except ValidationError as error:
            raise _config_error(target, error, self.path, self.content, self.lines, "") from None

    def error(self, key: str, problem: str) -> ConfigError:
        """An error at ``key`` that the types alone do not detect."""
        return ConfigError(self.path, problem, line=_line(self.lines, key))


def _decoded(path: Path, content: bytes, first_line: int = 1) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        raise ConfigError(path, "not UTF-8 text; save the file as UTF-8", line=line) from None


def _syntax_error(path: Path, language: str, message: str, first_line: int = 1) -> ConfigError:
    position = _POSITION.search(message)
    line, column = (first_line - 1 + int(position[1]), int(position[2])) if position else (None, None)
    return ConfigError(path, f"not {language}: {_POSITION.sub('', message)}", line=line, column=column)


def _config_error(
    target: type[Any], error: ValidationError, path: Path, document: Any, lines: Mapping[str, int], fix: str
) -> ConfigError:
    messages: dict[str, list[str]] = {}
    for details in error.errors(include_url=False):
        steps = _steps(document, details)
        name = _name(steps)
        messages.setdefault(name, []).append(_message(target, details, steps, name))
    errors = [
        # A union has an error for each of its members; they differ in the expected type.
        ConfigError(path, "; ".join(filter(None, (_joined(alternatives), fix))), line=_line(lines, name))
        for name, alternatives in messages.items()
    ]
    first, *others = sorted(errors, key=lambda item: item.line or sys.maxsize)
    return ConfigError(path, "\n".join([first.problem, *map(str, others)]), line=first.line)


def _joined(alternatives: Sequence[str]) -> str:
    start = alternatives[0].partition("; it must be ")[0]
    return " or ".join([alternatives[0], *(other.removeprefix(f"{start}; it must be ") for other in alternatives[1:])])


def _message(target: type[Any], details: ErrorDetails, steps: Sequence[str | int], name: str) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        return f"{name} is missing"
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        return f"{name}.{tag} is missing".removeprefix(".")
    if kind == "unexpected_keyword_argument":
        schema = _adapter(target).json_schema()
        known = sorted(_keys(schema, steps[:-1], schema.get("$defs", {})))
        return f"unknown key {name!r}; available: {', '.join(map(repr, known))}"
    if details["loc"][-1:] == ("[key]",):
        return f"unknown key {name!r}; available: {context['expected']}"
    if kind == "value_error":
        return f"{name}: {context['error']}" if name else str(context["error"])
    expected = re.sub(r"\ba valid (?=([aeiou])?)", lambda match: "an " if match[1] else "a ", details["msg"])
    expected = expected.replace("Input should be", "it must be").replace("an object", "an object (a table in TOML)")
    return f"{name or 'it'} is {details['input']!r:.60}; {expected}"


def _steps(document: Any, details: ErrorDetails) -> list[str | int]:
    """The path of an error in the document: pydantic's path without the names of union members."""
    steps: list[str | int] = []
    for number, step in enumerate(details["loc"], start=1):
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            if details["type"] != "missing" or number < len(details["loc"]):
                continue
        steps.append(step)
    return steps


def _name(steps: Iterable[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _keys(schema: Mapping[str, Any], steps: Sequence[str | int], definitions: Mapping[str, Any]) -> set[str]:
    """The keys that a JSON schema allows at a path."""
    schema = definitions.get(str(schema.get("$ref")).rpartition("/")[2], schema)
    if members := schema.get("anyOf") or schema.get("oneOf"):
        return set().union(*(_keys(member, steps, definitions) for member in members))
    if not steps:
        return set(schema.get("properties", ()))
    inner = schema.get("properties", {}).get(steps[0]) or schema.get("additionalProperties") or schema.get("items")
    return _keys(inner, steps[1:], definitions) if isinstance(inner, Mapping) else set()


def _line(lines: Mapping[str, int], name: str) -> int | None:
    """The line of a key, or of the table that lacks it."""
    while name and name not in lines:
        name = name[: max(name.rfind("."), name.rfind("["), 0)]
    return lines.get(name)


def _key_lines(text: str) -> dict[str, int]:
    """The line of each ``[table]`` and ``key =`` by dotted name; tomllib does not provide them."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = header[1]
            lines.setdefault(table, number)
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            lines.setdefault(f"{table}.{key[1]}" if table else key[1], number)
    return lines
