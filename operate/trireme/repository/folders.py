"""The model repository as folders: its models, their versions and their files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import NotFoundError

# Triton reads the numeric prefix of a folder, "2_backup" as version 2; here only canonical numbers are versions.
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


def is_version(name: str) -> bool:
    """True if ``name`` is a canonical version number: at most 18 digits, no leading zero."""
    return _VERSION.fullmatch(name) is not None


def version_files(directory: Path) -> list[Path]:
    """The files of a version directory, including links.

    Excludes ``__pycache__``: the stub ignores PYTHON* variables and writes one next to ``model.py``.
    """
    entries = sorted(directory.rglob("*"))
    return [
        path
        for path in entries
        if "__pycache__" not in path.relative_to(directory).parts and (path.is_file() or path.is_symlink())
    ]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model of the repository: ``<repository>/<name>/``."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config_path(self) -> Path:
        return self.path / "config.pbtxt"

    @property
    def recipe_path(self) -> Path:
        """The export recipe; exists for exported models only."""
        return self.path / "export.toml"

    @property
    def golden_dir(self) -> Path:
        return self.path / "golden"

    @property
    def warmup_dir(self) -> Path:
        return self.path / "warmup"

    def version_dir(self, version: int) -> Path:
        return self.path / str(version)

    def versions(self) -> list[int]:
        """Canonical version numbers with a directory, ascending."""
        return sorted(int(entry.name) for entry in self.path.iterdir() if entry.is_dir() and is_version(entry.name))


@dataclass(frozen=True, slots=True)
class ModelRepository:
    """All models under one directory. A model is a folder with a ``config.pbtxt``."""

    path: Path

    def models(self) -> list[ModelFolder]:
        """Every model, by name."""
        return [ModelFolder(entry.parent) for entry in sorted(self.path.glob("[!.]*/config.pbtxt"))]

    def model(self, name: str) -> ModelFolder:
        """The model called ``name``.

        Raises:
            NotFoundError: it does not exist; the message lists the existing models.
        """
        for folder in self.models():
            if folder.name == name:
                return folder
        raise NotFoundError("model", name, (folder.name for folder in self.models()))
