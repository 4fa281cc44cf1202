"""A model as Triton passes it to a backend: its configuration and the directory of the version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme_backends.errors import ModelError


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model, from the arguments of ``initialize``.

    Attributes:
        config: the JSON form of Triton's ModelConfig.
        version_dir: the directory of the version's files.
    """

    name: str
    config: Mapping[str, Any]
    version_dir: Path

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, str]) -> Model:
        """Read the dictionary that the Python backend passes to ``initialize``."""
        return cls(
            name=arguments["model_name"],
            config=json.loads(arguments["model_config"]),
            version_dir=Path(arguments["model_repository"]) / arguments["model_version"],
        )

    def file(self, name: str) -> Path:
        """The path of one of the version's files.

        Raises:
            ModelError: the file is missing.
        """
        path = self.version_dir / name
        if not path.is_file():
            raise ModelError(f"model '{self.name}': {path} is missing; export the model, or restore the file")
        return path

    def integer(self, parameter: str, default: int, *, minimum: int = 0) -> int:
        """An integer from ``parameters`` of the configuration.

        Raises:
            ModelError: the value is not an integer, or is less than ``minimum``.
        """
        text = self.config.get("parameters", {}).get(parameter, {}).get("string_value")
        if text is None:
            return default
        if not text.isdecimal() or int(text) < minimum:
            raise ModelError(
                f"model '{self.name}': parameter {parameter} is '{text}'; it must be an integer of at least {minimum}"
            )
        return int(text)

    def output_names(self) -> list[str]:
        """The names of the configured outputs, in order."""
        return [output["name"] for output in self.config["output"]]


def version_dir_of_this_process() -> Path:
    """The version directory during ``auto_complete_config``, to which Triton does not pass it.

    Source: python_backend, ``StubLauncher``: the stub's first argument is ``<version directory>/model.py``, whether or
    not that file exists.
    """
    arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    return Path(arguments[1].decode()).parent
