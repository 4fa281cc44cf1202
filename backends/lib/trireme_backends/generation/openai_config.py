"""What a version folder of the ``openai_engine`` backend says, in ``model.json``."""

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
    """Where an engine is, and how to speak with it.

    Attributes:
        dialect: the engine's form of the protocol.
        base_url: with its path, e.g. ``http://127.0.0.1:8000/v1``.
        model: the name it serves the model under.
        api_key: "" for none; ``api_key_file`` in the file, and nowhere the key itself.
        connect_timeout_seconds: until a connection stands.
        read_timeout_seconds: from one piece of an answer to the next, the wait for the first one included.
        max_connections: requests at a time; more wait here.
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
        """Read the version folder.

        Raises:
            ModelError: the file or the key's file is missing, or a member is unknown or wrong.
        """
        path = model.file(CONFIG_NAME)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} is no JSON: {error}") from None
        if not isinstance(content, dict):
            raise ModelError(f"{path} must be a JSON object")
        members = {"dialect", "base_url", "model", "api_key_file"}
        numbers: dict[str, type[int] | type[float]] = {
            "connect_timeout_seconds": float,
            "read_timeout_seconds": float,
            "max_connections": int,
        }
        for name in content:
            if name not in members | set(numbers):
                raise ModelError(f"{path}: unknown '{name}'; there are: {', '.join(sorted(members | set(numbers)))}")
        found: dict[str, Any] = {name: _text(path, content, name) for name in ("dialect", "base_url", "model")}
        if found["dialect"] not in DIALECTS:
            raise ModelError(f"{path}: no dialect '{found['dialect']}'; there are: {', '.join(sorted(DIALECTS))}")
        found["dialect"] = DIALECTS[found["dialect"]]
        if not found["base_url"].startswith(("http://", "https://")):
            raise ModelError(f"{path}: base_url '{found['base_url']}' must begin with http:// or https://")
        found["base_url"] = found["base_url"].rstrip("/")
        if "api_key_file" in content:
            found["api_key"] = _key(path, Path(_text(path, content, "api_key_file")))
        for name, kind in numbers.items():
            value = content.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, kind)) or value <= 0:
                raise ModelError(f"{path}: {name} is {value!r}; it must be a positive number")
            found[name] = value
        return cls(**found)

    def url(self, path: str) -> str:
        """Of a path of the protocol, e.g. ``models``."""
        return f"{self.base_url}/{path}"

    @property
    def root_url(self) -> str:
        """Above the protocol's version: of what engines have beside it."""
        return self.base_url.removesuffix("/v1")

    @property
    def health_url(self) -> str:
        """The same in all dialects."""
        return f"{self.root_url}/health"


def _text(path: Path, content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise ModelError(f"{path}: '{name}' must be a text")
    return value


def _key(path: Path, key_path: Path) -> str:
    try:
        key = (path.parent / key_path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: the API key cannot be read: {error}") from None
    if not key or not key.isprintable() or not key.isascii():
        raise ModelError(f"{path}: {key_path} holds no API key, which is one line of ASCII")
    return key
