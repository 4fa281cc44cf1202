"""JSON and TOML read into dataclasses: types are strict, unknown keys are refused, all faults of a file are reported.

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

_Form = TypeVar("_Form")
_PLACE = re.compile(r"\s*\(?at line (\d+),? column (\d+)\)?")
_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(form: type[Any]) -> TypeAdapter[Any]:
    if form not in _adapters:
        # pydantic takes a configuration for any type but a dataclass itself; of a new name for one it takes it.
        named = NewType("named", form)  # type: ignore[valid-newtype, valid-type]
        _adapters[form] = TypeAdapter(named, config=ConfigDict(extra="forbid", strict=True))
    return _adapters[form]


def parse_json(form: type[_Form], text: str | bytes) -> _Form:
    """JSON as ``form``, a dataclass.

    Raises:
        ValueError: it is not JSON, or not of this form.
    """
    parsed: _Form = _adapter(form).validate_json(text)
    return parsed


def read_json(form: type[_Form], path: Path, fix: str = "") -> _Form:
    """A JSON file as ``form``, a dataclass.

    Args:
        fix: what to do about a fault, where its own sentence does not say it.

    Raises:
        ConfigError: the file is not JSON, or not of this form; names each field that is wrong.
        OSError: the file cannot be read.
    """
    return parse_json_of(path, form, path.read_bytes(), fix)


def parse_json_of(path: Path, form: type[_Form], content: bytes, fix: str = "", *, line: int | None = None) -> _Form:
    """JSON from a file, all of it or one ``line``; see ``read_json``."""
    text = _decoded(path, content, line or 1)
    try:
        return parse_json(form, text)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise _syntax_error(path, "JSON", str(error.errors()[0]["ctx"]["error"]), line or 1) from None
        lines = {"": line} if line else {}
        raise _faults(form, error, path, from_json(text), lines, fix) from None


@dataclass(frozen=True, slots=True)
class TomlDocument:
    """A TOML file: ``content`` as parsed, ``lines`` of its tables and keys by dotted name."""

    path: Path
    content: dict[str, Any]
    lines: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> TomlDocument:
        """Parse a file.

        Raises:
            ConfigError: it is not TOML.
        """
        text = _decoded(path, path.read_bytes())
        try:
            return cls(path, tomllib.loads(text), _key_lines(text))
        except tomllib.TOMLDecodeError as error:
            raise _syntax_error(path, "TOML", str(error)) from None

    def parse(self, form: type[_Form]) -> _Form:
        """``content`` as ``form``, a dataclass.

        Raises:
            ConfigError: it is not of this form; names each key that is wrong, with its line.
        """
        try:
            # As JSON, where a strict reader takes a list for a tuple and a string for an enum's member.
            return parse_json(form, json.dumps(self.content, default=str))
        except ValidationError as error:
            raise _faults(form, error, self.path, self.content, self.lines, "") from None

    def error(self, key: str, problem: str) -> ConfigError:
        """What is wrong at a key that the form alone allows."""
        return ConfigError(self.path, problem, line=_line(self.lines, key))


def _decoded(path: Path, content: bytes, first_line: int = 1) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        raise ConfigError(path, "not UTF-8 text; save the file as UTF-8", line=line) from None


def _syntax_error(path: Path, language: str, message: str, first_line: int = 1) -> ConfigError:
    place = _PLACE.search(message)
    line, column = (first_line - 1 + int(place[1]), int(place[2])) if place else (None, None)
    return ConfigError(path, f"not {language}: {_PLACE.sub('', message)}", line=line, column=column)


def _faults(
    form: type[Any], error: ValidationError, path: Path, document: Any, lines: Mapping[str, int], fix: str
) -> ConfigError:
    sentences: dict[str, list[str]] = {}
    for details in error.errors(include_url=False):
        steps = _steps(document, details)
        name = _name(steps)
        sentences.setdefault(name, []).append(_sentence(form, details, steps, name))
    found = [
        # A union has a fault for each of its members; they differ in what the value must be.
        ConfigError(path, "; ".join(filter(None, (_joined(alternatives), fix))), line=_line(lines, name))
        for name, alternatives in sentences.items()
    ]
    first, *others = sorted(found, key=lambda fault: fault.line or sys.maxsize)
    return ConfigError(path, "\n".join([first.problem, *map(str, others)]), line=first.line)


def _joined(alternatives: Sequence[str]) -> str:
    start = alternatives[0].partition("; it must be ")[0]
    return " or ".join([alternatives[0], *(other.removeprefix(f"{start}; it must be ") for other in alternatives[1:])])


def _sentence(form: type[Any], details: ErrorDetails, steps: Sequence[str | int], name: str) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        return f"{name} is missing"
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        return f"{name}.{tag} is missing".removeprefix(".")
    if kind == "unexpected_keyword_argument":
        schema = _adapter(form).json_schema()
        known = sorted(_keys(schema, steps[:-1], schema.get("$defs", {})))
        return f"unknown key {name!r}; the keys here are {', '.join(map(repr, known))}"
    if details["loc"][-1:] == ("[key]",):
        return f"unknown key {name!r}; the keys here are {context['expected']}"
    if kind == "value_error":
        return f"{name}: {context['error']}" if name else str(context["error"])
    wanted = re.sub(r"\ba valid (?=([aeiou])?)", lambda found: "an " if found[1] else "a ", details["msg"])
    wanted = wanted.replace("Input should be", "it must be").replace("an object", "an object (a table in TOML)")
    return f"{name or 'it'} is {details['input']!r:.60}; {wanted}"


def _steps(document: Any, details: ErrorDetails) -> list[str | int]:
    """The place of a fault in the document: pydantic's without the names that it gives to a union's members."""
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
    """The keys that a JSON schema knows at a place."""
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
    """Line of each ``[table]`` and ``key =``, by dotted name: tomllib keeps no places."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = header[1]
            lines.setdefault(table, number)
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            lines.setdefault(f"{table}.{key[1]}" if table else key[1], number)
    return lines
