"""What the command line asks of a running Triton, over gRPC."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton_grpc
from trireme_client import ClientError, Endpoint, OverloadedError, RetryPolicy, TriremeClient
from trireme_client import DeadlineError as ClientDeadlineError
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from trireme.errors import ServerError

_Result = TypeVar("_Result")

# What gRPC itself says where nobody is at the other end; a server that refuses a request has the same status code.
_NO_CONNECTION = re.compile(
    r"failed to connect|connection (refused|reset)|socket closed|broken pipe|recvmsg|goaway|stream removed"
    r"|cancelling all calls|end of tcp stream",
    re.IGNORECASE,
)
# What the Python backend appends to an error of a model: "\n\nAt:", then a line each; in a log with "\n" escaped.
_STACK = re.compile(r"(?:\n|\\n)+At:(?:(?:\n|\\n)\s+[^\n\\]+?\(\d+\): [^\n\\;]*)+(?:\n|\\n)*")


# A server that is back is found within a second; gRPC's own pauses between two attempts grow to two minutes. What the
# stack runs itself is never asked through a proxy that the environment names.
CHANNEL_ARGUMENTS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]


class DeadlineError(ServerError):
    """The server did not answer in time."""


class UnavailableError(ServerError):
    """The model takes no request now, since it is busy or not loaded; a later one may be answered."""


class UnreachableError(ServerError):
    """Nobody listens there, or the connection broke: the server is not there, or ended during the call."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered.

    Attributes:
        outputs: tensors by name; BYTES as object arrays of ``bytes``.
        version: of the model asked.
        latency_ms: from sending to the answer.
    """

    outputs: Mapping[str, npt.NDArray[Any]]
    model: str
    version: str
    latency_ms: float


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version in the server's index; ``state`` is READY, UNAVAILABLE, LOADING, UNLOADING or empty."""

    model: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class VersionCounts:
    """Requests to one version of a model since it was loaded."""

    model: str
    version: str
    succeeded: int
    failed: int


class TritonClient:
    """Calls to one server. Every call has a deadline in seconds, and raises ``ServerError`` with what the server said.

    Example:
        >>> with TritonClient("127.0.0.1:8001") as client:
        ...     client.infer("minilm_tokenizer", {"TEXT": np.array([[b"good"]], dtype=np.object_)}, 5.0)
    """

    def __init__(self, grpc_address: str, admin_key: str | None = None) -> None:
        self._address = grpc_address
        self._client = triton_grpc.InferenceServerClient(grpc_address, channel_args=CHANNEL_ARGUMENTS)
        # Connects when it is first used. One attempt, as everywhere here: whoever asks wants to see what fails.
        self._streaming = TriremeClient(Endpoint(grpc_address, direct=True), retry=RetryPolicy(max_attempts=1))
        self._decoupled: dict[str, bool] = {}
        self._admin_headers = {"triton-grpc-protocol-admin-key": admin_key} if admin_key else None

    def __enter__(self) -> TritonClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        return self._address

    def close(self) -> None:
        self._streaming.close()
        self._client.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        deadline_seconds: float,
        parameters: Mapping[str, str | int | bool] | None = None,
    ) -> Answer:
        """Ask ``model``, in the version that the server chooses.

        Of a decoupled model all that it answers, each output's values one after the other along the first axis.
        """
        if self.is_decoupled(model, deadline_seconds):
            return self._stream(model, inputs, deadline_seconds, parameters or {})
        tensors = []
        for name, array in inputs.items():
            tensor = triton_grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        started = time.perf_counter()
        result = self._call(
            lambda: self._client.infer(
                model, tensors, parameters=dict(parameters or {}), client_timeout=deadline_seconds
            )
        )
        latency_ms = (time.perf_counter() - started) * 1000
        response = result.get_response()
        outputs = {output.name: result.as_numpy(output.name) for output in response.outputs}
        return Answer(outputs, response.model_name, response.model_version, latency_ms)

    def is_decoupled(self, model: str, deadline_seconds: float) -> bool:
        """Whether it streams its answers; a model does not change that between two versions."""
        if model not in self._decoupled:
            answer = self._call(lambda: self._client.get_model_config(model, client_timeout=deadline_seconds))
            self._decoupled[model] = answer.config.model_transaction_policy.decoupled
        return self._decoupled[model]

    def _stream(
        self,
        model: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        deadline_seconds: float,
        parameters: Mapping[str, str | int | bool],
    ) -> Answer:
        started = time.perf_counter()
        try:
            answers = list(
                self._streaming.stream(model, inputs, parameters=parameters, deadline_ms=deadline_seconds * 1000)
            )
        except ClientDeadlineError:
            raise DeadlineError(f"the server at {self._address} did not answer in time") from None
        except OverloadedError as error:
            raise UnavailableError(in_one_line(error.problem)) from None
        except ClientError as error:
            raise ServerError(in_one_line(error.problem)) from None
        if not answers:
            raise ServerError(f"{model} ended its stream without an answer")
        latency_ms = (time.perf_counter() - started) * 1000
        names = dict.fromkeys(name for answer in answers for name in answer.outputs)
        outputs = {
            name: _joined(model, name, [a.outputs[name] for a in answers if name in a.outputs]) for name in names
        }
        return Answer(outputs, model, answers[-1].version, latency_ms)

    def is_live(self, deadline_seconds: float) -> bool:
        """Whether the server's process answers; says nothing of its models."""
        try:
            return bool(self._call(lambda: self._client.is_server_live(client_timeout=deadline_seconds)))
        except ServerError:
            return False

    def is_ready(self, deadline_seconds: float) -> bool:
        """Whether the server says that it is ready; says nothing of single models."""
        try:
            return bool(self._call(lambda: self._client.is_server_ready(client_timeout=deadline_seconds)))
        except ServerError:
            return False

    def server_version(self, deadline_seconds: float) -> str:
        """The release that the server says it is, such as 2.51.0."""
        return str(self._call(lambda: self._client.get_server_metadata(client_timeout=deadline_seconds)).version)

    def index(self, deadline_seconds: float) -> list[VersionState]:
        """Every version that the server knows of. Needs the admin key where there is one."""
        index = self._call(
            lambda: self._client.get_model_repository_index(
                headers=self._admin_headers, client_timeout=deadline_seconds
            )
        )
        return [
            VersionState(entry.name, entry.version, entry.state, in_one_line(entry.reason)) for entry in index.models
        ]

    def load(self, model: str, deadline_seconds: float) -> None:
        """Load ``model`` as it is on disk, or what has changed of it. Needs the admin key where there is one."""
        self._call(lambda: self._client.load_model(model, headers=self._admin_headers, client_timeout=deadline_seconds))

    def unload(self, model: str, deadline_seconds: float) -> None:
        """Unload every version of ``model``, if there is one. Needs the admin key where there is one."""
        self._call(
            lambda: self._client.unload_model(model, headers=self._admin_headers, client_timeout=deadline_seconds)
        )

    def is_version_ready(self, model: str, version: int, deadline_seconds: float) -> bool:
        """Whether a version answers requests, as the server says."""
        return bool(
            self._call(lambda: self._client.is_model_ready(model, str(version), client_timeout=deadline_seconds))
        )

    def ensemble_steps(self, model: str, deadline_seconds: float) -> dict[str, int]:
        """The version of each model that a loaded ensemble calls, -1 for the newest; empty for a plain model."""
        answer = self._call(lambda: self._client.get_model_config(model, client_timeout=deadline_seconds))
        return {step.model_name: step.model_version for step in answer.config.ensemble_scheduling.step}

    def counts(self, deadline_seconds: float, model: str = "") -> list[VersionCounts]:
        """How many requests were answered and refused, of one model or of all that are loaded."""
        statistics = self._call(lambda: self._client.get_inference_statistics(model, client_timeout=deadline_seconds))
        return [
            VersionCounts(
                entry.name, entry.version, entry.inference_stats.success.count, entry.inference_stats.fail.count
            )
            for entry in statistics.model_stats
        ]

    def _call(self, call: Callable[[], _Result]) -> _Result:
        try:
            return call()
        except InferenceServerException as error:
            if error.status() == "StatusCode.DEADLINE_EXCEEDED":
                raise DeadlineError(f"the server at {self._address} did not answer in time") from None
            if error.status() == "StatusCode.UNAVAILABLE" and _NO_CONNECTION.search(error.message()):
                raise UnreachableError(f"no server answers at {self._address}; see: trireme status") from None
            if error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.RESOURCE_EXHAUSTED"):
                raise UnavailableError(in_one_line(error.message())) from None
            raise ServerError(in_one_line(error.message())) from None


def _joined(model: str, output: str, pieces: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    shapes = sorted({piece.shape[1:] for piece in pieces})
    if len(shapes) == 1:
        return np.concatenate(pieces)
    listed = " and ".join(str([-1, *shape]) for shape in shapes)
    raise ServerError(f"{model} streamed {output} in pieces of the shapes {listed}, which cannot be joined")


def in_one_line(reason: str) -> str:
    """What a server says, without line breaks and without the stack of a Python model that raised it."""
    return " ".join(_STACK.sub("", reason).split())


def text_tensor(*texts: bytes) -> npt.NDArray[np.object_]:
    """Texts as a ``TEXT`` input: BYTES, shape [rows, 1]."""
    return np.array(texts, dtype=np.object_).reshape(-1, 1)
