"""Sends requests to replicas, within the deadline and the policies."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from trireme_client._protos import Message, pb
from trireme_client.call import Call
from trireme_client.errors import (
    ClientError,
    ClosedError,
    InvalidRequestError,
    LateError,
    ModelDiedError,
    ModelNotFoundError,
    OverloadedError,
    QueueTimeoutError,
    ServerFaultError,
    UnavailableError,
    UnsupportedError,
)
from trireme_client.failure import FailureKind
from trireme_client.policy import Budget, HedgePolicy, Latencies, RetryPolicy
from trireme_client.pool import Pool, Replica
from trireme_client.transport import (
    Metadata,
    PendingCall,
    ResponseStream,
    Runtime,
    StatusError,
    Transport,
    next_response,
)

T = TypeVar("T")

# With less time left, no response can arrive.
_MIN_SECONDS = 0.0005
# Time to verify a connection while another replica is available: a slower server is skipped.
_VERIFICATION_SECONDS = 1.0
# A request that was lost with a process may have ended it: it is sent to one more, counting attempts of Envoy.
_MAX_LOST = 2
_LOST_HEADER = "x-trireme-lost"


class RequestSender:
    """Sends the requests of calls to the replicas of a pool, with retries and hedges.

    Args:
        admin_key: sent by ``call_admin`` only.
    """

    def __init__(
        self, pool: Pool, runtime: Runtime, retry: RetryPolicy, hedge: HedgePolicy | None, admin_key: str | None
    ) -> None:
        self._pool, self._runtime, self._retry, self._hedge = pool, runtime, retry, hedge
        self._admin_key = admin_key
        self._retries = Budget(retry.budget_percent, retry.budget_floor)
        self._hedges = Budget(hedge.budget_percent if hedge else 0.0)
        self._latencies = Latencies(hedge.percentile, hedge.min_samples) if hedge else None

    async def infer(self, request: Message, call: Call, prepare: Callable[[Replica], Awaitable[None]]) -> Message:
        """Send one inference; ``prepare`` is awaited on the chosen replica first (shared memory).

        Raises:
            ClientError: see ``errors``.
        """

        async def attempt(replica: Replica, metadata: Metadata) -> Message:
            await prepare(replica)
            call.in_flight += 1
            try:
                return await self._send(replica, request, call, metadata)
            except StatusError as error:
                if FailureKind.of(error) is not FailureKind.REGION_UNKNOWN or not replica.regions:
                    raise
            finally:
                call.in_flight -= 1
            # The server was restarted and has lost its regions: register them again.
            replica.regions.clear()
            await prepare(replica)
            return await self._send(replica, request, call, metadata)

        if self._hedge is not None:
            self._hedges.earn()
        response = await self._with_retries(call, attempt, inference=True)
        call.sent = True
        return response

    async def call(self, method: str, request: Message, call: Call) -> Message:
        """Call a method other than inference, on one replica."""

        async def attempt(replica: Replica, metadata: Metadata) -> Message:
            return await replica.transport.call(method, request, self._timeout_s(call), metadata)

        return await self._with_retries(call, attempt, inference=False)

    async def call_admin(self, replica: Replica, method: str, request: Message, call: Call) -> Message:
        """Call a method that may need the admin key, on this replica, once.

        Raises:
            StatusError: the call failed.
        """
        call.endpoint, call.proxy = replica.endpoint.address, replica.proxy
        if call.remaining_s() <= 0:
            raise call.deadline_error()
        key = self._admin_key
        metadata = (*call.metadata, (replica.endpoint.admin_header, key)) if key else call.metadata
        return await replica.transport.call(method, request, call.remaining_s(), metadata)

    async def call_admin_everywhere(self, method: str, request: Message, call: Call) -> None:
        """``call_admin`` on every replica in turn, up to the first that fails.

        Raises:
            ServerFaultError: a replica failed.
        """
        for replica in self._pool.replicas:
            try:
                await self.call_admin(replica, method, request, call)
            except StatusError as failure:
                self._pool.check_open(call)
                raise ServerFaultError(failure.status, failure.message, call.facts()) from None

    async def stream(
        self, request: Message, call: Call, first_within_ms: float | None
    ) -> AsyncGenerator[Message, None]:
        """Send one inference to a decoupled model and yield its responses; it may be retried until the first response.

        Raises:
            LateError: the first response did not arrive within ``first_within_ms``.
        """

        async def attempt(replica: Replica, metadata: Metadata) -> tuple[Replica, ResponseStream, Message | None]:
            self._begin_attempt(request, call)
            stream = replica.transport.stream(request, call.remaining_s(), metadata)
            late = False

            def cancel_late() -> None:
                nonlocal late
                late = True
                stream.cancel()

            timer = (
                self._runtime.call_later(first_within_ms / 1000, cancel_late) if first_within_ms is not None else None
            )
            try:
                first = await next_response(stream)
            except BaseException:
                stream.cancel()
                if late:
                    raise LateError(f"no response arrived within {first_within_ms:g} ms", call.facts()) from None
                raise
            finally:
                if timer is not None:
                    timer.cancel()
            self._pool.retain(replica)
            return replica, stream, first

        request.parameters["triton_enable_empty_final_response"].bool_param = True
        self._pool.start_probing()
        replica, stream, response = await self._with_retries(call, attempt, inference=True)
        try:
            while response is not None:
                call.sent = True
                yield response
                try:
                    response = await next_response(stream)
                except StatusError as failure:
                    self._pool.check_open(call)
                    raise await self._client_error(failure, call) from None
        finally:
            stream.cancel()
            self._pool.release(replica)

    async def _with_retries(
        self, call: Call, attempt: Callable[[Replica, Metadata], Awaitable[T]], *, inference: bool
    ) -> T:
        """Run ``attempt`` on one replica after another while that is safe and the retry policy allows it."""
        self._retries.earn()
        tried: list[Replica] = []
        sequence_id = str(call.sequence.id) if call.sequence else ""
        sends = waits = lost = 0
        while True:
            if call.remaining_s() < _MIN_SECONDS:
                raise call.deadline_error()
            replica = self._pool.pick(tried, sequence_id, call.affinity_key)
            call.endpoint, call.proxy = replica.endpoint.address, replica.proxy
            transport, verified = replica.transport, False
            tried.append(replica)
            try:
                if not replica.verified:
                    await self._verify(replica, call, hurry=self._pool.has_untried(tried))
                verified = True
                sends += 1
                response = await attempt(
                    replica, (*call.metadata, (_LOST_HEADER, str(lost))) if lost else call.metadata
                )
            except StatusError as error:
                failure = error
            else:
                self._pool.record_response(replica)
                return response
            finally:
                self._pool.release(replica)
            if self._pool.closed:
                raise ClosedError("the client was closed during the call", call.facts())
            kind = FailureKind.of(failure)
            if transport is replica.transport:
                if kind is FailureKind.MODEL_DEAD:
                    self._pool.record_dead_model(replica)
                elif kind in (FailureKind.CONNECTION_LOST, FailureKind.SERVER_STOPPING) or not verified:
                    self._pool.record_unreachable(replica)
            if verified and inference and kind in (FailureKind.CONNECTION_LOST, FailureKind.DEADLINE):
                call.sent = True
            if verified and inference and kind in (FailureKind.CONNECTION_LOST, FailureKind.MODEL_DEAD):
                lost += 1
            elsewhere = call.sequence is None and self._pool.has_untried(tried)
            wait_s = 0.0 if elsewhere else self._backoff_s(waits)
            if (
                max(sends, waits + 1) >= self._retry.max_attempts
                or wait_s >= call.remaining_s()
                or lost >= _MAX_LOST
                or not self._may_retry(kind, call, verified=verified, elsewhere=elsewhere)
            ):
                raise await self._client_error(failure, call, verified=verified) from None
            if not elsewhere:
                waits += 1
                tried.clear()
                await self._runtime.sleep(wait_s)

    def _may_retry(self, kind: FailureKind, call: Call, *, verified: bool, elsewhere: bool) -> bool:
        """Whether to send again: always if it was not executed; if it may have been, only outside a sequence."""
        if not verified or kind is FailureKind.SERVER_STOPPING:
            return True
        if kind is FailureKind.NOT_FOUND:
            return elsewhere
        if kind in (FailureKind.MODEL_DEAD, FailureKind.QUEUE_FULL):
            return elsewhere and self._retries.spend()
        if kind is FailureKind.CONNECTION_LOST or (
            kind is FailureKind.DEADLINE and self._retry.attempt_deadline_ms is not None
        ):
            return call.sequence is None and self._retries.spend()
        return False

    async def _verify(self, replica: Replica, call: Call, *, hurry: bool) -> None:
        """Verify the connection with a harmless call, so that no inference is lost on a dead connection."""
        timeout_s = min(call.remaining_s(), _VERIFICATION_SECONDS) if hurry else call.remaining_s()
        try:
            await replica.transport.call("ServerLive", pb.ServerLiveRequest(), timeout_s, call.metadata)
        except StatusError as error:
            if FailureKind.of(error) in (FailureKind.CONNECTION_LOST, FailureKind.DEADLINE):
                raise
        replica.verified = True

    async def _send(self, replica: Replica, request: Message, call: Call, metadata: Metadata) -> Message:
        if self._latencies is None:
            self._begin_attempt(request, call)
            return await replica.transport.call("ModelInfer", request, self._timeout_s(call), metadata)
        delay_s = self._latencies.at_percentile(call.model) if call.hedgeable else None
        started_at = time.monotonic()
        if delay_s is None:
            self._begin_attempt(request, call)
            response = await replica.transport.call("ModelInfer", request, self._timeout_s(call), metadata)
        else:
            response = await self._send_hedged(replica, request, call, metadata, delay_s)
        self._latencies.record(call.model, time.monotonic() - started_at)
        return response

    async def _send_hedged(
        self, replica: Replica, request: Message, call: Call, metadata: Metadata, delay_s: float
    ) -> Message:
        """Send; after ``delay_s`` without a response send again elsewhere; the first good response wins."""
        assert self._hedge is not None
        racing: dict[PendingCall, Transport] = {}
        second: Replica | None = None
        try:
            racing[self._start(replica.transport, request, call, metadata)] = replica.transport
            await self._runtime.wait_for_any(list(racing), max(delay_s, self._hedge.min_delay_ms / 1000))
            if not any(pending.done() for pending in racing) and self._hedges.spend():
                second = self._pool.pick([replica])
                if second.verified:
                    racing[self._start(second.transport, request, call, metadata)] = second.transport
            while True:
                if len(racing) > 1:
                    await self._runtime.wait_for_any(list(racing), call.remaining_s())
                pending = next((one for one in racing if one.done()), next(iter(racing)))
                try:
                    return await racing[pending].result(pending)
                except StatusError:
                    if len(racing) == 1:
                        raise
                    del racing[pending]
        finally:
            for pending in racing:
                pending.cancel()
            if second is not None:
                self._pool.release(second)

    def _start(self, transport: Transport, request: Message, call: Call, metadata: Metadata) -> PendingCall:
        self._begin_attempt(request, call)
        return transport.start("ModelInfer", request, self._timeout_s(call), metadata)

    def _begin_attempt(self, request: Message, call: Call) -> None:
        """Count an attempt and set its timeout in the server's queue, in microseconds."""
        call.attempts += 1
        request.parameters["timeout"].int64_param = max(1, int(call.remaining_s() * 1e6))

    def _timeout_s(self, call: Call) -> float:
        own_ms = self._retry.attempt_deadline_ms
        return call.remaining_s() if own_ms is None else min(call.remaining_s(), own_ms / 1000)

    def _backoff_s(self, waits: int) -> float:
        return random.uniform(0, min(self._retry.max_backoff_ms, self._retry.backoff_ms * 2**waits)) / 1000

    async def _client_error(self, failure: StatusError, call: Call, *, verified: bool = True) -> ClientError:
        """The caller's error for a failure that is not retried."""
        kind, facts, message = FailureKind.of(failure), call.facts(), failure.message
        if kind is FailureKind.DEADLINE:
            attempts_own = not verified or self._retry.attempt_deadline_ms is not None
            if attempts_own and call.remaining_s() > _MIN_SECONDS:
                return UnavailableError("the server did not respond within an attempt's deadline", facts)
            return call.deadline_error()
        if kind is FailureKind.NOT_FOUND:
            return ModelNotFoundError(call.model, call.version, await self._loaded_models(call), facts)
        if kind is FailureKind.QUEUE_TIMEOUT:
            return QueueTimeoutError(call.deadline_ms, facts)
        if kind is FailureKind.QUEUE_FULL:
            return OverloadedError(f"the server's queue is full: {message}", facts)
        if kind in (FailureKind.CONNECTION_LOST, FailureKind.SERVER_STOPPING, FailureKind.NOT_RETRYABLE):
            when = "while the request was in flight" if verified else "before the request was sent"
            return UnavailableError(f"the server was lost {when}: {message}", facts)
        if kind in (FailureKind.INVALID, FailureKind.REGION_UNKNOWN):
            return InvalidRequestError(f"the server rejected the request: {message}", facts)
        if kind is FailureKind.UNSUPPORTED:
            return UnsupportedError(f"the server rejected the request: {message}", facts)
        error = ModelDiedError if kind is FailureKind.MODEL_DEAD else ServerFaultError
        return error(failure.status, message, facts)

    async def _loaded_models(self, call: Call) -> list[str]:
        """Names of the loaded models; empty if no server responds before the deadline."""
        replica = self._pool.pick()
        try:
            statistics = await replica.transport.call(
                "ModelStatistics", pb.ModelStatisticsRequest(), max(_MIN_SECONDS, call.remaining_s()), call.metadata
            )
        except StatusError:
            return []
        finally:
            self._pool.release(replica)
        return sorted({model.name for model in statistics.model_stats})
