"""Switches a stub to vLLM's own Python environment.

vLLM pins other package versions than the rest of the project, and a tritonserver has one ``PATH`` and therefore one
environment for all its stubs. A stub of the ``vllm`` backend switches environments before it imports vLLM, as
virtualenv's ``activate_this`` does.
"""

from __future__ import annotations

import locale
import os
import sys
from pathlib import Path

from trireme_backends.errors import ModelError

# Set by the process that starts tritonserver; see trireme.processes.runtime.
DIRECTORY_VARIABLE = "TRIREME_VLLM_DIR"

_SETTINGS = {
    # Run the engine in this process: a worker process would outlive a killed stub and keep its memory.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The automatic binding leaves one of two cores unused.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # The n-gram proposer's threads compete with the model's: 3 tokens/s instead of 80.
    "NUMBA_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def enter_vllm_environment() -> None:
    """Make this process import packages from vLLM's environment.

    Raises:
        ModelError: the environment is missing, or is for another Python version.
    """
    directory = Path(os.environ.get(DIRECTORY_VARIABLE, ""))
    packages = directory / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if not (packages / "vllm").is_dir():
        raise ModelError(
            f"vLLM is not installed in {packages} ({DIRECTORY_VARIABLE} names the environment); run: make vllm"
        )
    # All other site-packages are removed: vLLM would use optional packages that it finds there.
    own = [path for path in sys.path if not path.endswith("site-packages")]
    sys.path[:] = [*own, str(packages)]
    # vLLM inspects a model's class in a child process, which must find vLLM too.
    sys.executable = str(directory / "bin" / "python")
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # An embedded interpreter starts in the C locale, in which Python cannot decode vLLM's sources.
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
