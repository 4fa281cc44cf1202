"""Reads ``model.json`` of a version of the ``openai_engine`` backend."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme_backends.errors import ModelError
from trireme_backends.generation.openai_dialects import DIALECTS, Dialect
from trireme_backends.model import Model

CONFIG_NAME = "model.json"


@dataclass(frozen=True, slots=True)
class OpenAIConfig:
    """The address of an engine and how to call it.

    Attributes:
        dialect: the engine's variant of OpenAI's API.
        base_url: with its path, e.g. ``http://127.0.0.1:8000/v1``.
        model: the engine's name of the model.
        api_key: "" for none. ``model.json`` names only the file of the key, in ``api_key_file``.
        connect_timeout_seconds: timeout for establishing a connection.
        read_timeout_seconds: timeout for the first chunk, and between chunks.
        max_connections: maximum number of concurrent requests; further ones wait.
    """

    dialect: Dialect
    base_url: str
    model: str
    api_key: str = dataclasses.field(default="", repr=False)
    connect_timeout_seconds: float = 5.0
    read_timeout_seconds: float = 120.0
    max_connections: int = 256

    @classmethod
    def read(cls, model: Model) -> OpenAIConfig:
        """Read the version directory.

        Raises:
            ModelError: ``model.json`` or the key file is missing, or a key is unknown or invalid.
        """
        path = model.file(CONFIG_NAME)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise ModelError(f"{path} must be a JSON object")
        strings = {"dialect", "base_url", "model", "api_key_file"}
        numbers: dict[str, type[int] | type[float]] = {
            "connect_timeout_seconds": float,
            "read_timeout_seconds": float,
            "max_connections": int,
        }
        for name in content:
            if name not in strings | set(numbers):
                available = ", ".join(sorted(strings | set(numbers)))
                raise ModelError(f"{path}: unknown key '{name}'; available: {available}")
        values: dict[str, Any] = {name: _string(path, content, name) for name in ("dialect", "base_url", "model")}
        if values["dialect"] not in DIALECTS:
            raise ModelError(f"{path}: unknown dialect '{values['dialect']}'; available: {', '.join(sorted(DIALECTS))}")
        values["dialect"] = DIALECTS[values["dialect"]]
        if not values["base_url"].startswith(("http://", "https://")):
            raise ModelError(f"{path}: base_url '{values['base_url']}' must begin with http:// or https://")
        values["base_url"] = values["base_url"].rstrip("/")
        if "api_key_file" in content:
            values["api_key"] = _key(path, Path(_string(path, content, "api_key_file")))
        for name, kind in numbers.items():
            value = content.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, kind)) or value <= 0:
                raise ModelError(f"{path}: {name} is {value!r}; it must be a positive number")
            values[name] = value
        return cls(**values)

    def url(self, path: str) -> str:
        """The URL of a path of the API, e.g. ``models``."""
        return f"{self.base_url}/{path}"

    @property
    def root_url(self) -> str:
        """The base URL without the API's version, for endpoints outside of the API."""
        return self.base_url.removesuffix("/v1")

    @property
    def health_url(self) -> str:
        """The health check, which is the same in all dialects."""
        return f"{self.root_url}/health"


def _string(path: Path, content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise ModelError(f"{path}: '{name}' must be a non-empty string")
    return value


def _key(path: Path, key_path: Path) -> str:
    try:
        key = (path.parent / key_path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: the API key cannot be read: {error}") from None
    if not key or not key.isprintable() or not key.isascii():
        raise ModelError(f"{path}: {key_path} does not contain an API key; it must be one line of ASCII")
    return key
