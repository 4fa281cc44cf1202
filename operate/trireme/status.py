"""What a served Triton looks like now: its processes, its models, its requests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psutil

from trireme.errors import ServerError
from trireme.run_state import Phase, ServingState
from trireme.stubs import stub_processes
from trireme.triton_client import TritonClient, VersionCounts

_DEADLINE_SECONDS = 5.0
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB; pages that processes share are counted in each of them."""

    total_mib: float
    server_mib: float
    stubs_mib: float
    stub_count: int
    supervisor_mib: float


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model.

    Attributes:
        versions: those that answer.
        ready: at least one does, and its last golden sample was answered rightly.
        problem: what is wrong otherwise.
        succeeded, failed: requests since the model was loaded, those of the health probe included.
    """

    name: str
    versions: Sequence[str]
    ready: bool
    problem: str
    succeeded: int
    failed: int


@dataclass(frozen=True, slots=True)
class Status:
    """All that ``trireme status`` shows."""

    serving: bool
    phase: Phase
    pid: int
    server_pid: int | None
    uptime_seconds: float
    restarts: int
    heals: int
    last_fault: str
    grpc_address: str
    http_address: str
    metrics_address: str
    memory: Memory
    models: Sequence[ModelStatus]
    left_out: Mapping[str, str]


def read_status(state: ServingState, admin_key: str) -> Status:
    """Ask the server and the system; a server that does not answer shows as models that are not ready."""
    versions: dict[str, list[str]] = {}
    counts: list[VersionCounts] = []
    silence = ""
    with TritonClient(state.grpc_address, admin_key) as client:
        try:
            for entry in client.index(_DEADLINE_SECONDS):
                if entry.state == "READY":
                    versions.setdefault(entry.model, []).append(entry.version)
            counts = client.counts(_DEADLINE_SECONDS)
        except ServerError as error:
            silence = str(error)
    models = [
        _model_status(name, versions.get(name, []), counts, silence or "; ".join(state.problems.get(name, ())))
        for name in sorted({*state.problems, *versions})
    ]
    return Status(
        serving=state.phase is Phase.SERVING and all(model.ready for model in models),
        phase=state.phase,
        pid=state.pid,
        server_pid=state.server_pid,
        uptime_seconds=time.time() - state.started_at,
        restarts=state.restarts,
        heals=state.heals,
        last_fault=state.last_fault,
        grpc_address=state.grpc_address,
        http_address=state.http_address,
        metrics_address=state.metrics_address,
        memory=_memory(state),
        models=models,
        left_out=state.left_out,
    )


def _model_status(name: str, versions: Sequence[str], counts: Iterable[VersionCounts], problem: str) -> ModelStatus:
    own = [entry for entry in counts if entry.model == name]
    return ModelStatus(
        name=name,
        versions=versions,
        ready=bool(versions) and not problem,
        problem=problem or ("" if versions else "not loaded"),
        succeeded=sum(entry.succeeded for entry in own),
        failed=sum(entry.failed for entry in own),
    )


def _memory(state: ServingState) -> Memory:
    stubs = stub_processes(state.server_pid) if state.server_pid else []
    server_mib, supervisor_mib = _resident_mib(state.server_pid), _resident_mib(state.pid)
    stubs_mib = sum(_resident_mib(stub.pid) for stub in stubs)
    return Memory(server_mib + stubs_mib + supervisor_mib, server_mib, stubs_mib, len(stubs), supervisor_mib)


def _resident_mib(pid: int | None) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / _MIB if pid else 0.0
    except psutil.Error:
        return 0.0
