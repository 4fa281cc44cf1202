"""What every call of a client shares: its replicas, its way of calling, and what it knows of models."""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote

from trireme_client._protos import Message, pb
from trireme_client.call import Call, Caller
from trireme_client.endpoint import Endpoint
from trireme_client.errors import ClosedError, InvalidRequestError, ServerFaultError
from trireme_client.policy import HealthPolicy, HedgePolicy, RetryPolicy
from trireme_client.pool import Pool, Replica
from trireme_client.request import SequenceStep, build
from trireme_client.spec import ModelSpec
from trireme_client.wire import Metadata, Runtime, WireError, WireOptions

T = TypeVar("T")

# A model's description is asked for again before a request is refused for it, unless it is newer than this.
_FRESH_SPEC_SECONDS = 1.0
_REQUEST_ID_HEADER = "x-request-id"
_AFFINITY_HEADER = "x-trireme-prefix"
_SEQUENCE_HEADER = "x-trireme-sequence"
_HEADER_TEXT = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a client is made with; the meaning of each is told by ``AsyncTriremeClient``."""

    endpoints: tuple[Endpoint, ...]
    deadline_ms: float
    retry: RetryPolicy
    hedge: HedgePolicy | None
    health: HealthPolicy
    zone: str
    wire: WireOptions
    headers: Metadata
    admin_key: str | None = field(repr=False)


class Session:
    """Begins calls, and remembers what models take."""

    def __init__(self, options: SessionOptions, runtime: Runtime) -> None:
        self._options, self.runtime = options, runtime
        self.pool = Pool(
            options.endpoints,
            zone=options.zone,
            health=options.health,
            runtime=runtime,
            options=options.wire,
            probe_request=self._probe_request,
        )
        self.caller = Caller(self.pool, runtime, options.retry, options.hedge)
        self._specs: dict[tuple[str, str], tuple[ModelSpec, float]] = {}
        self._asked: dict[tuple[str, str], Future[None]] = {}
        self._probe: Message | None = None
        self._pid = os.getpid()
        self._id_prefix = secrets.token_hex(4)
        self._id_numbers = itertools.count(1)

    def begin(
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
            ClosedError: the client was closed, or made before a fork.
            InvalidRequestError: the deadline is none.
        """
        deadline_ms = self._options.deadline_ms if deadline_ms is None else deadline_ms
        if not 1 <= deadline_ms < 1e10:
            raise InvalidRequestError(f"deadline_ms is {deadline_ms:g}; it counts milliseconds and must be at least 1")
        metadata = self._options.headers + _trace_headers()
        if headers:
            metadata += tuple((key.lower(), value) for key, value in headers.items())
        given = dict(metadata).get(_REQUEST_ID_HEADER)
        request_id = request_id or given or f"{self._id_prefix}-{next(self._id_numbers)}"
        # Proxies read headers only; one that is no header's text goes to the server alone.
        if given is None and request_id.isascii() and request_id.isprintable():
            metadata += ((_REQUEST_ID_HEADER, request_id),)
        if affinity_key:
            metadata += ((_AFFINITY_HEADER, affinity_key),)
        sequence_id = str(sequence.id) if sequence else ""
        if sequence_id:
            # As Envoy's own, of HTTP requests without this header: `requests.lua`.
            metadata += ((_SEQUENCE_HEADER, quote(sequence_id, safe=_HEADER_TEXT)),)
        call = Call(
            deadline_ms=deadline_ms,
            model=model,
            version="" if version is None else str(version),
            request_id=request_id,
            metadata=metadata,
            sequence=sequence_id,
            affinity_key=affinity_key,
            repeatable=sequence is None,
        )
        self.check_open(call)
        self.pool.start()
        return call

    def check_open(self, call: Call | None = None) -> None:
        """Raise ClosedError where nothing can be called any more."""
        if not self.pool.closed and os.getpid() == self._pid:
            return
        facts = call.facts() if call else None
        if os.getpid() == self._pid:
            raise ClosedError("the client is closed", facts)
        raise ClosedError(
            f"the client was made in process {self._pid} and does not survive a fork; make one in this process", facts
        )

    async def spec(self, call: Call) -> ModelSpec:
        """What the call's model takes, asked of the server once."""
        return (await self._spec(call))[0]

    async def current_spec(self, call: Call) -> ModelSpec:
        """What the call's model is at this moment, asked of the server each time."""
        answer = await self.caller.ask(
            "ModelConfig", pb.ModelConfigRequest(name=call.model, version=call.version), call
        )
        spec = ModelSpec.from_config(answer.config)
        self._specs[call.model, call.version] = spec, time.monotonic()
        return spec

    async def _spec(self, call: Call) -> tuple[ModelSpec, bool]:
        known = self._specs.get((call.model, call.version)) or await self._ask_spec(call)
        return known[0], time.monotonic() - known[1] < _FRESH_SPEC_SECONDS

    async def _ask_spec(self, call: Call) -> tuple[ModelSpec, float]:
        """Ask the server; of calls that need it at the same time one asks and the others wait for it."""
        model, own = (call.model, call.version), Future[None]()
        asked = self._asked.setdefault(model, own)
        try:
            if asked is not own:
                await self.runtime.first_done([asked], call.remaining_s())
            # There by now, unless asking failed: then each asks for itself, for its deadline and its error are its own.
            if (known := self._specs.get(model)) is None:
                known = await self.current_spec(call), time.monotonic()
            return known
        finally:
            if asked is own:
                del self._asked[model]
                own.set_result(None)

    async def with_spec(self, call: Call, make: Callable[[ModelSpec], T]) -> T:
        """``make`` something of the model's description; what is refused for an old one is tried with a fresh one,
        because the model may have been replaced meanwhile."""
        spec, fresh = await self._spec(call)
        try:
            try:
                return make(spec)
            except InvalidRequestError:
                if fresh:
                    raise
            self.forget_spec(call.model)
            return make(await self.spec(call))
        except InvalidRequestError as error:
            error.add_facts(call.facts())
            raise

    def forget_spec(self, model: str) -> None:
        """Ask the server again at the next call of the model."""
        self._specs = {key: value for key, value in self._specs.items() if key[0] != model}

    async def control(self, replica: Replica, method: str, request: Message, call: Call) -> Message:
        """Make a call that may need the admin key, on one replica.

        Raises:
            WireError: it failed.
        """
        key = self._options.admin_key
        call.endpoint, call.proxy = replica.endpoint.address, replica.proxy
        if call.remaining_s() <= 0:
            raise call.deadline_error()
        metadata = (*call.metadata, (replica.endpoint.admin_header, key)) if key else call.metadata
        return await replica.wire.call(method, request, call.remaining_s(), metadata)

    async def control_all(self, method: str, request: Message, call: Call) -> None:
        """The same on every replica in turn, stopping at the first that fails."""
        for replica in self.pool.replicas:
            try:
                await self.control(replica, method, request, call)
            except WireError as failure:
                self.check_open(call)
                raise ServerFaultError(failure.status, failure.message, call.facts()) from None

    async def close(self) -> None:
        """Cancel what is in flight; in a forked child nothing, for the connections are the parent's."""
        if os.getpid() == self._pid:
            await self.pool.close()

    async def _probe_request(self) -> Message | None:
        """The inference that tells whether a replica works; None: ask for its readiness."""
        health = self._options.health
        if health.probe_model is not None and self._probe is None:
            spec = await self.spec(self.begin(health.probe_model, None, health.probe_deadline_ms))
            self._probe = build(spec, health.probe_inputs, request_id="probe")[0]
        return self._probe


def _trace_headers() -> Metadata:
    """W3C trace context of the current span, where the application uses OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())
