"""What Triton tells a backend about its model: the configuration, and where the version's files lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme_backends.errors import ModelError


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model, as ``initialize`` is told of it.

    Attributes:
        name: the model's name.
        config: the JSON form of Triton's ModelConfig.
        version_dir: the folder with the version's files.
    """

    name: str
    config: Mapping[str, Any]
    version_dir: Path

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, str]) -> Model:
        """Read the dictionary that the Python backend hands to ``initialize``."""
        return cls(
            name=arguments["model_name"],
            config=json.loads(arguments["model_config"]),
            version_dir=Path(arguments["model_repository"]) / arguments["model_version"],
        )

    def file(self, name: str) -> Path:
        """A file of the version.

        Raises:
            ModelError: it is not there.
        """
        path = self.version_dir / name
        if not path.is_file():
            raise ModelError(f"model '{self.name}': {path} is missing; export the model, or restore the file")
        return path

    def integer(self, parameter: str, default: int, *, least: int = 0) -> int:
        """A whole number from ``parameters`` of the configuration.

        Raises:
            ModelError: the value is no whole number, or is less than ``least``.
        """
        text = self.config.get("parameters", {}).get(parameter, {}).get("string_value")
        if text is None:
            return default
        if not text.isdecimal() or int(text) < least:
            raise ModelError(
                f"model '{self.name}': parameter {parameter} is '{text}'; it must be a whole number of at least {least}"
            )
        return int(text)

    def output_names(self) -> list[str]:
        """The outputs of the configuration, in its order."""
        return [output["name"] for output in self.config["output"]]


def version_dir_of_this_process() -> Path:
    """The version folder while Triton completes the configuration, when the backend is not yet told of it.

    Source: python_backend, ``StubLauncher``: the stub's first argument is ``<version folder>/model.py``, whether or not
    that file exists.
    """
    arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    return Path(arguments[1].decode()).parent
