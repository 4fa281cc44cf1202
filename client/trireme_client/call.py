"""One call: its deadline, its attempts, and what they end in."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from trireme_client._protos import Message, pb
from trireme_client.budget import Budget, Latencies
from trireme_client.errors import (
    CallFacts,
    ClientError,
    ClosedError,
    DeadlineError,
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
from trireme_client.policy import HedgePolicy, RetryPolicy
from trireme_client.pool import Pool, Replica
from trireme_client.verdict import Verdict, judge
from trireme_client.wire import Metadata, Pending, Runtime, Wire, WireError, WireStream

T = TypeVar("T")

# Below this nothing can be sent and answered any more.
_LEAST_SECONDS = 0.0005
# What can be told apart while another replica waits: a server that takes longer to greet is passed over.
_GREETING_SECONDS = 1.0
# A request that was lost with a process may have ended it: it is sent to one more, counted together with Envoy.
_MOST_LOST = 2
_LOST_HEADER = "x-trireme-lost"


@dataclass(slots=True)
class Call:
    """The state of one call of the caller's, whatever it is split into.

    Attributes:
        deadline_ms: the one budget, from here to the return.
        metadata: sent with every request of it.
        sequence: a stateful model's; such a request is never sent twice, nor to another replica.
        affinity_key: calls of one key go to one replica, unless that is overloaded.
        repeatable: whether a lost request may be sent again and a slow one hedged.
        sent: whether a server has or may have executed some of it.
        in_flight: attempts that have no answer yet; several where a split call's parts run at once.
    """

    deadline_ms: float
    model: str = ""
    version: str = ""
    request_id: str = ""
    metadata: Metadata = ()
    sequence: str = ""
    affinity_key: str = ""
    repeatable: bool = True
    hedgeable: bool = True
    began: float = field(default_factory=time.monotonic)
    attempts: int = 0
    endpoint: str = ""
    proxy: str = ""
    sent: bool = False
    in_flight: int = 0

    def remaining_s(self) -> float:
        return self.began + self.deadline_ms / 1000 - time.monotonic()

    def facts(self) -> CallFacts:
        elapsed_ms = (time.monotonic() - self.began) * 1000
        return CallFacts(self.model, self.version, self.request_id, self.attempts, self.endpoint, elapsed_ms,
                         self.proxy)  # fmt: skip

    def deadline_error(self) -> DeadlineError:
        return DeadlineError(self.deadline_ms, sent=self.sent or self.in_flight > 0, facts=self.facts())


class Caller:
    """Makes calls on the replicas of a pool."""

    def __init__(self, pool: Pool, runtime: Runtime, retry: RetryPolicy, hedge: HedgePolicy | None) -> None:
        self._pool, self._runtime, self._retry, self._hedge = pool, runtime, retry, hedge
        self._retries = Budget(retry.budget_percent, retry.budget_floor)
        self._hedges = Budget(hedge.budget_percent if hedge else 0.0)
        self._latencies = Latencies(hedge.percentile, hedge.min_samples) if hedge else None

    async def infer(self, request: Message, call: Call, prepare: Callable[[Replica], Awaitable[None]]) -> Message:
        """Make one inference; ``prepare`` is awaited on the chosen replica first (shared memory).

        Raises:
            ClientError: as the tree in ``errors`` says.
        """

        async def attempt(replica: Replica, metadata: Metadata) -> Message:
            await prepare(replica)
            call.in_flight += 1
            try:
                return await self._send(replica, request, call, metadata)
            except WireError as error:
                if judge(error) is not Verdict.REGION_UNKNOWN or not replica.regions:
                    raise
            finally:
                call.in_flight -= 1
            # The server was restarted and knows no region any more: once again with what it is told now.
            replica.regions.clear()
            await prepare(replica)
            return await self._send(replica, request, call, metadata)

        if self._hedge is not None:
            self._hedges.earn()
        return await self._retried(call, attempt, inference=True)

    async def ask(self, method: str, request: Message, call: Call) -> Message:
        """Make a call that is no inference."""

        async def attempt(replica: Replica, metadata: Metadata) -> Message:
            return await replica.wire.call(method, request, self._timeout_s(call), metadata)

        return await self._retried(call, attempt, inference=False)

    async def open_stream(
        self, request: Message, call: Call, first_within_ms: float | None
    ) -> tuple[Replica, WireStream, Message | None]:
        """Begin a stream and wait for its first answer; until then it may be tried again.

        The replica counts as busy until the caller releases it.

        Raises:
            LateError: the first answer did not come in ``first_within_ms``.
        """
        late = False

        async def attempt(replica: Replica, metadata: Metadata) -> tuple[Replica, WireStream, Message | None]:
            self._stamp(request, call)
            stream = replica.wire.stream(request, call.remaining_s(), metadata)

            def give_up() -> None:
                nonlocal late
                late = True
                stream.cancel()

            timer = self._runtime.after(first_within_ms / 1000, give_up) if first_within_ms is not None else None
            try:
                first = await read_stream(stream)
            except BaseException:
                stream.cancel()
                if late:
                    raise LateError(f"no first answer came within {first_within_ms:g} ms", call.facts()) from None
                raise
            finally:
                if timer is not None:
                    timer.cancel()
            self._pool.hold(replica)
            return replica, stream, first

        self._pool.watch()
        return await self._retried(call, attempt, inference=True)

    async def _retried(self, call: Call, attempt: Callable[[Replica, Metadata], Awaitable[T]], *, inference: bool) -> T:
        """Run ``attempt`` on one replica after another, as far as that is safe and the retry policy allows."""
        self._retries.earn()
        tried: list[Replica] = []
        sends = waits = lost = 0
        while True:
            if call.remaining_s() < _LEAST_SECONDS:
                raise call.deadline_error()
            replica = self._pool.pick(tried, call.sequence, call.affinity_key)
            call.endpoint, call.proxy = replica.endpoint.address, replica.proxy
            wire, greeted = replica.wire, False
            tried.append(replica)
            try:
                if not replica.proven:
                    await self._greet(replica, call, hurry=self._pool.has_other(tried))
                greeted = True
                sends += 1
                answer = await attempt(replica, (*call.metadata, (_LOST_HEADER, str(lost))) if lost else call.metadata)
            except WireError as error:
                failure = error
            else:
                self._pool.answered(replica)
                return answer
            finally:
                self._pool.release(replica)
            if self._pool.closed:
                raise ClosedError("the client was closed during the call", call.facts())
            verdict = judge(failure)
            if wire is replica.wire:
                if verdict is Verdict.SICK:
                    self._pool.sick(replica)
                elif verdict in (Verdict.LOST, Verdict.STOPPING) or not greeted:
                    self._pool.unreachable(replica)
            if greeted and inference and verdict in (Verdict.LOST, Verdict.DEADLINE):
                call.sent = True
            if greeted and inference and verdict in (Verdict.LOST, Verdict.SICK):
                lost += 1
            elsewhere = not call.sequence and self._pool.has_other(tried)
            wait_s = 0.0 if elsewhere else self._backoff_s(waits)
            if (
                max(sends, waits + 1) >= self._retry.max_attempts
                or wait_s >= call.remaining_s()
                or lost >= _MOST_LOST
                or not self._may_repeat(verdict, call, greeted=greeted, elsewhere=elsewhere)
            ):
                raise await self.error(failure, call, greeted=greeted) from None
            if not elsewhere:
                waits += 1
                tried.clear()
                await self._runtime.sleep(wait_s)

    def _may_repeat(self, verdict: Verdict, call: Call, *, greeted: bool, elsewhere: bool) -> bool:
        """Whether to send again: always what was not executed; what may have been, only if it is repeatable."""
        if not greeted or verdict is Verdict.STOPPING:
            return True
        if verdict is Verdict.NOT_FOUND:
            return elsewhere
        if verdict in (Verdict.SICK, Verdict.QUEUE_FULL):
            return elsewhere and self._retries.spend()
        if verdict is Verdict.LOST or (verdict is Verdict.DEADLINE and self._retry.attempt_deadline_ms is not None):
            return call.repeatable and self._retries.spend()
        return False

    async def _greet(self, replica: Replica, call: Call, *, hurry: bool) -> None:
        """Prove the connection with a harmless call, so that no inference is lost on one that never stood."""
        timeout_s = min(call.remaining_s(), _GREETING_SECONDS) if hurry else call.remaining_s()
        try:
            await replica.wire.call("ServerLive", pb.ServerLiveRequest(), timeout_s, call.metadata)
        except WireError as error:
            if judge(error) in (Verdict.LOST, Verdict.DEADLINE):
                raise
        replica.proven = True

    async def _send(self, replica: Replica, request: Message, call: Call, metadata: Metadata) -> Message:
        if self._latencies is None:
            self._stamp(request, call)
            return await replica.wire.call("ModelInfer", request, self._timeout_s(call), metadata)
        delay_s = self._latencies.at_percentile(call.model) if call.hedgeable else None
        began = time.monotonic()
        if delay_s is None:
            self._stamp(request, call)
            answer = await replica.wire.call("ModelInfer", request, self._timeout_s(call), metadata)
        else:
            answer = await self._send_hedged(replica, request, call, metadata, delay_s)
        self._latencies.record(call.model, time.monotonic() - began)
        return answer

    async def _send_hedged(
        self, replica: Replica, request: Message, call: Call, metadata: Metadata, delay_s: float
    ) -> Message:
        """Send; after ``delay_s`` without an answer send again elsewhere; the first good answer wins."""
        assert self._hedge is not None
        racing: dict[Pending, Wire] = {}
        second: Replica | None = None
        try:
            racing[self._start(replica.wire, request, call, metadata)] = replica.wire
            await self._runtime.first_done(list(racing), max(delay_s, self._hedge.min_delay_ms / 1000))
            if not any(pending.done() for pending in racing) and self._hedges.spend():
                second = self._pool.pick([replica])
                if second.proven:
                    racing[self._start(second.wire, request, call, metadata)] = second.wire
            while True:
                if len(racing) > 1:
                    await self._runtime.first_done(list(racing), call.remaining_s())
                pending = next((one for one in racing if one.done()), next(iter(racing)))
                try:
                    return await racing[pending].result(pending)
                except WireError:
                    if len(racing) == 1:
                        raise
                    del racing[pending]
        finally:
            for pending in racing:
                pending.cancel()
            if second is not None:
                self._pool.release(second)

    def _start(self, wire: Wire, request: Message, call: Call, metadata: Metadata) -> Pending:
        self._stamp(request, call)
        return wire.start("ModelInfer", request, self._timeout_s(call), metadata)

    def _stamp(self, request: Message, call: Call) -> None:
        """Count an attempt and tell the server how long the request may wait in its queue, in microseconds."""
        call.attempts += 1
        request.parameters["timeout"].int64_param = max(1, int(call.remaining_s() * 1e6))

    def _timeout_s(self, call: Call) -> float:
        own_ms = self._retry.attempt_deadline_ms
        return call.remaining_s() if own_ms is None else min(call.remaining_s(), own_ms / 1000)

    def _backoff_s(self, waits: int) -> float:
        return random.uniform(0, min(self._retry.max_backoff_ms, self._retry.backoff_ms * 2**waits)) / 1000

    async def error(self, failure: WireError, call: Call, *, greeted: bool = True) -> ClientError:
        """The caller's error for a failure nothing more can be done about."""
        verdict, facts, message = judge(failure), call.facts(), failure.message
        if verdict is Verdict.DEADLINE:
            attempts_own = not greeted or self._retry.attempt_deadline_ms is not None
            if attempts_own and call.remaining_s() > _LEAST_SECONDS:
                return UnavailableError("the server did not answer within an attempt's deadline", facts)
            return call.deadline_error()
        if verdict is Verdict.NOT_FOUND:
            return ModelNotFoundError(call.model, call.version, await self._known_models(call), facts)
        if verdict is Verdict.QUEUE_TIMEOUT:
            return QueueTimeoutError(call.deadline_ms, facts)
        if verdict is Verdict.QUEUE_FULL:
            return OverloadedError(f"the server's queue is full: {message}", facts)
        if verdict in (Verdict.LOST, Verdict.STOPPING, Verdict.NOT_AGAIN):
            when = "while the request was in flight" if greeted else "before the request was sent"
            return UnavailableError(f"the server was lost {when}: {message}", facts)
        if verdict in (Verdict.INVALID, Verdict.REGION_UNKNOWN):
            return InvalidRequestError(f"the server refuses the request: {message}", facts)
        if verdict is Verdict.UNSUPPORTED:
            return UnsupportedError(f"the server refuses the request: {message}", facts)
        kind = ModelDiedError if verdict is Verdict.SICK else ServerFaultError
        return kind(failure.status, message, facts)

    async def _known_models(self, call: Call) -> list[str]:
        """Names of the models that are loaded, as far as the server tells before the deadline."""
        replica = self._pool.pick()
        try:
            statistics = await replica.wire.call(
                "ModelStatistics", pb.ModelStatisticsRequest(), max(_LEAST_SECONDS, call.remaining_s()), call.metadata
            )
        except WireError:
            return []
        finally:
            self._pool.release(replica)
        return sorted({model.name for model in statistics.model_stats})


async def read_stream(stream: WireStream) -> Message | None:
    """The stream's next ``ModelInferResponse``; None at its end.

    Raises:
        WireError: it failed. A failure within a stream comes as a sentence without a status; asking for statuses
            (``triton_grpc_error``) lets tritonserver 2.51 abort when such a stream is cancelled.
    """
    message = await stream.next()
    if message is None:
        return None
    if message.error_message:
        raise WireError("UNKNOWN", message.error_message)
    return message.infer_response
