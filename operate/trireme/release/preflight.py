"""Tests a version on a temporary tritonserver, before any server in use loads it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trireme_client import ClientError, OperatorClient

from trireme.errors import GateError, ServerError, TriremeError
from trireme.files import link_or_copy
from trireme.lint import Severity, lint
from trireme.processes.runtime import EmbeddedRuntime
from trireme.processes.server import ServerFlags, TritonServer
from trireme.release.edits import keep_versions
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.repository.golden import GoldenSample, load_golden
from trireme.repository.loading import plan_loading
from trireme.repository.manifest import MANIFEST_NAME, read_manifest, verify_files
from trireme.repository.model_config import load_model_config

_SAMPLE_DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Preflight:
    """The checks that a copied version must pass.

    Attributes:
        runtime: starts the temporary server.
        max_accuracy_drop: how much less accurate than the serving version it may be, according to the manifests.
        stall_seconds: a load without progress for this long has failed.
    """

    runtime: EmbeddedRuntime
    max_accuracy_drop: float = 0.01
    stall_seconds: float = 120.0

    def check(self, folder: ModelFolder, copy: Path, version: int) -> None:
        """Check the files in ``copy`` as that version of the model in ``folder``.

        Raises:
            TriremeError: lint rejects it, it does not load, fails a golden sample, or differs from its manifest.
            GateError: its accuracy is lower than the serving version's by more than allowed.
        """
        self._check_manifest(folder, copy)
        with tempfile.TemporaryDirectory(prefix="preflight-") as temporary:
            repository = Path(temporary).resolve()
            _lay_out(folder, copy, version, repository)
            _check_lint(repository / folder.name)
            problems = self._test(folder, repository, version)
        if problems:
            raise TriremeError(f"{folder.name}: the new version fails its golden samples: {'; '.join(problems)}")

    def _test(self, folder: ModelFolder, repository: Path, version: int) -> tuple[str, ...]:
        flags = ServerFlags(repository, load_models=(folder.name,))
        if load_model_config(folder.config_path).backend == "router":
            # It needs its variants, which are in the same repository; one that does not load is not its fault.
            loadable = plan_loading(ModelRepository(repository)).models
            flags = ServerFlags(repository, load_models=loadable, exit_on_error=False)
        try:
            with (
                TritonServer.start(flags, runtime=self.runtime, stall_seconds=self.stall_seconds) as server,
                OperatorClient(server.grpc_address) as client,
            ):
                if not client.is_version_ready(folder.name, version, _SAMPLE_DEADLINE_SECONDS):
                    raise ServerError(" ".join(server.errors_about(folder.name)[-1:]) or "the server reports no reason")
                return replay_golden(client, folder.name, load_golden(folder), _SAMPLE_DEADLINE_SECONDS)
        except (ServerError, ClientError) as error:
            raise ServerError(f"{folder.name}: the new version does not load on a temporary server: {error}") from None

    def _check_manifest(self, folder: ModelFolder, copy: Path) -> None:
        if not (copy / MANIFEST_NAME).is_file():
            return
        manifest = read_manifest(copy)
        verify_files(manifest, copy)
        loaded = load_model_config(folder.config_path).version_policy.selects(folder.versions())
        serving = [version for version in loaded if (folder.version_dir(version) / MANIFEST_NAME).is_file()]
        accuracy = read_manifest(folder.version_dir(serving[-1])).accuracy if serving else None
        if accuracy is None or manifest.accuracy is None or accuracy.data != manifest.accuracy.data:
            return
        least = accuracy.accuracy - self.max_accuracy_drop
        if manifest.accuracy.accuracy < least:
            raise GateError(f"accuracy on {accuracy.data}", manifest.accuracy.accuracy, least, folder.name)


def replay_golden(
    client: OperatorClient, model: str, samples: Iterable[GoldenSample], deadline_seconds: float
) -> tuple[str, ...]:
    """Replay golden samples on a server and return the problems with the responses, one sentence each.

    Args:
        deadline_seconds: for each sample.
    """
    problems: list[str] = []
    for sample in samples:
        try:
            response = client.infer(model, sample.inputs, deadline_seconds, sample.parameters)
        except ClientError as error:
            problems.append(f"{sample.case}: {error}")
            continue
        problems += sample.differences(response.outputs)
    return tuple(problems)


def _check_lint(model_dir: Path) -> None:
    errors = lint(model_dir).of(Severity.ERROR)
    if errors:
        # The paths are in a temporary folder that no longer exists when the user reads this.
        problems = "; ".join(f"{finding.problem}; {finding.fix} [{finding.rule}]" for finding in errors)
        problems = problems.replace(f"{model_dir.parent}/", "")
        raise TriremeError(f"{model_dir.name}: lint rejects the new version: {problems}")


def _lay_out(folder: ModelFolder, copy: Path, version: int, repository: Path) -> None:
    """Lay out the future repository with only that version of the model to load; links to everything unchanged."""
    for neighbour in folder.path.parent.glob("[!.]*"):
        if neighbour.name != folder.name:
            (repository / neighbour.name).symlink_to(neighbour)
    target = repository / folder.name
    target.mkdir()
    for entry in folder.path.glob("[!.]*"):
        (target / entry.name).symlink_to(entry)
    text = folder.config_path.read_text(encoding="utf-8")
    (target / "config.pbtxt").unlink()
    (target / "config.pbtxt").write_text(keep_versions(text, [version], folder.config_path), encoding="utf-8")
    shutil.copytree(copy, target / str(version), copy_function=link_or_copy)
