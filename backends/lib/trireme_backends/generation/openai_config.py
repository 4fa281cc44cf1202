"""``model.json`` of the backend ``openai_engine``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from trireme_backends.errors import FileError
from trireme_backends.generation.openai_dialects import DIALECTS, Dialect
from trireme_backends.model import Model
from trireme_backends.strict_json import Choice, Pattern, Range, check_json, read_json

CONFIG_NAME = "model.json"


@dataclass(frozen=True, slots=True)
class OpenAIConfig:
    """The address of an engine, and how to use it.

    Attributes:
        dialect: the engine's variation of the protocol.
        base_url: with its path, e.g. ``http://127.0.0.1:8000/v1``.
        model: the name it serves the model under.
        api_key: "" for none; the file has ``api_key_file`` instead, never the key itself.
        connect_timeout_seconds: until a connection stands.
        read_timeout_seconds: from one piece of an answer to the next, the wait for the first one included.
        max_connections: requests at a time; more wait here.
    """

    dialect: Annotated[Dialect, Choice(DIALECTS)]
    base_url: Annotated[str, Pattern("https?://.+", "a URL that begins with http:// or https://")]
    model: str
    api_key: str = dataclasses.field(default="", repr=False)
    connect_timeout_seconds: Annotated[float, Range(0.001)] = 5.0
    read_timeout_seconds: Annotated[float, Range(0.001)] = 120.0
    max_connections: Annotated[int, Range(1)] = 256

    @classmethod
    def read(cls, model: Model) -> OpenAIConfig:
        """Read the version directory.

        Raises:
            ModelError: the file or the key's file is missing, or a key is unknown or wrong.
        """
        path = model.file(CONFIG_NAME)
        document = read_json(path, dict[str, Any])
        if "api_key" in document:
            raise FileError(
                path, "api_key", "must not be in this file; write it to another one, and name it in api_key_file"
            )
        if "api_key_file" in document:
            document["api_key"] = _read_key(path, str(document.pop("api_key_file")))
        config = check_json(path, document, cls)
        return dataclasses.replace(config, base_url=config.base_url.rstrip("/"))

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


def _read_key(path: Path, name: str) -> str:
    try:
        key = (path.parent / name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise FileError(path, "api_key_file", f"cannot be read: {error}") from None
    if not key or not key.isprintable() or not key.isascii():
        raise FileError(path, "api_key_file", f"{name} does not hold an API key, which is one line of ASCII")
    return key
