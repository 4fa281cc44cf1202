#!/usr/bin/env python3
"""Check the container's setup, then start tritonserver.

Arguments are passed to tritonserver unchanged. Added are the models to load (complete, with a backend in this image)
and the key of the admin APIs, from a secret file, so that it is in no compose file, image or environment.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from trireme.errors import SetupError, TriremeError
from trireme.processes.machine import Machine
from trireme.repository.folders import ModelRepository
from trireme.repository.loading import plan_loading
from trireme.repository.model_config import load_model_config
from trireme.repository.resource_requirements import shared_memory_bytes

REPOSITORY = Path("/models")
BACKENDS = Path("/opt/tritonserver/backends")
SHARED_MEMORY = Path("/dev/shm")
ADMIN_KEY = Path("/run/secrets/admin_key")
# These APIs give control of the server; inference, health and statistics stay open.
ADMIN_APIS = "model-repository,shared-memory,trace,logging"
MIB = 1024**2


def main(arguments: list[str]) -> None:
    check_shared_memory()
    restricted = f"{ADMIN_APIS}:admin-key={admin_key()}"
    models = [f"--load-model={model}" for model in models_to_load()]
    server = ["tritonserver", f"--model-repository={REPOSITORY}", *models, *arguments]
    os.execvp(server[0], [*server, f"--grpc-restricted-protocol={restricted}", f"--http-restricted-api={restricted}"])


def check_shared_memory() -> None:
    """Compare the size of /dev/shm with the models' requirement.

    Raises:
        ConfigError: a model's configuration is invalid.
        SetupError: /dev/shm is too small; the message has the size to set.
    """
    configs = [load_model_config(folder.config_path) for folder in ModelRepository(REPOSITORY).models()]
    needed = shared_memory_bytes(configs, Machine.present())
    present = os.statvfs(SHARED_MEMORY)
    size = present.f_blocks * present.f_frsize
    if size < needed:
        raise SetupError(
            f"{SHARED_MEMORY} has {size // MIB} MiB and the models' instances need {needed // MIB} MiB",
            f"set TRITON_SHM_SIZE={needed * 5 // 4 // MIB}m in .env",
        )


def models_to_load() -> Sequence[str]:
    """Return the models that can be loaded; print why each other model is skipped.

    Raises:
        SetupError: no model can be loaded.
    """
    repository = ModelRepository(REPOSITORY)
    plan = plan_loading(repository)
    left_out = {**plan.left_out, **plan.broken}
    configs = {model: load_model_config(repository.model(model).config_path) for model in plan.models}
    for model, config in configs.items():
        if not config.is_ensemble and not (BACKENDS / config.backend).is_dir():
            left_out[model] = f"this image has no backend {config.backend}"
    for model, config in configs.items():
        for step in config.steps:
            if step.model in left_out:
                left_out[model] = f"its step {step.model} cannot be loaded"
    for model, reason in left_out.items():
        print(f"start-triton: {model} is skipped: {reason}", flush=True)
    models = [model for model in plan.models if model not in left_out]
    if not models:
        raise SetupError(f"no model in {REPOSITORY} can be loaded", "make models")
    return models


def admin_key() -> str:
    """Return the key of the admin APIs.

    Raises:
        SetupError: the key cannot be read or is invalid.
    """
    try:
        key = ADMIN_KEY.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SetupError(
            f"user {os.getuid()} of the container cannot read {ADMIN_KEY} ({error.strerror})", "deploy/make-secrets"
        ) from None
    # The flag's syntax allows no other characters.
    if not re.fullmatch(r"[A-Za-z0-9_-]{32,}", key):
        raise SetupError(f"{ADMIN_KEY} is not 32 or more letters, digits, - and _", "deploy/make-secrets")
    return key


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (TriremeError, OSError) as problem:
        sys.exit(f"start-triton: {problem}")
