"""The steps that releases are made of. Each can be done twice and undone twice, and is what its JSON form says.

CopyVersion     source to a hidden folder beside the versions, checked against the plan's hashes
CheckVersion    prove the copy on a throw-away server
InstallVersion  one rename of the copy to its version number
Reconfigure     one rename of a model's config.pbtxt, and every server takes it
AddModel        a further model's folder, and every server takes it
ReplaceFile     one rename of a file that is looked at by itself, such as traffic.json
RemoveVersion   a version's folder, when nothing serves it any more
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trireme.errors import ServerError, TriremeError
from trireme.files import staged_directory, write_atomic
from trireme.manifest import sha256_of
from trireme.repository import ModelFolder, ModelRepository
from trireme.triton_client import TritonClient

# A load blocks through warm-up, so an engine of many gigabytes may take minutes.
_LOAD_DEADLINE_SECONDS = 300.0
_CALL_DEADLINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class World:
    """What steps act on.

    Attributes:
        repository: the model repository that the servers see.
        replicas: the servers that run now.
        preflight: proves a copied version in a throw-away server; raises if it is not fit to serve.
    """

    repository: ModelRepository
    replicas: Sequence[TritonClient]
    preflight: Callable[[ModelFolder, Path], None]

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
        shutil.rmtree(_version_copy(world, self.model, self.version), ignore_errors=True)

    def describe(self) -> str:
        return f"copy {self.source} beside the versions of {self.model} and check {len(self.files)} hashes"


@dataclass(frozen=True, slots=True)
class CheckVersion:
    """Golden samples on a throw-away server: a load that hangs or crashes hurts nobody."""

    model: str
    version: int

    def do(self, world: World) -> None:
        copy = _version_copy(world, self.model, self.version)
        # Installed already: the check was passed before the release was cut off.
        if copy.exists():
            world.preflight(world.folder(self.model), copy)

    def undo(self, world: World) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        return f"prove it on a throw-away server with the golden samples of {self.model}"


@dataclass(frozen=True, slots=True)
class InstallVersion:
    model: str
    version: int

    def do(self, world: World) -> None:
        copy = _version_copy(world, self.model, self.version)
        if copy.exists():
            copy.rename(world.folder(self.model).version_dir(self.version))

    def undo(self, world: World) -> None:
        installed = world.folder(self.model).version_dir(self.version)
        if installed.exists():
            installed.rename(_version_copy(world, self.model, self.version))

    def describe(self) -> str:
        return f"rename it to {self.model}/{self.version}"


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """``before`` and ``after`` are whole texts of ``config.pbtxt``; ``versions`` must be ready afterwards.

    ``patient``: a server that does not answer fails the step. Otherwise, when going back, it is passed over: it reads
    the files when it returns.
    """

    model: str
    before: str
    after: str
    versions: tuple[int, ...]
    why: str
    patient: bool = True

    def do(self, world: World) -> None:
        write_atomic(world.folder(self.model).config_path, self.after.encode())
        _load_everywhere(world, self.model, self.versions, patient=self.patient)

    def undo(self, world: World) -> None:
        write_atomic(world.folder(self.model).config_path, self.before.encode())
        _load_everywhere(world, self.model, (), patient=False)

    def describe(self) -> str:
        return f"{self.why}: write {self.model}/config.pbtxt and load {self.model} on each server in turn"


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
        _load_everywhere(world, self.model, (1,), patient=True)

    def undo(self, world: World) -> None:
        for replica in world.replicas:
            with contextlib.suppress(ServerError):
                replica.unload(self.model, _LOAD_DEADLINE_SECONDS)
        shutil.rmtree(world.folder(self.model).path, ignore_errors=True)

    def describe(self) -> str:
        return f"add {self.model} and load it on each server in turn"


@dataclass(frozen=True, slots=True)
class ReplaceFile:
    """``path`` is relative to the repository; ``None`` stands for a file that is not there."""

    path: str
    before: str | None
    after: str | None
    why: str

    def do(self, world: World) -> None:
        _put(world.repository.path / self.path, self.after)

    def undo(self, world: World) -> None:
        _put(world.repository.path / self.path, self.before)

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
    for kind in (CopyVersion, CheckVersion, InstallVersion, Reconfigure, AddModel, ReplaceFile, RemoveVersion)
}


def to_json(step: Step) -> dict[str, Any]:
    """The step as the journal keeps it."""
    return {"kind": type(step).__name__, **dataclasses.asdict(step)}  # type: ignore[call-overload]


def from_json(form: Mapping[str, Any]) -> Step:
    """The step that ``to_json`` gave this form of."""
    fields = {
        name: tuple(value) if isinstance(value, list) else value for name, value in form.items() if name != "kind"
    }
    made: Step = _KINDS[form["kind"]](**fields)
    return made


def _version_copy(world: World, model: str, version: int) -> Path:
    # Hidden, so that neither Triton nor the lint takes it for a version.
    return world.folder(model).path / f".{version}.copy"


def _put(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink(missing_ok=True)
    else:
        write_atomic(path, text.encode())


def _load_everywhere(world: World, model: str, versions: tuple[int, ...], *, patient: bool) -> None:
    for replica in world.replicas:
        try:
            replica.load(model, _LOAD_DEADLINE_SECONDS)
            for version in versions:
                if not replica.is_version_ready(model, version, _CALL_DEADLINE_SECONDS):
                    raise ServerError(f"{model} version {version} is not ready after its load")
        except ServerError:
            if patient:
                raise
