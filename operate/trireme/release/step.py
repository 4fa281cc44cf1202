"""The steps that releases are made of. Each can be done twice and undone twice, and is what its JSON form says.

CopyVersion     source to a hidden folder of the repository, checked against the plan's hashes
CheckVersion    prove the copy on a throw-away server
InstallVersion  one rename of the copy to its version number
Reconfigure     one rename of a model's config.pbtxt, and every server takes it
LoadModels      every server loads models that lacked a version until now
AddModel        a further model's folder, and every server takes it
ReplaceFile     one rename of a file that is looked at by itself, such as traffic.json
RemoveModel     a canary's folder, and every server lets it go
RemoveVersion   a version's folder, when nothing serves it any more
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

# A load blocks through warm-up, so an engine of many gigabytes may take minutes.
_LOAD_DEADLINE_SECONDS = 300.0
_CALL_DEADLINE_SECONDS = 10.0
# For the only server, when it is being restarted.
_RETURN_DEADLINE_SECONDS = 20.0
# A client tries to reach a server once a second: one that is silent for longer is away.
_AWAY_SECONDS = 1.5


_STAGING_NAME = ".releases"


@dataclass(frozen=True, slots=True)
class World:
    """What steps act on.

    Attributes:
        repository: the model repository that the servers see.
        replicas: the servers that run now.
        preflight: proves the copy of a version, with that number, in a throw-away server; raises if it is not fit.
    """

    repository: ModelRepository
    replicas: Sequence[OperatorClient]
    preflight: Callable[[ModelFolder, Path, int], None]

    def folder(self, model: str) -> ModelFolder:
        return ModelFolder(self.repository.path / model)


class Step(Protocol):
    """One change of the world."""

    def do(self, world: World) -> None:
        """Make the change; nothing happens if it is made. Raises TriremeError or OSError if it cannot be."""

    def undo(self, world: World) -> None:
        """Take it back; nothing happens if it was not made."""

    def describe(self) -> str:
        """The step as ``--dry-run`` and ``history`` show it."""


@dataclass(frozen=True, slots=True)
class CopyVersion:
    """``files`` maps each file of ``source`` to the sha256 that it had when the plan was made."""

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
                        f"{Path(self.source) / name} changed while it was copied; publish it when it is whole"
                    )

    def undo(self, world: World) -> None:
        copy = _version_copy(world, self.model, self.version)
        shutil.rmtree(copy, ignore_errors=True)
        _remove_empty_staging(copy)

    def describe(self) -> str:
        return f"copy {self.source} to a hidden folder of the repository and check {len(self.files)} hashes"


@dataclass(frozen=True, slots=True)
class CheckVersion:
    """Lint, manifest, and golden samples on a throw-away server: a load that hangs or crashes hurts nobody."""

    model: str
    version: int
    has_samples: bool = True

    def do(self, world: World) -> None:
        copy = _version_copy(world, self.model, self.version)
        # Installed already: the check was passed before the release was cut off.
        if copy.exists():
            world.preflight(world.folder(self.model), copy, self.version)

    def undo(self, world: World) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        if not self.has_samples:
            return "lint it, and load it on a throw-away server"
        return f"lint it, and prove it on a throw-away server with the golden samples of {self.model}"


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
    """``before`` and ``after`` are whole texts of ``config.pbtxt``; ``versions`` must be ready afterwards.

    A server that is away is skipped: it catches up when it is back (``trireme.serving.catch_up``). Where none is there,
    the step fails; a step that ``waits``, when going back, gives them a moment to return.
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
        load_everywhere = _load_on_those_that_answer if self.waits else _load_on_each
        load_everywhere(world.replicas, self.model, self.versions)

    def undo(self, world: World) -> None:
        write_atomic(world.folder(self.model).config_path, self.before.encode())
        with contextlib.suppress(ServerError, ClientError):
            _load_on_those_that_answer(world.replicas, self.model, ())

    def describe(self) -> str:
        return f"{self.why}: write {self.model}/config.pbtxt and load {self.model} on each server in turn"


@dataclass(frozen=True, slots=True)
class LoadModels:
    """``models`` were not loaded, since a model that they call had no version; those that lack more stay unloaded."""

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
    """An ensemble with one empty version: a folder with ``config`` as its ``config.pbtxt``."""

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
    """Cannot be undone, so it stands in plans that are only ever finished, after the traffic is off the model."""

    model: str

    def do(self, world: World) -> None:
        _remove_model(world, self.model)

    def undo(self, world: World) -> None:
        """What is removed stays removed."""

    def describe(self) -> str:
        return f"unload {self.model} from each server and remove it"


@dataclass(frozen=True, slots=True)
class ReplaceFile:
    """``path`` is relative to the repository; ``None`` stands for a file that is not there."""

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
    """Cannot be undone, so it stands last in its plan, after the servers have let the version go."""

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
    """The step as the journal keeps it."""
    return {"kind": type(step).__name__, **dataclasses.asdict(step)}  # type: ignore[call-overload]


def from_json(form: Mapping[str, Any]) -> Step:
    """The step that ``to_json`` gave this form of. Raises ValueError if it is of no step."""
    fields = dict(form)
    kind = fields.pop("kind")
    if "patient" in fields:  # as journals had it, in the opposite sense
        fields["waits"] = not fields.pop("patient")
    step: Step = parse_json(_KINDS[kind], json.dumps(fields))
    return step


def _version_copy(world: World, model: str, version: int) -> Path:
    # On the same file system, for the rename; hidden from Triton and lint. Not in the model's own folder: any change
    # there besides a version and the config makes Triton load every version anew.
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
        # A server that does not answer now reads the repository as it is when it starts.
        with contextlib.suppress(ServerError, ClientError):
            replica.unload(model, _CALL_DEADLINE_SECONDS)


def _remove_model(world: World, model: str) -> None:
    _unload_everywhere(world, model)
    shutil.rmtree(world.folder(model).path, ignore_errors=True)


def _load_on_each(replicas: Sequence[OperatorClient], model: str, versions: Iterable[int]) -> None:
    away_errors = []
    for replica in replicas:
        if away_error := _load_unless_away(replica, model, versions, _LOAD_DEADLINE_SECONDS):
            away_errors.append(away_error)
    if away_errors and len(away_errors) == len(replicas):
        raise away_errors[0]


def _load_on_those_that_answer(replicas: Sequence[OperatorClient], model: str, versions: Iterable[int]) -> None:
    deadline = time.monotonic() + _RETURN_DEADLINE_SECONDS
    refusals, has_answered = [], False
    while replicas and not has_answered:
        for replica in replicas:
            try:
                has_answered |= _load_unless_away(replica, model, versions, _CALL_DEADLINE_SECONDS) is None
            except (ServerError, ClientError) as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)


def _load_unless_away(
    replica: OperatorClient, model: str, versions: Iterable[int], deadline_seconds: float
) -> ServerError | ClientError | None:
    """The error where the server is away. Raises ClientError or ServerError if it is there and refuses."""
    if is_away(replica):
        return UnreachableError("no server answers; see: trireme status")
    try:
        _load(replica, model, versions, deadline_seconds)
    except (ServerError, ClientError) as error:
        if is_away(replica):
            return error
        raise
    return None


def is_away(replica: OperatorClient) -> bool:
    """Whether a server does not answer, also after a moment."""
    deadline = time.monotonic() + _AWAY_SECONDS
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
