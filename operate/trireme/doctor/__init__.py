"""Checks whether this machine can serve; each problem comes with the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterator

from trireme.doctor import memory, models, ports, software
from trireme.doctor.check import Check, CheckStatus
from trireme.processes.machine import Machine
from trireme.repository.folders import ModelRepository
from trireme.repository.model_config import parse_model_config
from trireme.serving.run_state import RunDirectory
from trireme.settings import Settings

__all__ = ["Check", "CheckStatus", "examine"]


def examine(settings: Settings) -> Iterator[Check]:
    """Run all checks."""
    machine = Machine.present()
    repository = ModelRepository(settings.repository_dir)
    parsed = (parse_model_config(model.config_path.read_bytes(), model.config_path) for model in repository.models())
    configs = {result.config.name: result.config for result in parsed if result.config}
    yield from software.machine()
    yield from software.python()
    yield from software.glibc()
    yield from software.packages()
    yield from software.runtime(settings)
    yield from software.proxies()
    yield from models.exported(repository)
    yield from models.accepted(repository, machine)
    yield from models.threads(configs, machine)
    yield from memory.shared_memory(configs.values(), machine)
    yield from memory.stale_regions()
    yield from memory.disk(settings.project_dir)
    yield from ports.ports(RunDirectory(settings.run_dir))
