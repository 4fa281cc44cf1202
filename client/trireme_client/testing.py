"""A fake Triton in this process, for tests of code that uses the client.

It speaks the real protocol over a real socket, so that deadlines, cancellation and broken connections are real too.
"""

from __future__ import annotations

import functools
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from trireme_client._protos import Message, config_pb, grpc, pb, stubs
from trireme_client.request import read_parameters
from trireme_client.spec import Pin
from trireme_client.tensors import DTYPES, Array, decode, encode

Tensors = Mapping[str, Any]
Compute = Callable[[Mapping[str, Array]], Tensors]
ComputeStream = Callable[[Mapping[str, Array]], Iterable[Tensors]]

_STOP_SECONDS = 5.0

# Triton's LLM contract.
_TEXTS = ("text_input", "messages", "sampling_parameters")
_FLAGS = ("stream", "exclude_input_in_output", "return_finish_reason", "return_num_input_tokens",
          "return_num_output_tokens", "return_logprobs")  # fmt: skip
_GENERATION_TENSORS: Mapping[str, Any] = {
    "inputs": {**{name: ("BYTES", [1]) for name in _TEXTS}, **{name: ("BOOL", [1]) for name in _FLAGS}},
    "optional_inputs": _TEXTS + _FLAGS,
    "outputs": {
        **{name: ("BYTES", [1]) for name in ("text_output", "finish_reason", "logprobs")},
        **{name: ("UINT32", [1]) for name in ("num_input_tokens", "num_output_tokens")},
    },
}


@dataclass(frozen=True, slots=True)
class FakeRequest:
    """One inference request received by the fake server."""

    model: str
    version: str
    request_id: str
    inputs: Mapping[str, Array]
    parameters: Mapping[str, str | int | bool | float]
    headers: Mapping[str, str]


@dataclass(slots=True)
class _FakeModel:
    config: Message
    compute: Compute | None
    stream: ComputeStream | None
    failures: list[tuple[str, str]] = field(default_factory=list)
    delay_s: float = 0.0


class FakeServer:
    """A server whose models are functions, on a free port of the loopback address.

    Example:
        >>> with FakeServer() as server:
        ...     server.add_model(
        ...         "double", inputs={"X": ("FP32", [2])}, outputs={"Y": ("FP32", [2])}, max_batch_size=8,
        ...         compute=lambda inputs: {"Y": inputs["X"] * 2},
        ...     )
        ...     with TriremeClient(server.address) as client:
        ...         client.infer("double", {"X": [[1.0, 2.0]]})["Y"]

    Args:
        credentials: of ``grpc.ssl_server_credentials``, for TLS.

    Attributes:
        address: ``host:port``.
        requests: every received inference, in order.
        calls: number of calls of each method of the protocol.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, threads: int = 16, credentials: Any = None) -> None:
        self._models: dict[str, _FakeModel] = {}
        self._lock = threading.Lock()
        self.requests: list[FakeRequest] = []
        self.calls: Counter[str] = Counter()
        self.ready = True
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="fake-triton")
        options = (
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        )
        self._server = grpc.server(self._executor, options=options)
        stubs.add_GRPCInferenceServiceServicer_to_server(_service(self), self._server)
        wanted = f"{host}:{port}"
        if credentials is None:
            bound = self._server.add_insecure_port(wanted)
        else:
            bound = self._server.add_secure_port(wanted, credentials)
        self.address = f"{host}:{bound}"
        self._server.start()

    def add_model(
        self,
        name: str,
        *,
        inputs: Mapping[str, tuple[str, list[int]]],
        outputs: Mapping[str, tuple[str, list[int]]],
        compute: Compute | None = None,
        stream: ComputeStream | None = None,
        max_batch_size: int = 0,
        optional_inputs: Iterable[str] = (),
    ) -> None:
        """Serve or replace a function.

        Args:
            inputs, outputs: datatype and dims by name, dims without the batch dimension.
            compute: maps inputs to outputs, batch dimension included; BYTES as arrays of ``bytes``.
            stream: instead of ``compute``, for a decoupled model: yields any number of responses.
        """
        if (compute is None) == (stream is None):
            raise ValueError("a fake model needs either compute or stream")
        config = config_pb.ModelConfig(name=name, max_batch_size=max_batch_size)
        config.model_transaction_policy.decoupled = stream is not None
        for tensor, (datatype, dims) in inputs.items():
            config.input.add(name=tensor, data_type=_data_type(datatype), dims=dims, optional=tensor in optional_inputs)
        for tensor, (datatype, dims) in outputs.items():
            config.output.add(name=tensor, data_type=_data_type(datatype), dims=dims)
        self._models[name] = _FakeModel(config, compute, stream)

    def add_generation_model(
        self, name: str, answer: Callable[[str], Iterable[str]], *, pin: Pin | None = None
    ) -> None:
        """Serve or replace a language model that follows Triton's LLM contract.

        Args:
            answer: maps the prompt (for a chat its messages as JSON) to the chunks of text, one token each.
            pin: configure an ensemble that is pinned to this version of another model.
        """
        self.add_model(name, **_GENERATION_TENSORS, stream=functools.partial(_generate, answer))
        if pin is not None:
            steps = self._models[name].config.ensemble_scheduling.step
            steps.add(model_name=pin.model, model_version=int(pin.version))

    def remove_model(self, name: str) -> None:
        """Respond as if the model had been unloaded."""
        del self._models[name]

    def fail_next(self, model: str, status: str, message: str = "scripted failure", *, times: int = 1) -> None:
        """Fail the next inferences of a model with a gRPC status, e.g. "UNAVAILABLE"."""
        self._models[model].failures += [(status, message)] * times

    def delay(self, model: str, delay_ms: float) -> None:
        """Add a delay to every inference of a model."""
        self._models[model].delay_s = delay_ms / 1000

    def stop(self) -> None:
        """Close every connection."""
        self._server.stop(grace=None).wait(_STOP_SECONDS)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- the protocol's methods ----------------------------------------------------------------------------------------

    def _count(self, method: str) -> None:
        with self._lock:
            self.calls[method] += 1

    def _find(self, name: str, context: Any) -> _FakeModel:
        model = self._models.get(name)
        if model is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        return model  # type: ignore[return-value]

    def _begin(self, request: Message, context: Any) -> tuple[_FakeModel, dict[str, Array]]:
        model = self._find(request.model_name, context)
        inputs = _read_inputs(request)
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        delay_s = model.delay_s  # read now: a test that sees the request may change it for the next one
        with self._lock:
            self.requests.append(
                FakeRequest(
                    request.model_name, request.model_version, request.id, inputs, read_parameters(request), headers
                )
            )
            failure = model.failures.pop(0) if model.failures else None
        if delay_s:
            _sleep_unless_cancelled(delay_s, context)
        if failure is not None:
            context.abort(grpc.StatusCode[failure[0]], failure[1])
        return model, inputs

    def _infer(self, request: Message, context: Any) -> Message:
        model, inputs = self._begin(request, context)
        if model.compute is None:
            context.abort(
                grpc.StatusCode.UNIMPLEMENTED, "ModelInfer RPC doesn't support models with decoupled transaction policy"
            )
        assert model.compute is not None
        return _infer_response(model, request, model.compute(inputs))

    def _stream(self, request: Message, context: Any) -> Iterator[Message]:
        model, inputs = self._begin(request, context)
        results = model.stream(inputs) if model.stream else [model.compute(inputs)]  # type: ignore[misc]
        for outputs in results:
            if not context.is_active():
                return
            response = _infer_response(model, request, outputs)
            response.parameters["triton_final_response"].bool_param = False
            yield pb.ModelStreamInferResponse(infer_response=response)
        final = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        final.parameters["triton_final_response"].bool_param = True
        yield pb.ModelStreamInferResponse(infer_response=final)


def _service(fake: FakeServer) -> Any:
    """The protocol's service on a fake server's models."""

    class Service(stubs.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def ServerLive(self, request: Message, context: Any) -> Message:  # noqa: N802, ARG002
            return pb.ServerLiveResponse(live=True)

        def ServerReady(self, request: Message, context: Any) -> Message:  # noqa: N802, ARG002
            return pb.ServerReadyResponse(ready=fake.ready)

        def ModelReady(self, request: Message, context: Any) -> Message:  # noqa: N802, ARG002
            return pb.ModelReadyResponse(ready=request.name in fake._models)

        def ModelConfig(self, request: Message, context: Any) -> Message:  # noqa: N802
            return pb.ModelConfigResponse(config=fake._find(request.name, context).config)

        def ModelStatistics(self, request: Message, context: Any) -> Message:  # noqa: N802, ARG002
            return pb.ModelStatisticsResponse(
                model_stats=[pb.ModelStatistics(name=name, version="1") for name in list(fake._models)]
            )

        def ServerMetadata(self, request: Message, context: Any) -> Message:  # noqa: N802, ARG002
            return pb.ServerMetadataResponse(name="fake", version="0")

        def RepositoryIndex(self, request: Message, context: Any) -> Message:  # noqa: N802, ARG002
            entry = pb.RepositoryIndexResponse.ModelIndex
            return pb.RepositoryIndexResponse(
                models=[entry(name=name, version="1", state="READY") for name in list(fake._models)]
            )

        def ModelInfer(self, request: Message, context: Any) -> Message:  # noqa: N802
            return fake._infer(request, context)

        def ModelStreamInfer(self, request_iterator: Iterator[Message], context: Any) -> Iterator[Message]:  # noqa: N802
            for request in request_iterator:
                yield from fake._stream(request, context)

    for method in [name for name in vars(Service) if name[0].isupper()]:
        setattr(Service, method, _counted(fake, method, getattr(Service, method)))
    return Service()


def _counted(fake: FakeServer, name: str, method: Any) -> Any:
    @functools.wraps(method)
    def counted(self: Any, request: Any, context: Any) -> Any:
        fake._count(name)
        return method(self, request, context)

    return counted


def _data_type(datatype: str) -> int:
    if datatype not in DTYPES:
        raise ValueError(f"unknown datatype {datatype!r}; available: {', '.join(DTYPES)}")
    number: int = config_pb.DataType.Value("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}")
    return number


def _read_inputs(request: Message) -> dict[str, Array]:
    raw = iter(request.raw_input_contents)
    return {tensor.name: decode(tensor.datatype, tuple(tensor.shape), next(raw)) for tensor in request.inputs}


def _infer_response(model: _FakeModel, request: Message, outputs: Tensors) -> Message:
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    wanted = {output.name for output in request.outputs}
    for output in model.config.output:
        if output.name not in outputs or (wanted and output.name not in wanted):
            continue
        datatype = (
            "BYTES"
            if output.data_type == config_pb.TYPE_STRING
            else config_pb.DataType.Name(output.data_type).removeprefix("TYPE_")
        )
        array = np.asarray(outputs[output.name], dtype=DTYPES[datatype])
        response.outputs.add(name=output.name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(encode(output.name, datatype, array))
    return response


def _sleep_unless_cancelled(seconds: float, context: Any) -> None:
    """Sleep, but end early if the caller cancels, as a request in a queue does."""
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait(seconds)
    if not context.is_active():
        raise RuntimeError("the caller has cancelled")


def _generate(answer: Callable[[str], Iterable[str]], inputs: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    """The model's responses: one per chunk and one with the finish reason; a single one if ``stream`` is false."""
    prompt = inputs["messages" if "messages" in inputs else "text_input"][0].decode()
    sampling = json.loads(inputs["sampling_parameters"][0]) if "sampling_parameters" in inputs else {}
    max_tokens = sampling.get("max_tokens")
    count = 0
    pieces = []
    for piece in itertools.islice(answer(prompt), max_tokens):
        count += 1
        if inputs["stream"][0]:
            yield _generation_outputs(piece, "", prompt, 1)
        else:
            pieces.append(piece)
    yield _generation_outputs("".join(pieces), "length" if count == max_tokens else "stop", prompt, len(pieces))


def _generation_outputs(text: str, finish_reason: str, prompt: str, num_output_tokens: int) -> dict[str, Any]:
    texts = {"text_output": text, "finish_reason": finish_reason, "logprobs": ""}
    return {
        **{name: np.array([value.encode()], object) for name, value in texts.items()},
        "num_input_tokens": [len(prompt.split())],
        "num_output_tokens": [num_output_tokens],
    }
