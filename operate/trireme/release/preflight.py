"""Proves a version in a tritonserver of its own, before a server that anyone uses sees it."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import GateError, TriremeError
from trireme.golden import load_golden
from trireme.manifest import MANIFEST_NAME, read_manifest, verify_files
from trireme.readiness import prove
from trireme.release.edits import keep_versions
from trireme.repository import ModelFolder
from trireme.runtime import EmbeddedRuntime
from trireme.server import ServerFlags, TritonServer
from trireme.triton_client import TritonClient

# More than it takes to load and warm up; a model that hangs in its load is found by it.
_READY_DEADLINE_SECONDS = 120.0
_SAMPLE_DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Preflight:
    """The checks that a copied version must pass.

    Attributes:
        runtime: what the throw-away server is started from.
        max_accuracy_drop: how much less accurate than the serving version it may be, by the two manifests.
    """

    runtime: EmbeddedRuntime
    max_accuracy_drop: float = 0.01

    def check(self, folder: ModelFolder, copy: Path) -> None:
        """Check the version in ``copy`` for the model in ``folder``.

        Raises:
            TriremeError: it does not load, answers a golden sample wrongly, or is not what its manifest says.
            GateError: it is less accurate than the serving version by more than allowed.
        """
        self._check_manifest(folder, copy)
        samples = load_golden(folder)
        with tempfile.TemporaryDirectory(prefix="preflight-") as temporary:
            repository = Path(temporary)
            _lay_out(folder, copy, repository / folder.name)
            flags = ServerFlags(repository, load_models=(folder.name,))
            deadline = _READY_DEADLINE_SECONDS
            with (
                TritonServer.start(flags, runtime=self.runtime, ready_deadline_seconds=deadline) as server,
                TritonClient(server.grpc_address) as client,
            ):
                wrong = prove(client, folder.name, samples, _SAMPLE_DEADLINE_SECONDS)
        if wrong:
            raise TriremeError(f"{folder.name}: the new version answers wrongly: {'; '.join(wrong)}")

    def _check_manifest(self, folder: ModelFolder, copy: Path) -> None:
        if not (copy / MANIFEST_NAME).is_file():
            return
        manifest = read_manifest(copy)
        verify_files(manifest, copy)
        serving = [version for version in folder.versions() if (folder.version_dir(version) / MANIFEST_NAME).is_file()]
        accuracy = read_manifest(folder.version_dir(serving[-1])).accuracy if serving else None
        if accuracy is None or manifest.accuracy is None or accuracy.data != manifest.accuracy.data:
            return
        least = accuracy.accuracy - self.max_accuracy_drop
        if manifest.accuracy.accuracy < least:
            raise GateError(f"accuracy on {accuracy.data}", manifest.accuracy.accuracy, least, folder.name)


def _lay_out(folder: ModelFolder, copy: Path, target: Path) -> None:
    """The model with that one version, as version 1; the files are linked where the file system can."""
    target.mkdir()
    text = folder.config_path.read_text(encoding="utf-8")
    (target / "config.pbtxt").write_text(keep_versions(text, [1], folder.config_path), encoding="utf-8")
    if folder.warmup_dir.is_dir():
        shutil.copytree(folder.warmup_dir, target / folder.warmup_dir.name)
    shutil.copytree(copy, target / "1", copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
