"""Read ``export.toml`` into a recipe, and say on which line a mistake stands."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

from trireme.errors import ConfigError

from trireme_export.recipe import (
    AccuracyGate,
    GgufSource,
    GraphRecipe,
    Head,
    LabelledData,
    LanguageModelRecipe,
    ModelSource,
    OnnxSource,
    ParityGate,
    PerplexityGate,
    Recipe,
    SharedRecipe,
    Target,
    TensorRtProfile,
    TokenizerRecipe,
    TokenizerSource,
    TorchSource,
)

_Section = TypeVar("_Section")


def read_recipe(path: Path) -> Recipe:
    """Read and check an ``export.toml``.

    Raises:
        ConfigError: not TOML, an unknown or missing key, a wrong type or value; names file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, "not UTF-8 text; save the file as UTF-8", line=line) from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\s*\(at line (\d+), column (\d+)\)", str(error))
        place = {"line": int(found[1]), "column": int(found[2])} if found else {}
        raise ConfigError(path, f"not TOML: {re.sub(r' *[(]at .*[)]', '', str(error))}", **place) from error
    return _Reader(path, text).recipe(document)


class _Reader:
    """Turns the parsed document into dataclasses and knows on which line a key stands."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = _key_lines(text)

    def recipe(self, document: dict[str, Any]) -> Recipe:
        if "source" not in document:
            self._check_keys(document, "", required={"tokenizer"}, allowed={"tokenizer"})
            return TokenizerRecipe(self._section(TokenizerSource, document["tokenizer"], "tokenizer"))
        source = self._source(document["source"])
        if isinstance(source, ModelSource):
            self._check_keys(document, "", required={"source"}, allowed={"source", "tensorrt"})
            profile = document.get("tensorrt")
            return SharedRecipe(source, profile and self._section(TensorRtProfile, profile, "tensorrt"))
        if isinstance(source, GgufSource):
            return self._language_model(source, document)
        sections = {"source", "tokenizer", "target", "gates"}
        self._check_keys(document, "", required=sections, allowed=sections)
        gates = self._table(document["gates"], "gates")
        self._check_keys(gates, "gates", required={"parity", "accuracy"}, allowed={"parity", "accuracy"})
        recipe = GraphRecipe(
            source=source,
            tokenizer=self._section(TokenizerSource, document["tokenizer"], "tokenizer"),
            target=self._section(Target, document["target"], "target"),
            parity=self._section(ParityGate, gates["parity"], "gates.parity"),
            accuracy=self._section(AccuracyGate, gates["accuracy"], "gates.accuracy"),
        )
        self._check_sense(recipe)
        return recipe

    def _language_model(self, source: GgufSource, document: dict[str, Any]) -> LanguageModelRecipe:
        sections = {"source", "engine", "gates"}
        self._check_keys(document, "", required=sections, allowed=sections)
        gates = self._table(document["gates"], "gates")
        self._check_keys(gates, "gates", required={"perplexity"}, allowed={"perplexity"})
        perplexity = self._section(PerplexityGate, gates["perplexity"], "gates.perplexity")
        return LanguageModelRecipe(source, self._table(document["engine"], "engine"), perplexity)

    def _source(self, found: Any) -> OnnxSource | TorchSource | GgufSource | ModelSource:
        table = dict(self._table(found, "source"))
        kinds: dict[str, type[OnnxSource] | type[TorchSource] | type[GgufSource] | type[ModelSource]] = {
            "onnx": OnnxSource, "torch": TorchSource, "gguf": GgufSource, "model": ModelSource,
        }  # fmt: skip
        if "kind" not in table:
            raise self._error("source", f"key 'kind' is missing; it is one of {_listed(kinds)}")
        kind = table.pop("kind")
        if kind not in kinds:
            raise self._error("source.kind", f"source.kind is {kind!r}; it is one of {_listed(kinds)}")
        return self._section(kinds[kind], table, "source")

    def _section(self, cls: type[_Section], found: Any, where: str) -> _Section:
        table = self._table(found, where)
        hints = typing.get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        self._check_keys(table, where, required=required, allowed=set(fields))
        return cls(**{key: self._value(hints[key], value, f"{where}.{key}") for key, value in table.items()})

    def _value(self, hint: Any, value: Any, where: str) -> Any:
        if isinstance(hint, types.UnionType):  # ``float | None``: a key that may be left out
            hint = typing.get_args(hint)[0]
        if isinstance(hint, type) and issubclass(hint, Enum):
            known = [member.value for member in hint]
            if value not in known:
                raise self._error(where, f"{where} is {value!r}; it is one of {_listed(known)}")
            return hint(value)
        if hint is float and type(value) in (int, float):
            # All numbers of a recipe are thresholds of shares, similarities or errors; TOML knows nan and inf too.
            most = 1.0 if where.rpartition(".")[2].startswith("min_") else math.inf
            if not 0.0 <= value <= most or math.isinf(value):
                raise self._error(
                    where, f"{where} is {value!r}; it must be {'from 0 to 1' if most == 1.0 else 'from 0'}"
                )
            return float(value)
        if hint == list[int]:
            if type(value) is not list or any(type(item) is not int for item in value):
                raise self._error(where, f"{where} is {value!r}; it must be a list of integers")
            return value
        if type(value) is not hint:
            names = {str: "a string", int: "an integer", float: "a number"}
            raise self._error(where, f"{where} is {value!r}; it must be {names[hint]}")
        return value

    def _check_keys(self, table: dict[str, Any], where: str, *, required: set[str], allowed: set[str]) -> None:
        for key in table:
            if key not in allowed:
                full = f"{where}.{key}" if where else key
                raise self._error(full, f"unknown key {full!r}; here may stand {_listed(sorted(allowed))}")
        for key in sorted(required - set(table)):
            raise self._error(where, f"key {f'{where}.{key}' if where else key!r} is missing")

    def _check_sense(self, recipe: GraphRecipe) -> None:
        if (recipe.parity.max_abs_diff is None) == (recipe.parity.min_cosine is None):
            raise self._error("gates.parity", "gates.parity takes exactly one of max_abs_diff, min_cosine")
        with_head = recipe.target.head is Head.SENTIMENT
        wanted = LabelledData.UCI_SENTENCES if with_head else LabelledData.BBC_NEWS
        if recipe.accuracy.data is not wanted:
            raise self._error(
                "gates.accuracy.data",
                f"gates.accuracy.data must be {wanted.value!r} for head {recipe.target.head.value!r}",
            )
        logits = (recipe.accuracy.max_logit_error, recipe.accuracy.mean_logit_error)
        if any((limit is not None) != with_head for limit in logits):
            need = "needs" if with_head else "has no logits: leave out"
            raise self._error(
                "gates.accuracy",
                f"head {recipe.target.head.value!r} {need} gates.accuracy.max_logit_error and mean_logit_error",
            )
        if not 3 <= recipe.tokenizer.max_tokens <= 512:
            raise self._error(
                "tokenizer.max_tokens", f"tokenizer.max_tokens is {recipe.tokenizer.max_tokens}; it must be 3 to 512"
            )

    def _table(self, found: Any, where: str) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise self._error(where, f"{where} is {found!r}; it must be a table, [{where}]")
        return found

    def _error(self, key: str, problem: str) -> ConfigError:
        return ConfigError(self._path, problem, line=self._lines.get(key))


def _key_lines(text: str) -> dict[str, int]:
    """Line of each ``[table]`` and ``key =``, by dotted name. tomllib keeps no places."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = header[1]
            lines.setdefault(table, number)
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            lines.setdefault(f"{table}.{key[1]}" if table else key[1], number)
    return lines


def _listed(names: typing.Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
