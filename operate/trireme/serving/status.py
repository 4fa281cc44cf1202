"""Current status of a served Triton: processes, models, requests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psutil
from trireme_client import ClientError, OperatorClient
from trireme_client.operator import VersionStatistics

from trireme.processes.stubs import stub_processes
from trireme.serving.run_state import Phase, ReplicaState, ServingState

_DEADLINE_SECONDS = 5.0
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB; shared pages count in each process."""

    total_mib: float
    servers_mib: float
    stubs_mib: float
    stub_count: int
    others_mib: float


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model on one replica.

    Attributes:
        versions: loaded versions.
        ready: at least one version is loaded, and the response to its last golden sample was correct.
        problem: the reason if it is not ready.
        succeeded, failed: requests since the model was loaded, including those of the readiness agent.
    """

    name: str
    versions: Sequence[str]
    ready: bool
    problem: str
    succeeded: int
    failed: int


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica with its models."""

    replica: ReplicaState
    models: Sequence[ModelStatus]

    @property
    def is_healthy(self) -> bool:
        return self.replica.phase is Phase.SERVING and all(model.ready for model in self.models)


@dataclass(frozen=True, slots=True)
class Status:
    """The content of ``trireme status``.

    Attributes:
        serving: every replica serves every model.
    """

    serving: bool
    state: ServingState
    uptime_seconds: float
    memory: Memory
    replicas: Sequence[ReplicaStatus]


def read_status(state: ServingState, admin_key: str) -> Status:
    """Query the servers and the system; the models of a server that does not respond are not ready."""
    replicas = [_replica_status(replica, admin_key) for replica in state.replicas]
    return Status(
        serving=bool(replicas) and state.phase is Phase.SERVING and all(replica.is_healthy for replica in replicas),
        state=state,
        uptime_seconds=time.time() - state.started_at,
        memory=_memory(state),
        replicas=replicas,
    )


def _replica_status(replica: ReplicaState, admin_key: str) -> ReplicaStatus:
    versions: dict[str, list[str]] = {}
    counts: list[VersionStatistics] = []
    problem = ""
    with OperatorClient(replica.grpc_address, admin_key) as client:
        try:
            for entry in client.index(_DEADLINE_SECONDS):
                if entry.state == "READY":
                    versions.setdefault(entry.model, []).append(entry.version)
            counts = client.statistics(_DEADLINE_SECONDS)
        except ClientError as error:
            problem = str(error)
    models = [
        _model_status(name, versions.get(name, []), counts, problem or "; ".join(replica.problems.get(name, ())))
        for name in sorted({*replica.problems, *versions})
    ]
    return ReplicaStatus(replica, models)


def _model_status(name: str, versions: Sequence[str], counts: Iterable[VersionStatistics], problem: str) -> ModelStatus:
    versions_counts = [entry for entry in counts if entry.model == name]
    return ModelStatus(
        name=name,
        versions=versions,
        ready=bool(versions) and not problem,
        problem=problem or ("" if versions else "not loaded"),
        succeeded=sum(entry.succeeded for entry in versions_counts),
        failed=sum(entry.failed for entry in versions_counts),
    )


def _memory(state: ServingState) -> Memory:
    servers = [replica.server_pid for replica in state.replicas if replica.server_pid]
    stubs = [stub for server in servers for stub in stub_processes(server)]
    servers_mib = sum(map(_resident_mib, servers))
    stubs_mib = sum(_resident_mib(stub.pid) for stub in stubs)
    everything_mib = sum(map(_resident_mib, [state.pid, *_children(state.pid)]))
    total_mib = max(everything_mib, servers_mib + stubs_mib)
    return Memory(total_mib, servers_mib, stubs_mib, len(stubs), total_mib - servers_mib - stubs_mib)


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _resident_mib(pid: int | None) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / _MIB if pid else 0.0
    except psutil.Error:
        return 0.0
