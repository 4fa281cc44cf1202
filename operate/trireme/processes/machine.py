"""The hardware of this machine that matters for serving."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """``cores`` available to this process; NVIDIA ``gpus``."""

    cores: int
    gpus: int

    @classmethod
    def present(cls) -> Machine:
        """The current machine."""
        # The driver lists each GPU here, also in containers, independent of CUDA libraries.
        driver = Path("/proc/driver/nvidia/gpus")
        gpus = len(list(driver.iterdir())) if driver.is_dir() else 0
        return cls(cores=len(os.sched_getaffinity(0)), gpus=gpus)
