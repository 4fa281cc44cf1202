"""What every release command starts with: the lock, the running servers, and recovery from killed commands."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from trireme_backends.routing.route import CANARY_SUFFIX
from trireme_client import OperatorClient

from trireme.errors import TriremeError
from trireme.file_lock import FileLockedError, take_lock
from trireme.release.engine import Plan, ReleaseEngine
from trireme.release.journal import Journal, Release
from trireme.release.plans import plan_rollback
from trireme.release.step import World
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.serving.run_state import RunDirectory
from trireme.settings import Settings


class RepositoryLockedError(TriremeError):
    """Another command is changing the repository."""

    def __init__(self, verb: str, actor: str, pid: int, age_seconds: float) -> None:
        super().__init__(
            f"'trireme {verb}' by {actor} (pid {pid}) has been changing the repository for {age_seconds:.0f} s; "
            "wait for it, or end it: the next command then finishes or undoes its work"
        )


def release_lock(path: Path, verb: str, wait_seconds: float = 0.0) -> IO[str]:
    """Take the lock, for a ``with`` statement; wait for its owner up to ``wait_seconds``.

    Raises:
        RepositoryLockedError: another command holds it; names its verb, actor, pid and age.
    """
    owner = {"verb": verb, "actor": getpass.getuser(), "pid": os.getpid()}
    try:
        return take_lock(path, json.dumps(owner), wait_seconds)
    except FileLockedError as error:
        # A new owner may not have written its name yet.
        known = json.loads(error.owner or '{"verb": "...", "actor": "someone", "pid": 0}')
        raise RepositoryLockedError(known["verb"], known["actor"], known["pid"], error.age_seconds) from None


@dataclass(frozen=True, slots=True)
class Workspace:
    """The repository, its journal, and the engine that changes them.

    Attributes:
        recovered: interrupted releases that were finished or undone on opening.
        closed_canaries: variants whose canary was closed on opening because its controller was dead.
    """

    repository: ModelRepository
    journal: Journal
    engine: ReleaseEngine
    recovered: tuple[Release, ...]
    closed_canaries: tuple[str, ...] = ()

    def carry_out(self, plan: Plan, *, actor: str | None = None, note: str = "") -> str:
        """Execute a plan; ``actor`` defaults to the user of the process."""
        return self.engine.carry_out(plan, actor=actor or getpass.getuser(), note=note)


def journal_of(settings: Settings) -> Journal:
    """The journal of a checkout's repository; reading it needs no lock."""
    return Journal(_releases_dir(settings) / "journal.jsonl")


@contextlib.contextmanager
def open_workspace(
    settings: Settings,
    verb: str,
    progress: Callable[[str], None],
    *,
    close_abandoned: bool = True,
    wait_seconds: float = 0.0,
) -> Iterator[Workspace]:
    """Hold the release lock for the block, with every earlier release finished or undone.

    Args:
        close_abandoned: whether to close canaries with dead controllers first; commands whose plan closes the canary
            of their variant do not.
        wait_seconds: how long to wait for another command to end.

    Raises:
        RepositoryLockedError: another command is changing the repository.
        TriremeError: an earlier release can be neither finished nor undone now.
    """
    with release_lock(_releases_dir(settings) / "lock", verb, wait_seconds), contextlib.ExitStack() as stack:
        replicas = tuple(stack.enter_context(client) for client in replica_clients(settings))
        repository = ModelRepository(settings.repository_dir)
        engine = ReleaseEngine(journal_of(settings), World(repository, replicas, _preflight(settings)), progress)
        workspace = Workspace(repository, engine.journal, engine, tuple(engine.recover()))
        abandoned = _abandoned_canaries(settings, repository) if close_abandoned else []
        for variant in abandoned:
            progress(f"closing the canary of {variant}: its controller is dead")
            workspace.carry_out(plan_rollback(repository, workspace.journal, variant, None), note="canary abandoned")
        yield replace(workspace, closed_canaries=tuple(abandoned))


def canary_lock_path(settings: Settings, variant: str) -> Path:
    """The lock that the controller of a variant's canary holds while it runs."""
    return _releases_dir(settings) / "canary" / f"{variant}.lock"


def _abandoned_canaries(settings: Settings, repository: ModelRepository) -> list[str]:
    abandoned = []
    for folder in repository.models():
        variant = folder.name.removesuffix(CANARY_SUFFIX)
        if variant != folder.name:
            with (
                contextlib.suppress(RepositoryLockedError),
                release_lock(canary_lock_path(settings, variant), "recover"),
            ):
                abandoned.append(variant)
    return abandoned


def _releases_dir(settings: Settings) -> Path:
    return settings.state_dir / "releases"


def _preflight(settings: Settings) -> Callable[[ModelFolder, Path, int], None]:
    def check(folder: ModelFolder, copy: Path, version: int) -> None:
        # Only a publication needs these: a rollback must neither wait for ONNX nor fail without a runtime.
        from trireme.processes.runtime import EmbeddedRuntime
        from trireme.release.preflight import Preflight

        Preflight(EmbeddedRuntime.find(settings)).check(folder, copy, version)

    return check


def replica_clients(settings: Settings) -> list[OperatorClient]:
    """An admin client for each replica of ``trireme serve``, whether it responds now or not.

    Empty if nothing is served: only the files change, and the next server reads them.
    """
    directory = RunDirectory(settings.run_dir)
    state = directory.read() if directory.is_held() else None
    if state is None:
        return []
    admin_key = directory.admin_key_path.read_text().strip()
    return [OperatorClient(replica.grpc_address, admin_key) for replica in state.replicas]
