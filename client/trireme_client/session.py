"""State shared by all calls of a client: replicas, model specs, and the ways to send requests."""

from __future__ import annotations

import functools
import itertools
import secrets
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from trireme_client._protos import Message, pb
from trireme_client.call import Call
from trireme_client.endpoint import Endpoint
from trireme_client.errors import InvalidRequestError, ServerFaultError
from trireme_client.policy import HealthPolicy, HedgePolicy, RetryPolicy
from trireme_client.pool import Pool
from trireme_client.region_registry import RegionRegistry, used_regions
from trireme_client.request import (
    NO_PARAMETERS,
    Outputs,
    Parameter,
    SequenceStep,
    build_requests,
    empty_outputs,
    join_outputs,
    read_outputs,
    read_parameters,
)
from trireme_client.results import InferResult, Timings
from trireme_client.sender import RequestSender
from trireme_client.shared_memory import SharedRegion
from trireme_client.spec import ModelSpec
from trireme_client.spec_cache import SpecCache
from trireme_client.transport import Metadata, Runtime, TransportOptions

_REQUEST_ID_HEADER = "x-request-id"
_AFFINITY_HEADER = "x-trireme-prefix"
_SEQUENCE_HEADER = "x-trireme-sequence"
_HEADER_TEXT = "".join(map(chr, range(0x21, 0x7F)))
_UNREGISTER_DEADLINE_MS = 1000.0


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The options of a client, documented in ``AsyncTriremeClient``."""

    endpoints: tuple[Endpoint, ...]
    deadline_ms: float
    retry: RetryPolicy
    hedge: HedgePolicy | None
    health: HealthPolicy
    zone: str
    transport: TransportOptions
    headers: Metadata
    admin_key: str | None = field(repr=False)


class Session:
    """Starts calls and makes them."""

    def __init__(self, options: SessionOptions, runtime: Runtime) -> None:
        self._options, self._runtime = options, runtime
        self._pool = Pool(
            options.endpoints,
            zone=options.zone,
            health=options.health,
            runtime=runtime,
            options=options.transport,
            probe_request=self._probe_request,
        )
        self._sender = RequestSender(self._pool, runtime, options.retry, options.hedge, options.admin_key)
        self._specs = SpecCache(self._sender, runtime)
        self._regions = RegionRegistry(self._sender)
        self._probe: Message | None = None
        self._id_prefix = secrets.token_hex(4)
        self._id_numbers = itertools.count(1)

    def start_call(
        self,
        model: str = "",
        version: int | str | None = None,
        deadline_ms: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
        sequence: SequenceStep | None = None,
        affinity_key: str = "",
    ) -> Call:
        """Start the clock of a call.

        Raises:
            ClosedError: the client was closed, or created before a fork.
            InvalidRequestError: the deadline is less than 1 ms or not a number.
        """
        deadline_ms = self._options.deadline_ms if deadline_ms is None else deadline_ms
        if not 1 <= deadline_ms < 1e10:
            raise InvalidRequestError(f"deadline_ms is {deadline_ms:g}; it must be at least 1 millisecond")
        metadata = self._options.headers + _trace_headers()
        if headers:
            metadata += tuple((key.lower(), value) for key, value in headers.items())
        given = dict(metadata).get(_REQUEST_ID_HEADER)
        request_id = request_id or given or f"{self._id_prefix}-{next(self._id_numbers)}"
        # Proxies read headers only; an id that no header can hold goes to the server alone.
        if given is None and request_id.isascii() and request_id.isprintable():
            metadata += ((_REQUEST_ID_HEADER, request_id),)
        if affinity_key:
            metadata += ((_AFFINITY_HEADER, affinity_key),)
        if sequence:
            # As Envoy does for HTTP requests without this header: `requests.lua`.
            metadata += ((_SEQUENCE_HEADER, quote(str(sequence.id), safe=_HEADER_TEXT)),)
        call = Call(
            deadline_ms=deadline_ms,
            model=model,
            version="" if version is None else str(version),
            request_id=request_id,
            metadata=metadata,
            sequence=sequence,
            affinity_key=affinity_key,
        )
        self._pool.check_open(call)
        self._pool.start()
        return call

    async def infer(
        self,
        call: Call,
        inputs: Mapping[str, object],
        outputs: Outputs | None = None,
        parameters: Mapping[str, Parameter] = NO_PARAMETERS,
        priority: int | None = None,
    ) -> InferResult:
        """As ``AsyncTriremeClient.infer``."""
        # Two servers must not write into the same memory.
        call.hedgeable = call.sequence is None and not isinstance(outputs, Mapping)
        requests = await self._build_requests(call, inputs, outputs, parameters, priority, stream=False)
        register = functools.partial(self._regions.register, used_regions(inputs, outputs), call)
        responses = await self._runtime.map(lambda request: self._sender.infer(request, call, register), requests)
        if not responses:
            # Triton accepts no batch of zero rows, and there is nothing to send.
            nothing = pb.ModelInferResponse(model_name=call.model, model_version=call.version)
            return _result(nothing, empty_outputs(await self._specs.spec(call), outputs), call, 0)
        parts = [_read_outputs(response, outputs, call) for response in responses]
        try:
            joined = join_outputs(parts, [request.inputs[0].shape[0] for request in requests] if len(parts) > 1 else ())
        except ValueError as error:
            raise ServerFaultError("MALFORMED", f"the responses cannot be joined: {error}", call.facts()) from None
        return _result(responses[-1], joined, call, len(requests))

    async def stream(
        self,
        call: Call,
        inputs: Mapping[str, object],
        outputs: Outputs | None = None,
        parameters: Mapping[str, Parameter] = NO_PARAMETERS,
        priority: int | None = None,
        first_within_ms: float | None = None,
    ) -> AsyncGenerator[InferResult, None]:
        """As ``AsyncTriremeClient.stream``."""
        requests = await self._build_requests(call, inputs, outputs, parameters, priority, stream=True)
        if len(requests) != 1:
            problem = f"a stream is one request, but these rows need {len(requests)} of model {call.model!r}"
            raise InvalidRequestError(problem, call.facts())
        async with aclosing(self._sender.stream(requests[0], call, first_within_ms)) as responses:
            async for response in responses:
                yield _result(response, _read_outputs(response, outputs, call), call, 1)

    async def _build_requests(
        self,
        call: Call,
        inputs: Mapping[str, object],
        outputs: Outputs | None,
        parameters: Mapping[str, Parameter],
        priority: int | None,
        *,
        stream: bool,
    ) -> list[Message]:
        def build(spec: ModelSpec) -> list[Message]:
            if spec.decoupled and not stream:
                raise InvalidRequestError(f"model {call.model!r} streams its responses; call stream()")
            return build_requests(spec, inputs, outputs=outputs, parameters=parameters, version=call.version,
                                  request_id=call.request_id, sequence=call.sequence, priority=priority)  # fmt: skip

        return await self._specs.apply(call, build)

    async def call(self, method: str, request: Message, call: Call) -> Message:
        """Call a method other than inference, on one replica."""
        return await self._sender.call(method, request, call)

    async def spec(self, call: Call, *, refresh: bool = False) -> ModelSpec:
        """The spec of the call's model; ``refresh`` bypasses the cache."""
        return await (self._specs.fetch(call) if refresh else self._specs.spec(call))

    async def change_model(self, method: str, request: Message, call: Call) -> None:
        """Load or unload the call's model on every replica in turn.

        Raises:
            ServerFaultError: a replica failed; later replicas were not called.
        """
        await self._sender.call_admin_everywhere(method, request, call)
        self._specs.invalidate(call.model)

    @asynccontextmanager
    async def shared_memory(self, byte_size: int) -> AsyncIterator[SharedRegion]:
        """A region that is removed, here and on the servers, at the end of the block."""
        self._pool.check_open()
        region = SharedRegion(byte_size)
        try:
            yield region
        finally:
            region.close()
            start_call = functools.partial(self.start_call, deadline_ms=_UNREGISTER_DEADLINE_MS)
            await self._regions.unregister(region, self._pool.replicas, start_call)

    async def close(self) -> None:
        """Cancel pending requests; does nothing in a forked child, since the connections are the parent's."""
        await self._pool.close()

    async def _probe_request(self) -> Message | None:
        """The inference that probes a replica; None to probe its readiness."""
        health = self._options.health
        if health.probe_model is not None and self._probe is None:
            spec = await self.spec(self.start_call(health.probe_model, None, health.probe_deadline_ms))
            self._probe = build_requests(spec, health.probe_inputs, request_id="probe")[0]
        return self._probe


def _trace_headers() -> Metadata:
    """W3C trace context of the current span if the application uses OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def _read_outputs(response: Message, outputs: Outputs | None, call: Call) -> Mapping[str, Any]:
    try:
        return read_outputs(response, outputs)
    except (ValueError, KeyError, StopIteration) as error:
        raise ServerFaultError("MALFORMED", f"the response cannot be read: {error}", call.facts()) from error


def _result(response: Message, outputs: Mapping[str, Any], call: Call, requests: int) -> InferResult:
    timings = Timings(call.elapsed_ms(), requests, call.attempts, call.endpoint)
    return InferResult(
        outputs, response.model_name, response.model_version, call.request_id, read_parameters(response), timings
    )
