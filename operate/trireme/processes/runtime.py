"""The embedded runtime: the real tritonserver from a wheel, and its backends."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import SetupError
from trireme.settings import Settings

_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class EmbeddedRuntime:
    """The parts of a server process.

    Attributes:
        wheel_dir: the unpacked tritonserver and its libraries.
        libpython_dir: the directory of the shared libpython that the Python stub links.
        backends_dir: this project's Python-based backends.
        vllm_dir: vLLM's environment, if ``make vllm`` created it.
    """

    wheel_dir: Path
    libpython_dir: Path
    backends_dir: Path
    vllm_dir: Path

    @classmethod
    def find(cls, settings: Settings) -> EmbeddedRuntime:
        """Find the runtime that ``make setup`` installed.

        Raises:
            SetupError: the server, its stub for this Python, or the shared libpython is missing.
        """
        runtime = cls(
            wheel_dir=settings.runtime_dir / "wheel",
            libpython_dir=_find_libpython(settings),
            backends_dir=settings.project_dir / "backends",
            vllm_dir=settings.vllm_dir,
        )
        for path in (runtime.server_path, runtime.stub_path):
            if not path.is_file():
                raise SetupError(f"{path} is missing", "make setup")
        return runtime

    @property
    def server_path(self) -> Path:
        return self._triton_dir / "bin" / "tritonserver"

    @property
    def cache_dir(self) -> Path:
        """Triton's response cache implementations."""
        return self._triton_dir / "caches"

    @property
    def _triton_dir(self) -> Path:
        return self.wheel_dir / "pytriton" / "tritonserver"

    @property
    def stub_path(self) -> Path:
        return self._triton_dir / "python_backend_stubs" / f"3.{sys.version_info.minor}" / _STUB

    def build_backend_directory(self, target: Path) -> None:
        """Create ``target``, which must not exist, for ``--backend-directory``.

        It holds the Python backend with the stub for the running Python, and every directory of ``backends/`` with a
        ``model.py``. All are copies: Triton rejects links that leave the directory.
        """
        shutil.copytree(self._triton_dir / "backends" / "python", target / "python")
        shutil.copy2(self.stub_path, target / "python" / _STUB)
        for entry in sorted(self.backends_dir.glob("*/model.py")):
            shutil.copytree(entry.parent, target / entry.parent.name, ignore=shutil.ignore_patterns("__pycache__"))

    def environment(self) -> dict[str, str]:
        """The environment variables of a server process."""
        libraries = (str(self.wheel_dir / "nvidia_pytriton.libs"), str(self.libpython_dir))
        # The stub ignores PYTHONPATH: it uses the site-packages of the first interpreter on PATH.
        programs = (str(Path(sys.prefix) / "bin"), os.environ.get("PATH", os.defpath))
        return {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "PATH": os.pathsep.join(programs),
            # Stubs of the vllm backend switch to this environment; see trireme_backends.generation.vllm_environment.
            "TRIREME_VLLM_DIR": str(self.vllm_dir),
            # Threads of the tokenizers library and of OpenMP would compete with model instances for the cores.
            "TOKENIZERS_PARALLELISM": "0",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            # Every inference reads all weights: huge pages save 11 % of CPU for one text, 3 % for a batch of 8.
            "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
        }


def _find_libpython(settings: Settings) -> Path:
    name = str(sysconfig.get_config_var("INSTSONAME"))
    fetched = (settings.runtime_dir / "debian").glob("usr/lib/*")
    for folder in (Path(str(sysconfig.get_config_var("LIBDIR"))), *fetched):
        if (folder / name).is_file():
            return folder
    raise SetupError(f"{name}, which the server's Python stub links, is not installed", "make setup")
