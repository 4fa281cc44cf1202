"""What this machine has, as far as serving models depends on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """``cores`` are those this process may run on; ``gpus`` are NVIDIA's."""

    cores: int
    gpus: int

    @classmethod
    def present(cls) -> Machine:
        """The machine this process runs on."""
        # The driver lists each GPU here, also inside containers, whatever CUDA libraries are installed.
        driver = Path("/proc/driver/nvidia/gpus")
        gpus = len(list(driver.iterdir())) if driver.is_dir() else 0
        return cls(cores=len(os.sched_getaffinity(0)), gpus=gpus)
