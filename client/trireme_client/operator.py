"""Calls of an operator to one server: models and statistics, loading and unloading, single inferences.

Each call is one attempt with its own deadline, since the caller wants to see failures.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_client._protos import Message, pb
from trireme_client.endpoint import Endpoint
from trireme_client.errors import CallFacts, ClientError, DeadlineError, UnavailableError, UnreachableError
from trireme_client.failure import FailureKind
from trireme_client.request import NO_PARAMETERS, Parameter, read_outputs, read_parameters, set_parameters
from trireme_client.results import InferResult, Timings
from trireme_client.runtime import BlockingRuntime
from trireme_client.tensors import datatype_of, encode
from trireme_client.transport import Metadata, StatusError, TransportOptions, next_response, run

# Messages of a failed connection; a server that rejects a request uses the same status.
_NO_CONNECTION = re.compile(
    r"failed to connect|cannot connect|connection (refused|reset)|socket closed|broken pipe|recvmsg|goaway"
    r"|stream removed|cancelling all calls|end of tcp stream|server disconnected",
    re.IGNORECASE,
)
# The Python backend's suffix to a model's error: "\n\nAt:", then one line per frame; in a log with "\n" escaped.
_STACK_TRACE = re.compile(r"(?:\n|\\n)+At:(?:(?:\n|\\n)\s+[^\n\\]+?\(\d+\): [^\n\\;]*)+(?:\n|\\n)*")


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version in the server's index; ``state`` is READY, UNAVAILABLE, LOADING, UNLOADING or empty."""

    model: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class VersionStatistics:
    """Counters of one version of a model since it was loaded.

    Attributes:
        succeeded, failed: requests.
        rows: of the requests that succeeded.
        executions: batches that the model computed.
        queue_ns, compute_input_ns, compute_infer_ns, compute_output_ns: sums over all requests that succeeded.
    """

    model: str
    version: str
    succeeded: int
    failed: int
    rows: int
    executions: int
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int

    @classmethod
    def from_message(cls, message: Message) -> VersionStatistics:
        """Read an ``inference.ModelStatistics`` message."""
        stats = message.inference_stats
        return cls(
            model=message.name,
            version=message.version,
            succeeded=stats.success.count,
            failed=stats.fail.count,
            rows=message.inference_count,
            executions=message.execution_count,
            queue_ns=stats.queue.ns,
            compute_input_ns=stats.compute_input.ns,
            compute_infer_ns=stats.compute_infer.ns,
            compute_output_ns=stats.compute_output.ns,
        )


class OperatorClient:
    """Calls to one server, from any thread. Every call takes a deadline in seconds and raises ``ClientError``.

    Args:
        address: ``host:port`` for gRPC, or ``http://host:port``; connected to without the environment's proxies.
        admin_key: for ``index``, ``load`` and ``unload``; sent with those calls only.

    Raises:
        DeadlineError: the server did not respond in time.
        UnreachableError: nothing listens at the address, or the connection broke.
        UnavailableError: the model accepts no requests now: it is busy or not loaded.
        ClientError: the server rejected the call; has the server's message.

    Example:
        >>> with OperatorClient("127.0.0.1:8001", admin_key) as client:
        ...     client.load("embedding_premium", 120.0)
        ...     client.is_version_ready("embedding_premium", 2, 5.0)
    """

    def __init__(self, address: str, admin_key: str | None = None) -> None:
        self._address = address
        endpoint = Endpoint(address, direct=True)
        self._transport = BlockingRuntime().connect(endpoint, TransportOptions())
        self._admin: Metadata = ((endpoint.admin_header, admin_key),) if admin_key else ()
        self._decoupled: dict[str, bool] = {}

    def __enter__(self) -> OperatorClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        return self._address

    def close(self) -> None:
        run(self._transport.close())

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        deadline_seconds: float,
        parameters: Mapping[str, Parameter] = NO_PARAMETERS,
    ) -> InferResult:
        """Send one request with these arrays unchanged, to the version that the server chooses.

        A decoupled model returns all responses, each output's values joined along the first axis.
        """
        decoupled = self.is_decoupled(model, deadline_seconds)
        request = pb.ModelInferRequest(model_name=model)
        set_parameters(request, parameters)
        for name, array in inputs.items():
            datatype = datatype_of(name, array)
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(encode(name, datatype, array))
        started = time.monotonic()
        if decoupled:
            responses = list(self._stream(request, deadline_seconds))
        else:
            responses = [self._call("ModelInfer", request, deadline_seconds)]
        if not responses:
            raise ClientError(f"{model} ended its stream without a response")
        parts, last = [read_outputs(response, None) for response in responses], responses[-1]
        names = dict.fromkeys(name for part in parts for name in part)
        outputs = {name: _joined(model, name, [part[name] for part in parts if name in part]) for name in names}
        timings = Timings((time.monotonic() - started) * 1000, 1, 1, self._address)
        return InferResult(outputs, last.model_name, last.model_version, last.id, read_parameters(last), timings)

    def is_decoupled(self, model: str, deadline_seconds: float) -> bool:
        """Whether the model streams its responses; this does not change between two versions."""
        if model not in self._decoupled:
            config = self.model_config(model, deadline_seconds)
            self._decoupled[model] = config.model_transaction_policy.decoupled
        return self._decoupled[model]

    def is_live(self, deadline_seconds: float) -> bool:
        """Whether the server's process responds, whatever the state of its models."""
        try:
            return bool(self._call("ServerLive", pb.ServerLiveRequest(), deadline_seconds).live)
        except ClientError:
            return False

    def is_ready(self, deadline_seconds: float) -> bool:
        """Whether the server reports ready, whatever the state of single models."""
        try:
            return bool(self._call("ServerReady", pb.ServerReadyRequest(), deadline_seconds).ready)
        except ClientError:
            return False

    def is_version_ready(self, model: str, version: int, deadline_seconds: float) -> bool:
        """Whether the server reports that a version is ready."""
        request = pb.ModelReadyRequest(name=model, version=str(version))
        return bool(self._call("ModelReady", request, deadline_seconds).ready)

    def server_version(self, deadline_seconds: float) -> str:
        """The server's release, such as 2.51.0."""
        return str(self._call("ServerMetadata", pb.ServerMetadataRequest(), deadline_seconds).version)

    def index(self, deadline_seconds: float) -> list[VersionState]:
        """All versions known to the server. Needs the admin key if the server has one."""
        response = self._call("RepositoryIndex", pb.RepositoryIndexRequest(), deadline_seconds, self._admin)
        return [
            VersionState(entry.name, entry.version, entry.state, in_one_line(entry.reason)) for entry in response.models
        ]

    def load(self, model: str, deadline_seconds: float) -> None:
        """Load ``model`` from disk, or what has changed of it. Needs the admin key if the server has one."""
        request = pb.RepositoryModelLoadRequest(model_name=model)
        self._call("RepositoryModelLoad", request, deadline_seconds, self._admin)

    def unload(self, model: str, deadline_seconds: float) -> None:
        """Unload every version of ``model``, if any is loaded. Needs the admin key if the server has one."""
        request = pb.RepositoryModelUnloadRequest(model_name=model)
        self._call("RepositoryModelUnload", request, deadline_seconds, self._admin)

    def model_config(self, model: str, deadline_seconds: float) -> Message:
        """The configuration of a loaded model, an ``inference.ModelConfig`` message."""
        return self._call("ModelConfig", pb.ModelConfigRequest(name=model), deadline_seconds).config

    def ensemble_steps(self, model: str, deadline_seconds: float) -> dict[str, int]:
        """The version of each model that a loaded ensemble calls, -1 for the latest; empty for any other model."""
        steps = self.model_config(model, deadline_seconds).ensemble_scheduling.step
        return {step.model_name: step.model_version for step in steps}

    def statistics(self, deadline_seconds: float, model: str = "") -> list[VersionStatistics]:
        """The counters of each version, of one model or of all loaded models."""
        response = self._call("ModelStatistics", pb.ModelStatisticsRequest(name=model), deadline_seconds)
        return [VersionStatistics.from_message(entry) for entry in response.model_stats]

    def _call(self, method: str, request: Message, deadline_seconds: float, metadata: Metadata = ()) -> Message:
        try:
            return run(self._transport.call(method, request, deadline_seconds, metadata))
        except StatusError as failure:
            raise self._error(failure, deadline_seconds) from None

    def _stream(self, request: Message, deadline_seconds: float) -> Iterator[Message]:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        try:
            stream = self._transport.stream(request, deadline_seconds, ())
            while (response := run(next_response(stream))) is not None:
                yield response
        except StatusError as failure:
            raise self._error(failure, deadline_seconds) from None

    def _error(self, failure: StatusError, deadline_seconds: float) -> ClientError:
        problem = in_one_line(failure.message)
        facts = CallFacts(endpoint=self._address, elapsed_ms=deadline_seconds * 1000)
        if failure.status == "DEADLINE_EXCEEDED":
            return DeadlineError(deadline_seconds * 1000, sent=True, facts=facts)
        if failure.status == "UNAVAILABLE" and _NO_CONNECTION.search(problem):
            return UnreachableError(f"no server responds at {self._address}; run: trireme status")
        # A failure within a stream has no status.
        if failure.status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED") or FailureKind.of(failure) is FailureKind.QUEUE_FULL:
            return UnavailableError(problem)
        return ClientError(problem)


def _joined(model: str, output: str, pieces: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if len(pieces) == 1:
        return pieces[0]
    shapes = sorted({piece.shape[1:] for piece in pieces})
    if len(shapes) == 1:
        return np.concatenate(pieces)
    listed = " and ".join(str([-1, *shape]) for shape in shapes)
    raise ClientError(f"{model} streamed {output} in chunks of shapes {listed}, which cannot be joined")


def in_one_line(reason: str) -> str:
    """A server's message without line breaks and without a Python model's stack trace."""
    return " ".join(_STACK_TRACE.sub("", reason).split())
