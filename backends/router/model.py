"""The router: serves a task from a suitable variant, see ``docs/routing.md``.

``execute`` passes requests to the dispatcher and returns at once; the dispatcher's threads send the responses. One
instance therefore has many calls in flight, sees all queues, and holds the only copy of the state. Needs Triton 24.10,
the first version in which models that are not decoupled may use a response sender.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from trireme_backends.errors import BackendError, FileError, ModelError, error_response
from trireme_backends.model import Model
from trireme_backends.routing.dispatcher import Dispatcher
from trireme_backends.routing.errors import CallError, Fault, fault_of
from trireme_backends.routing.metrics import RouterMetrics
from trireme_backends.routing.parameters import read_parameters, read_stream_parameters
from trireme_backends.routing.pins import Pins
from trireme_backends.routing.request import RoutedRequest, RoutedResult, Tensors
from trireme_backends.routing.route import check_variants, load_route
from trireme_backends.routing.streams import StreamRequest, StreamRouter
from trireme_backends.routing.traffic import TRAFFIC_NAME, TrafficFile

_ROUTE_OUTPUTS = ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON")


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        model = Model.from_arguments(args)
        model_dir = model.version_dir.parent
        path = model.file("route.json")
        route = load_route(path)
        check_variants(route, path, model_dir.parent)
        self._task_outputs = _task_outputs(model)
        if route.cascade and route.cascade.confidence_output not in self._task_outputs:
            raise FileError(path, "cascade.confidence_output", f"is not an output of {model.name}")
        self._deadline_ms = route.deadline_ms
        self._metrics = RouterMetrics(pb_utils, route)
        pins, traffic = Pins(model_dir.parent), TrafficFile(model_dir / TRAFFIC_NAME)
        self._streams: StreamRouter | None = None
        if route.streams:
            self._streams = StreamRouter(
                route, pins=pins, traffic=traffic, observer=self._metrics, is_loaded=pb_utils.is_model_ready
            )
        self._dispatcher = Dispatcher(route, call=self._call, pins=pins, traffic=traffic, observer=self._metrics)
        self._metrics.waiting_rows = self._dispatcher.waiting_rows

    def execute(self, requests: Sequence[Any]) -> None:
        if self._streams is not None:
            for request in requests:
                _send(request.get_response_sender(), self._stream_response(self._streams, request))
            return
        routed = []
        for request in requests:
            try:
                routed.append(self._routed_request(request))
            except BackendError as error:
                self._metrics.rejected(error, request_id=request.request_id())
                _send(request.get_response_sender(), error_response(pb_utils, error))
        self._dispatcher.submit(routed)

    def finalize(self) -> None:
        self._dispatcher.close()
        self._metrics.close()

    def _stream_response(self, streams: StreamRouter, request: Any) -> Any:
        """Name a variant to a caller that streams, or accept its report."""
        arrived, request_id = time.monotonic(), request.request_id()
        try:
            parameters, header_id = read_stream_parameters(request.parameters())
            request_id = request_id or header_id
            characters = int(request.inputs()[0].as_numpy().reshape(-1)[0])
            deadline = arrived + self._deadline_s(request)
            route = streams.route(StreamRequest(parameters, characters, request_id, deadline))
        except BackendError as error:
            self._metrics.rejected(error, request_id=request_id)
            return error_response(pb_utils, error)
        if route is not None:
            self._metrics.replied(route, seen_ms=(time.monotonic() - arrived) * 1000, request_id=request_id)
        texts = ("", "", "") if route is None else (route.variant, route.version, route.reason_json)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.array([text.encode()], dtype=np.object_))
                for name, text in zip(_ROUTE_OUTPUTS, texts, strict=True)
                if name in request.requested_output_names()
            ]
        )

    def _deadline_s(self, request: Any) -> float:
        """The caller's own timeout is in microseconds; 0 means none."""
        return min(self._deadline_ms, request.timeout() / 1000 or self._deadline_ms) / 1000

    def _routed_request(self, request: Any) -> RoutedRequest:
        parameters, variant_parameters, header_id = read_parameters(request.parameters())
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        rows = len(next(iter(inputs.values())))
        sender = request.get_response_sender()
        wanted = request.requested_output_names()
        arrived = time.monotonic()

        def reply(result: RoutedResult | BackendError) -> None:
            _send(
                sender,
                error_response(pb_utils, result) if isinstance(result, BackendError) else _response(result, wanted),
            )

        deadline, request_id = arrived + self._deadline_s(request), request.request_id() or header_id
        return RoutedRequest(parameters, variant_parameters, inputs, rows, arrived, deadline, reply, request_id)

    def _call(self, variant: str, inputs: Tensors, parameters: str, request_id: str) -> Tensors:
        try:
            request = pb_utils.InferenceRequest(
                model_name=variant,
                request_id=request_id,
                requested_output_names=self._task_outputs,
                inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
                parameters=json.loads(parameters) if parameters else {},
            )
            response = request.exec()
        except pb_utils.TritonModelException as error:
            raise CallError(Fault.ERROR, str(error)) from None
        if response.has_error():
            message = response.error().message()
            raise CallError(fault_of(message), message)
        return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def _task_outputs(model: Model) -> list[str]:
    names = model.output_names()
    missing = [name for name in _ROUTE_OUTPUTS if name not in names]
    if missing:
        raise ModelError(
            f"model '{model.name}': config.pbtxt lacks the outputs {', '.join(missing)} (TYPE_STRING, dims [ 1 ])"
        )
    return [name for name in names if name not in _ROUTE_OUTPUTS]


def _response(result: RoutedResult, wanted: Sequence[str]) -> Any:
    routes = result.routes
    tensors = {name: pb_utils.Tensor(name, array) for name, array in result.outputs.items() if name in wanted}
    tensors["VARIANT"] = _texts("VARIANT", [route.variant for route in routes])
    tensors["VARIANT_VERSION"] = _texts("VARIANT_VERSION", [route.version for route in routes])
    if "ROUTE_REASON" in wanted:
        tensors["ROUTE_REASON"] = _new_texts("ROUTE_REASON", [route.reason_json for route in routes])
    return pb_utils.InferenceResponse([tensors[name] for name in wanted if name in tensors])


def _texts(name: str, values: Sequence[str]) -> pb_utils.Tensor:
    """Caches the few tensors of a row's route: serialising them each time takes a tenth of the router's time."""
    return _cached_text(name, values[0]) if len(values) == 1 else _new_texts(name, values)


# Unbounded: evicting tensors from a cache while many threads sent them has crashed the server.
@functools.cache
def _cached_text(name: str, value: str) -> pb_utils.Tensor:
    return _new_texts(name, [value])


def _new_texts(name: str, values: Sequence[str]) -> pb_utils.Tensor:
    return pb_utils.Tensor(name, np.array([[value.encode()] for value in values], dtype=np.object_))


def _send(sender: Any, response: Any) -> None:
    try:
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except pb_utils.TritonModelException as error:
        # This caller is gone; the responses to the others are sent.
        pb_utils.Logger.log_error(f"router: a response could not be sent: {error}")
