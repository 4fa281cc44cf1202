"""Paths, read once from the environment (prefix ``TRIREME_``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import SetupError


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths of one checkout.

    Attributes:
        project_dir: the checkout: the directory with ``model_repository/`` (``TRIREME_PROJECT_DIR``).
        repository_dir: the Triton model repository (``TRIREME_REPOSITORY_DIR``).
        state_dir: generated files: runtime, downloads, logs, keys (``TRIREME_STATE_DIR``).
    """

    project_dir: Path
    repository_dir: Path
    state_dir: Path

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the ``TRIREME_*`` variables; defaults come from the checkout at or above the current directory.

        Raises:
            SetupError: no checkout at or above the current directory, and no variable names one.
        """
        named = os.environ.get("TRIREME_PROJECT_DIR")
        project = Path(named).resolve() if named else _find_project(Path.cwd())
        return cls(
            project_dir=project,
            repository_dir=Path(os.environ.get("TRIREME_REPOSITORY_DIR", project / "model_repository")).resolve(),
            state_dir=Path(os.environ.get("TRIREME_STATE_DIR", project / ".trireme")).resolve(),
        )

    @property
    def runtime_dir(self) -> Path:
        """The unpacked tritonserver and its assembled backend directory."""
        return self.state_dir / "runtime"

    @property
    def vllm_dir(self) -> Path:
        """The Python environment of vLLM, created by ``make vllm``."""
        return self.state_dir / "vllm"

    @property
    def sources_dir(self) -> Path:
        """Downloaded model and data packages, one directory each."""
        return self.state_dir / "sources"

    @property
    def run_dir(self) -> Path:
        """State of a running server for other commands: pid, ports, admin key, logs."""
        return self.state_dir / "run"


def _find_project(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / "model_repository").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    # The checkout this module was installed from in editable mode: `trireme` works from any directory.
    origin = Path(__file__).resolve().parents[2]
    if (origin / "model_repository").is_dir():
        return origin
    raise SetupError(
        f"no Trireme checkout at or above {start}", "change into the checkout, or set TRIREME_PROJECT_DIR to it"
    )
