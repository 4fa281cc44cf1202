"""Vllm's own Python environment inside a stub that was started with another one.

vLLM pins other releases of packages than the rest of the project, and a tritonserver has one ``PATH``, so one
environment, for all its stubs. A stub of the ``vllm`` backend therefore changes environments before it imports any of
it, as virtualenv's ``activate_this`` does.
"""

from __future__ import annotations

import locale
import os
import sys
from pathlib import Path

from trireme_backends.errors import ModelError

# Set by whoever starts tritonserver; see trireme.processes.runtime.
DIRECTORY_VARIABLE = "TRIREME_VLLM_DIR"

_SETTINGS = {
    # The engine in this process: a worker process would outlive a stub that is killed, with all its memory.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The automatic binding gives one of two cores away.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # The n-gram proposer's threads compete with the model's: 3 tokens/s in place of 80.
    "NUMBA_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def enter_vllm_environment() -> None:
    """Make ``import vllm`` mean the one of vLLM's environment, in this process, from now on.

    Raises:
        ModelError: it is not there, or is for another Python.
    """
    directory = Path(os.environ.get(DIRECTORY_VARIABLE, ""))
    packages = directory / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if not (packages / "vllm").is_dir():
        raise ModelError(
            f"vLLM is not installed in {packages} ({DIRECTORY_VARIABLE} names the environment); run: make vllm"
        )
    # Packages that vLLM does not pin but would use where it finds them are no part of its environment either.
    own = [path for path in sys.path if not path.endswith("site-packages")]
    sys.path[:] = [*own, str(packages)]
    # vLLM inspects the class of a model in a child process, which is to find vLLM too.
    sys.executable = str(directory / "bin" / "python")
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # An embedded interpreter starts in the C locale, in which vLLM's sources cannot be read.
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
