"""The steps of a release. Each is idempotent in both directions, and fully described by its JSON form.

CopyVersion     copies the source to a hidden folder of the repository and verifies the plan's hashes
CheckVersion    tests the copy on a temporary server
InstallVersion  renames the copy to its version number
Reconfigure     replaces a model's config.pbtxt atomically and loads the model on every server
LoadModels      loads models that had no version until now on every server
AddModel        adds a model's folder and loads it on every server
ReplaceFile     atomically replaces a file that takes effect without a load, such as traffic.json
RemoveModel     unloads a canary from every server and removes its folder
RemoveVersion   removes the folder of a version that no server has loaded
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trireme_client import ClientError, OperatorClient, UnreachableError

from trireme.documents import parse_json
from trireme.errors import ServerError, TriremeError
from trireme.files import staged_directory, write_atomic
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.repository.loading import plan_loading
from trireme.repository.manifest import MANIFEST_NAME, read_manifest, sha256_of, verify_files

# A load includes warm-up: an engine of many gigabytes may take minutes.
_LOAD_DEADLINE_SECONDS = 300.0
_CALL_DEADLINE_SECONDS = 10.0
# For a restart of the only server.
_RETURN_DEADLINE_SECONDS = 20.0
# A client tries to connect once a second; a server that is silent for longer is unreachable.
_UNREACHABLE_SECONDS = 1.5


_STAGING_NAME = ".releases"


@dataclass(frozen=True, slots=True)
class World:
    """What steps act on.

    Attributes:
        repository: the model repository that the servers see.
        replicas: the running servers.
        preflight: tests the copy of a version, under that number, on a temporary server; raises if it fails.
    """

    repository: ModelRepository
    replicas: Sequence[OperatorClient]
    preflight: Callable[[ModelFolder, Path, int], None]

    def folder(self, model: str) -> ModelFolder:
        return ModelFolder(self.repository.path / model)


class Step(Protocol):
    """One change of the world."""

    def do(self, world: World) -> None:
        """Make the change, unless it is already made. Raises TriremeError or OSError if it cannot be made."""

    def undo(self, world: World) -> None:
        """Undo the change, if it was made."""

    def describe(self) -> str:
        """The step as ``--dry-run`` and ``history`` show it."""


@dataclass(frozen=True, slots=True)
class CopyVersion:
    """``files`` maps each file of ``source`` to its sha256 at the time of the plan."""

    model: str
    version: int
    source: str
    files: Mapping[str, str]

    def do(self, world: World) -> None:
        if _version_copy(world, self.model, self.version).exists():
            return
        with staged_directory(_version_copy(world, self.model, self.version)) as staged:
            for name, sha256 in self.files.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(self.source) / name, staged / name)
                if sha256_of(staged / name) != sha256:
                    raise TriremeError(
                        f"{Path(self.source) / name} changed while it was copied; publish it when it is complete"
                    )

    def undo(self, world: World) -> None:
        copy = _version_copy(world, self.model, self.version)
        shutil.rmtree(copy, ignore_errors=True)
        _remove_empty_staging(copy)

    def describe(self) -> str:
        return f"copy {self.source} to a hidden folder of the repository and verify {len(self.files)} hashes"


@dataclass(frozen=True, slots=True)
class CheckVersion:
    """Lint, manifest, and golden samples on a temporary server, where a load that hangs or crashes does no harm."""

    model: str
    version: int
    has_samples: bool = True

    def do(self, world: World) -> None:
        copy = _version_copy(world, self.model, self.version)
        # Already installed: the check passed before the release was interrupted.
        if copy.exists():
            world.preflight(world.folder(self.model), copy, self.version)

    def undo(self, world: World) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        if not self.has_samples:
            return "lint it and load it on a temporary server"
        return f"lint it and test it on a temporary server with the golden samples of {self.model}"


@dataclass(frozen=True, slots=True)
class InstallVersion:
    model: str
    version: int

    def do(self, world: World) -> None:
        copy = _version_copy(world, self.model, self.version)
        if copy.exists():
            copy.rename(world.folder(self.model).version_dir(self.version))
            _remove_empty_staging(copy)

    def undo(self, world: World) -> None:
        installed = world.folder(self.model).version_dir(self.version)
        copy = _version_copy(world, self.model, self.version)
        if installed.exists():
            copy.parent.mkdir(exist_ok=True)
            installed.rename(copy)
        if not world.folder(self.model).versions():
            _unload_everywhere(world, self.model)

    def describe(self) -> str:
        return f"rename it to {self.model}/{self.version}"


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """``before`` and ``after`` are complete texts of ``config.pbtxt``; ``versions`` must be ready afterwards.

    A server that is unreachable is skipped: it catches up when it returns (``trireme.serving.catch_up``). If all are
    unreachable, the step fails; with ``waits``, as in a rollback, it gives them a moment to return and then goes on.
    """

    model: str
    before: str
    after: str
    versions: tuple[int, ...]
    why: str
    waits: bool = False

    def do(self, world: World) -> None:
        folder = world.folder(self.model)
        for version in self.versions:
            if (folder.version_dir(version) / MANIFEST_NAME).is_file():
                verify_files(read_manifest(folder.version_dir(version)), folder.version_dir(version))
        write_atomic(folder.config_path, self.after.encode())
        load_everywhere = _load_on_reachable if self.waits else _load_on_each
        load_everywhere(world.replicas, self.model, self.versions)

    def undo(self, world: World) -> None:
        write_atomic(world.folder(self.model).config_path, self.before.encode())
        with contextlib.suppress(ServerError, ClientError):
            _load_on_reachable(world.replicas, self.model, ())

    def describe(self) -> str:
        return f"{self.why}: write {self.model}/config.pbtxt and load {self.model} on each server in turn"


@dataclass(frozen=True, slots=True)
class LoadModels:
    """``models`` were not loaded because a model that they call had no version; those that miss more stay unloaded."""

    models: tuple[str, ...]

    def do(self, world: World) -> None:
        loadable = plan_loading(world.repository).models
        for model in self.models:
            if model in loadable:
                _load_on_each(world.replicas, model, ())

    def undo(self, world: World) -> None:
        for model in reversed(self.models):
            _unload_everywhere(world, model)

    def describe(self) -> str:
        return f"load {', '.join(self.models)} on each server in turn"


@dataclass(frozen=True, slots=True)
class AddModel:
    """An ensemble with one empty version and ``config`` as its ``config.pbtxt``."""

    model: str
    config: str

    def do(self, world: World) -> None:
        if not world.folder(self.model).path.exists():
            with staged_directory(world.folder(self.model).path) as staged:
                (staged / "config.pbtxt").write_text(self.config, encoding="utf-8")
                (staged / "1").mkdir()
        _load_on_each(world.replicas, self.model, (1,))

    def undo(self, world: World) -> None:
        _remove_model(world, self.model)

    def describe(self) -> str:
        return f"add {self.model} and load it on each server in turn"


@dataclass(frozen=True, slots=True)
class RemoveModel:
    """Irreversible: only in plans that are finished, never undone, and after the traffic is off the model."""

    model: str

    def do(self, world: World) -> None:
        _remove_model(world, self.model)

    def undo(self, world: World) -> None:
        """What is removed stays removed."""

    def describe(self) -> str:
        return f"unload {self.model} from each server and remove it"


@dataclass(frozen=True, slots=True)
class ReplaceFile:
    """``path`` is relative to the repository; ``None`` means that the file does not exist."""

    path: str
    before: str | None
    after: str | None
    why: str

    def do(self, world: World) -> None:
        _write_or_remove(world.repository.path / self.path, self.after)

    def undo(self, world: World) -> None:
        _write_or_remove(world.repository.path / self.path, self.before)

    def describe(self) -> str:
        return f"{self.why}: {'remove' if self.after is None else 'write'} {self.path}"


@dataclass(frozen=True, slots=True)
class RemoveVersion:
    """Irreversible: last in its plan, after the servers have unloaded the version."""

    model: str
    version: int

    def do(self, world: World) -> None:
        shutil.rmtree(world.folder(self.model).version_dir(self.version), ignore_errors=True)

    def undo(self, world: World) -> None:
        """What is removed stays removed."""

    def describe(self) -> str:
        return f"remove {self.model}/{self.version}"


_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        CopyVersion, CheckVersion, InstallVersion, Reconfigure, LoadModels, AddModel, RemoveModel, ReplaceFile,
        RemoveVersion,
    )
}  # fmt: skip


def to_json(step: Step) -> dict[str, Any]:
    """The step as stored in the journal."""
    return {"kind": type(step).__name__, **dataclasses.asdict(step)}  # type: ignore[call-overload]


def from_json(form: Mapping[str, Any]) -> Step:
    """The inverse of ``to_json``. Raises ValueError if ``form`` is not a step."""
    fields = dict(form)
    kind = fields.pop("kind")
    if "patient" in fields:  # the former name, with the opposite meaning
        fields["waits"] = not fields.pop("patient")
    step: Step = parse_json(_KINDS[kind], json.dumps(fields))
    return step


def _version_copy(world: World, model: str, version: int) -> Path:
    # On the same file system, for the rename; hidden from Triton and lint. Not in the model's folder: any change there
    # other than a version or the config makes Triton reload every version.
    return world.repository.path / _STAGING_NAME / f"{model}-{version}"


def _remove_empty_staging(copy: Path) -> None:
    # Another leftover keeps it.
    with contextlib.suppress(OSError):
        copy.parent.rmdir()


def _write_or_remove(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink(missing_ok=True)
    else:
        write_atomic(path, text.encode())


def _unload_everywhere(world: World, model: str) -> None:
    for replica in world.replicas:
        # A server that is unreachable now reads the repository when it starts.
        with contextlib.suppress(ServerError, ClientError):
            replica.unload(model, _CALL_DEADLINE_SECONDS)


def _remove_model(world: World, model: str) -> None:
    _unload_everywhere(world, model)
    shutil.rmtree(world.folder(model).path, ignore_errors=True)


def _load_on_each(replicas: Sequence[OperatorClient], model: str, versions: Iterable[int]) -> None:
    unreachable = []
    for replica in replicas:
        if error := _load_if_reachable(replica, model, versions, _LOAD_DEADLINE_SECONDS):
            unreachable.append(error)
    if unreachable and len(unreachable) == len(replicas):
        raise unreachable[0]


def _load_on_reachable(replicas: Sequence[OperatorClient], model: str, versions: Iterable[int]) -> None:
    deadline = time.monotonic() + _RETURN_DEADLINE_SECONDS
    failures: list[Exception] = []
    has_answered = False
    while replicas and not has_answered:
        for replica in replicas:
            try:
                has_answered |= _load_if_reachable(replica, model, versions, _CALL_DEADLINE_SECONDS) is None
            except (ServerError, ClientError) as error:
                failures.append(error)
        if failures:
            raise failures[0]
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)


def _load_if_reachable(
    replica: OperatorClient, model: str, versions: Iterable[int], deadline_seconds: float
) -> ServerError | ClientError | None:
    """The error if the server is unreachable. Raises ClientError or ServerError if a reachable server fails to load."""
    if is_unreachable(replica):
        return UnreachableError("no server responds; see: trireme status")
    try:
        _load(replica, model, versions, deadline_seconds)
    except (ServerError, ClientError) as error:
        if is_unreachable(replica):
            return error
        raise
    return None


def is_unreachable(replica: OperatorClient) -> bool:
    """Whether a server does not respond within a moment."""
    deadline = time.monotonic() + _UNREACHABLE_SECONDS
    while not replica.is_live(_CALL_DEADLINE_SECONDS):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


def _load(replica: OperatorClient, model: str, versions: Iterable[int], deadline_seconds: float) -> None:
    replica.load(model, deadline_seconds)
    for version in versions:
        if not replica.is_version_ready(model, version, _CALL_DEADLINE_SECONDS):
            raise ServerError(f"{model} version {version} is not ready after its load")
