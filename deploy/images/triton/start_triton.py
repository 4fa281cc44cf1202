#!/usr/bin/env python3
"""Start tritonserver in a container, after a look at what would break it later.

Every argument goes to tritonserver as it is; the key of the admin protocols is added from a secret file, so that it
stands in no compose file, image or environment.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

REPOSITORY = Path("/models")
BACKENDS = Path("/opt/tritonserver/backends")
SHARED_MEMORY = Path("/dev/shm")
ADMIN_KEY = Path("/run/secrets/admin_key")
# Whoever may load models or map memory owns the server; inference, health and statistics stay open.
ADMIN_PROTOCOLS = "model-repository,shared-memory,trace,logging"

MIB = 1024**2
# Triton's default region of one Python stub (shm-default-byte-size).
STUB_REGION_BYTES = 1 * MIB
# A stub's region grows to the largest batch it ever saw: 64 rows of 128 KiB, once as input and once as copied output.
LARGEST_BATCH_BYTES = 8 * MIB


class StartError(Exception):
    """One sentence: what is wrong and how to mend it."""


def main(arguments: list[str]) -> None:
    check_shared_memory()
    restricted = f"{ADMIN_PROTOCOLS}:admin-key={admin_key()}"
    server = ["tritonserver", f"--model-repository={REPOSITORY}", *arguments]
    os.execvp(
        server[0], [*server, f"--grpc-restricted-protocol={restricted}", f"--http-restricted-api={restricted}"]
    )


def admin_key() -> str:
    """The key that the admin protocols ask for.

    Raises:
        StartError: it cannot be read, or tritonserver's flag could not carry it.
    """
    try:
        key = ADMIN_KEY.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(
            f"the secret {ADMIN_KEY} cannot be read by user {os.getuid()} ({error}); make it with deploy/make-admin-key"
        ) from None
    if not re.fullmatch(r"[A-Za-z0-9_-]{32,}", key):
        raise StartError(
            f"the secret {ADMIN_KEY} is not 32 or more letters, digits, - and _; make it with deploy/make-admin-key"
        )
    return key


def check_shared_memory() -> None:
    """Compare /dev/shm with what the repository's Python models may need.

    Raises:
        StartError: it is too small; the sentence has the number to set.
    """
    stubs = python_stubs(REPOSITORY, BACKENDS)
    needed = needed_shared_memory(stubs)
    present = os.statvfs(SHARED_MEMORY)
    size = present.f_blocks * present.f_frsize
    if size < needed:
        raise StartError(
            f"/dev/shm has {size // MIB} MiB; the {stubs} Python model instances of the repository need "
            f"{needed // MIB} MiB; set TRITON_SHM_SIZE={needed // MIB}m in .env"
        )


def needed_shared_memory(stubs: int) -> int:
    """Bytes of /dev/shm for this many Python stubs: each its region, grown by its largest batch, in and out."""
    return stubs * (STUB_REGION_BYTES + 2 * LARGEST_BATCH_BYTES)


def python_stubs(repository: Path, backends: Path) -> int:
    """How many Python processes Triton starts: one per instance and loaded version of each model that is not native.

    Raises:
        StartError: a configuration is not one.
    """
    stubs = 0
    for path in repository.glob("[!.]*/config.pbtxt"):
        try:
            config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            raise StartError(f"{path}: {error}") from None
        # Triton, too, looks for this file to tell a Python-based backend from a native one.
        if config.backend == "python" or (backends / config.backend / "model.py").is_file():
            instances = sum(max(group.count, 1) for group in config.instance_group) or 1
            stubs += instances * loaded_versions(config, path.parent)
    return stubs


def loaded_versions(config: ModelConfig, folder: Path) -> int:
    """How many of the model's versions its policy loads."""
    available = {int(entry.name) for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal()}
    policy = config.version_policy
    if policy.HasField("all"):
        return len(available)
    if policy.HasField("specific"):
        return len(available.intersection(policy.specific.versions))
    return min(len(available), policy.latest.num_versions or 1)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except StartError as problem:
        sys.exit(f"start-triton: {problem}")
