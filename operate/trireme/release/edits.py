"""Edits of a ``config.pbtxt`` that keep everything else in it, including comments.

A release changes two fields: the versions a model keeps loaded, and the versions an ensemble's steps are pinned to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from trireme.errors import ConfigError
from trireme.repository.config_source import Place
from trireme.repository.model_config import ModelConfig, parse_model_config

_QUOTED_OR_COMMENT = re.compile(r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|\#[^\n]*""")
_VERSION_FIELD = re.compile(r"model_version\s*:\s*-?\d+")


def parse_text(text: str, path: Path) -> ModelConfig:
    """Parse ``text``; ``path`` is for error messages.

    Raises:
        ConfigError: ``text`` is not a valid model configuration.
    """
    parsed = parse_model_config(text.encode(), path)
    if parsed.config is None:
        first = parsed.problems[0]
        raise ConfigError(path, f"{first.problem}; {first.fix}", line=first.place.line, column=first.place.column)
    return parsed.config


def keep_versions(text: str, versions: Iterable[int], path: Path) -> str:
    """``text`` with a ``version_policy`` of exactly ``versions``; ``path`` is for error messages.

    Raises:
        ConfigError: ``text`` is not a valid model configuration.
    """
    config = parse_text(text, path)
    policy = f"version_policy {{ specific {{ versions: [ {', '.join(map(str, sorted(versions)))} ] }} }}"
    if "version_policy" not in config.source.fields:
        return f"{text.rstrip()}\n{policy}\n"
    start = _offset(text, config.place("version_policy"))
    return text[:start] + policy + text[_block_end(text, start) :]


def pin_steps(text: str, versions: Mapping[str, int], path: Path) -> str:
    """An ensemble's ``text`` with the steps that call a model in ``versions`` pinned to its version.

    Raises:
        ConfigError: ``text`` is not a valid configuration, or a step has no ``model_version`` to replace.
    """
    config = parse_text(text, path)
    steps = [(index, step.model) for index, step in enumerate(config.steps) if step.model in versions]
    # From last to first, so that the positions of the remaining steps stay valid.
    for index, model in reversed(steps):
        place = config.place("ensemble_scheduling", "step", index, "model_version")
        found = _VERSION_FIELD.match(text, _offset(text, place))
        if found is None:
            raise ConfigError(path, f"the step that calls {model} has no model_version; pin it", line=place.line)
        text = f"{text[: found.start()]}model_version: {versions[model]}{text[found.end() :]}"
    return text


def _offset(text: str, place: Place) -> int:
    lines = text.splitlines(keepends=True)
    return sum(len(line) for line in lines[: place.line - 1]) + place.column - 1


def _block_end(text: str, start: int) -> int:
    """The offset after the closing brace of the block at ``start``; braces in quotes and comments are ignored."""
    blanked = _QUOTED_OR_COMMENT.sub(lambda found: " " * len(found.group()), text)
    depth = 0
    for offset in range(blanked.index("{", start), len(blanked)):
        depth += {"{": 1, "}": -1}.get(blanked[offset], 0)
        if depth == 0:
            return offset + 1
    return len(text)
