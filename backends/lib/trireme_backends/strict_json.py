"""Reads JSON into dataclasses, strictly: an unknown key, a missing key or an invalid value is an error that names it.

The dataclass is the schema. Supported types are ``bool``, ``int``, ``float``, ``str``, enums, ``Literal`` texts,
dataclasses, ``tuple[T, ...]`` (a JSON list), ``Mapping[str, T]``, ``dict[str, T]`` and ``T | None``; ``Annotated`` adds
a ``Range``, ``Choice`` or ``Pattern``. The backends' environments do not have pydantic.

Example:
    >>> @dataclass(frozen=True)
    ... class Limits:
    ...     timeout_ms: Annotated[float, Range(1)] = 2000.0
    >>> read_json(Path("limits.json"), Limits)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from trireme_backends.errors import FileError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Range:
    """Limits of a number, both inclusive."""

    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True, slots=True)
class Choice:
    """The allowed values, each with the value it maps to."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression for the whole text; ``description`` completes "it must be"."""

    regex: str
    description: str


def read_json(path: Path, kind: type[T]) -> T:
    """Read a file.

    Raises:
        FileError: it cannot be read, is not JSON, or does not match ``kind``.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(path, "", f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise FileError(path, "", f"not JSON: {error}") from None
    return check_json(path, document, kind)


def check_json(path: Path, document: object, kind: type[T]) -> T:
    """Read a decoded document; ``path`` is for error messages.

    Raises:
        FileError: it does not match ``kind``.
    """
    found: T = _Reader(path).read("", document, kind)
    return found


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, key: str, value: Any, kind: Any, rule: Any = None) -> Any:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self.read(key, value, *arguments)
        if isinstance(rule, Choice):
            return self._choice(key, value, rule.values)
        if origin is Literal:
            return self._choice(key, value, {text: text for text in arguments})
        if origin in (Union, UnionType):
            return None if value is None else self.read(key, value, arguments[0], rule)
        if origin is tuple:
            if not isinstance(value, list) or not value:
                raise FileError(self._path, key, "must be a non-empty list")
            return tuple(self.read(f"{key}[{index}]", entry, arguments[0]) for index, entry in enumerate(value))
        if origin in (Mapping, dict):
            if not isinstance(value, dict):
                raise FileError(self._path, key, "must be a JSON object")
            return {name: self.read(_join(key, name), entry, arguments[1]) for name, entry in value.items()}
        if is_dataclass(kind):
            return self._object(key, value, kind)
        if kind is Any:
            return value
        if issubclass(kind, Enum):
            return self._choice(key, value, {str(member.value): member for member in kind})
        if kind is bool:
            return value if isinstance(value, bool) else self._reject(key, value, "true or false")
        if kind is str:
            return self._text(key, value, rule or Pattern("(?s).+", "a non-empty string"))
        return self._number(key, value, kind, rule or Range())

    def _object(self, key: str, value: Any, kind: Any) -> Any:
        known = {field.name: field for field in fields(kind)}
        if not isinstance(value, dict):
            raise FileError(self._path, key, f"must be a JSON object with the keys {', '.join(known)}")
        for name in value:
            if name not in known:
                raise FileError(self._path, _join(key, name), f"unknown key; known: {', '.join(known)}")
        for name, field in known.items():
            if name not in value and field.default is MISSING and field.default_factory is MISSING:
                raise FileError(self._path, _join(key, name), "is missing")
        hints = get_type_hints(kind, include_extras=True)
        return kind(**{name: self.read(_join(key, name), entry, hints[name]) for name, entry in value.items()})

    def _choice(self, key: str, value: Any, values: Mapping[str, Any]) -> Any:
        if not isinstance(value, str) or value not in values:
            self._reject(key, value, f"one of {', '.join(values)}")
        return values[value]

    def _text(self, key: str, value: Any, rule: Pattern) -> str:
        if not isinstance(value, str) or not re.fullmatch(rule.regex, value):
            self._reject(key, value, rule.description)
        return str(value)

    def _number(self, key: str, value: Any, kind: Any, limits: Range) -> int | float:
        allowed = "an integer" if kind is int else "a number"
        if limits.most < math.inf:
            allowed += f" from {limits.least} to {limits.most}"
        elif limits.least > -math.inf:
            allowed += f" of at least {limits.least}"
        is_number = type(value) is int or (kind is float and type(value) is float and math.isfinite(value))
        if not is_number or not limits.least <= value <= limits.most:
            self._reject(key, value, allowed)
        return float(value) if kind is float else int(value)

    def _reject(self, key: str, value: Any, allowed: str) -> NoReturn:
        raise FileError(self._path, key, f"is {value!r}; it must be {allowed}")


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
