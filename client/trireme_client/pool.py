"""The replicas of a client: chooses one for the next request and tracks their health."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Collection, Sequence

from trireme_client._protos import Message, pb
from trireme_client.call import Call
from trireme_client.endpoint import Endpoint
from trireme_client.errors import ClosedError
from trireme_client.policy import HealthPolicy
from trireme_client.transport import PendingCall, PeriodicTask, Runtime, StatusError, Transport, TransportOptions

log = logging.getLogger("trireme_client")

# A replica whose probes succeed while a model on it is dead is ejected for this long, doubling up to the maximum.
_EJECTION_SECONDS = 1.0
_MAX_EJECTION_SECONDS = 30.0
# Multiple of a replica's even share of pending requests above which an affinity key moves to another replica.
_LOAD_FACTOR = 1.25

ProbeRequest = Callable[[], Awaitable[Message | None]]


class Replica:
    """One server and its state.

    Attributes:
        verified: this connection has carried a response, so a failure after it may have reached the server.
        healthy: it receives requests.
        outstanding: requests in flight.
        proxy: the environment variable that names the proxy to it.
        regions: names of shared memory regions registered with it.
    """

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        self.endpoint, self.transport, self.proxy = endpoint, transport, endpoint.proxy_variable
        self.verified = False
        self.healthy = True
        self.outstanding = 0
        self.regions: set[str] = set()
        self._last_pick = 0
        self._failed_probes = 0
        self._ejections = 0
        self._ejected_until = 0.0


class Pool:
    """Chooses and probes replicas. Every method may be called from any thread."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        zone: str,
        health: HealthPolicy,
        runtime: Runtime,
        options: TransportOptions,
        probe_request: ProbeRequest,
    ) -> None:
        self._endpoints, self._zone, self._health = tuple(endpoints), zone, health
        self._runtime, self._options, self._probe_request = runtime, options, probe_request
        self._replicas: list[Replica] = []
        self._picks = 0
        self._resolved: dict[Endpoint, list[Endpoint]] = {}
        self._resolve_at = 0.0
        self._draining: list[Replica] = []
        self._prober: PeriodicTask | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self.closed = False

    def start(self) -> None:
        """Connect at the first call: asyncio connections belong to the event loop running then."""
        if self._replicas:
            return
        with self._lock:
            if self._replicas or self.closed:
                return
            self._replicas = [self._connect(endpoint) for endpoint in self._endpoints]
        if len(self._endpoints) > 1 or any(endpoint.is_hostname for endpoint in self._endpoints):
            self.start_probing()

    def check_open(self, call: Call | None = None) -> None:
        """Raise ClosedError if the connections are closed or belong to this process's parent."""
        if self.belongs_here and not self.closed:
            return
        facts = call.facts() if call else None
        if self.belongs_here:
            raise ClosedError("the client is closed", facts)
        raise ClosedError(
            f"the client was created in process {self._pid} and does not survive a fork; create one in this process",
            facts,
        )

    @property
    def belongs_here(self) -> bool:
        """Whether it was created in this process."""
        return os.getpid() == self._pid

    def start_probing(self) -> None:
        with self._lock:
            if self._prober is None and not self.closed:
                self._prober = self._runtime.run_periodically(self._check_replicas, self._health.interval_ms / 1000)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return tuple(self._replicas)

    def pick(self, avoid: Collection[Replica] = (), sequence: str = "", affinity_key: str = "") -> Replica:
        """The replica for the next request, counted as in flight until ``release``.

        Order: healthy before unhealthy, untried before tried, own zone before others; then the fewest requests in
        flight, then the longest time since it was chosen. A sequence stays with one replica; an affinity key with one
        that is not overloaded.
        """
        with self._lock:
            self.check_open()
            candidates = self._replicas
            if len(candidates) > 1:
                candidates = [r for r in candidates if r.healthy] or candidates
                if sequence:
                    candidates = _ranked(candidates, sequence)[:1]
                candidates = [r for r in candidates if r not in avoid] or candidates
                candidates = [r for r in candidates if r.endpoint.zone == self._zone] or candidates
                if affinity_key:
                    # Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, SODA 2018).
                    limit = math.ceil(_LOAD_FACTOR * (sum(r.outstanding for r in candidates) + 1) / len(candidates))
                    candidates = [r for r in _ranked(candidates, affinity_key) if r.outstanding < limit][:1]
            replica = min(candidates, key=lambda r: (r.outstanding, r._last_pick))
            self._picks += 1
            replica._last_pick = self._picks
            replica.outstanding += 1
            return replica

    def has_untried(self, tried: Collection[Replica]) -> bool:
        """Whether a healthy replica has not been tried."""
        return any(r.healthy and r not in tried for r in self._replicas)

    def retain(self, replica: Replica) -> None:
        """Count one more request in flight."""
        with self._lock:
            replica.outstanding += 1

    def release(self, replica: Replica) -> None:
        with self._lock:
            replica.outstanding -= 1

    def record_response(self, replica: Replica) -> None:
        """A response arrived, also for a request sent for lack of healthy replicas."""
        replica.verified = True
        if not replica.healthy and time.monotonic() >= replica._ejected_until:
            replica.healthy = True

    def record_unreachable(self, replica: Replica) -> None:
        """The connection failed: no requests until a probe succeeds."""
        replica.verified = False
        self._eject(replica, "it cannot be reached")

    def record_dead_model(self, replica: Replica) -> None:
        """A model's process on it is dead, which probes of the server do not detect: no requests for a while."""
        replica._ejections += 1
        ejection_s = min(_MAX_EJECTION_SECONDS, _EJECTION_SECONDS * 2 ** (replica._ejections - 1))
        replica._ejected_until = time.monotonic() + ejection_s
        self._eject(replica, f"a model on it is dead; next attempt in {ejection_s:g} s")

    def _eject(self, replica: Replica, reason: str) -> None:
        if replica.healthy and len(self._replicas) > 1:
            replica.healthy = False
            log.info("replica %s gets no requests: %s", replica.endpoint.address, reason)

    def _connect(self, endpoint: Endpoint) -> Replica:
        return Replica(endpoint, self._runtime.connect(endpoint, self._options))

    async def _check_replicas(self) -> None:
        """Resolve host names again and probe every replica, all at once."""
        try:
            if time.monotonic() >= self._resolve_at:
                self._resolve_at = time.monotonic() + self._health.resolve_ms / 1000
                await self._resolve()
            await self._close_drained()
            request = await self._probe_request()
            method = "ServerReady" if request is None else "ModelInfer"
            request = request or pb.ServerReadyRequest()
            timeout_s = self._health.probe_deadline_ms / 1000
            started: list[tuple[Replica, Transport, PendingCall]] = []
            for replica in self.replicas:
                try:
                    pending = replica.transport.start(method, request, timeout_s, ())
                except StatusError:
                    continue  # its transport is being replaced
                started.append((replica, replica.transport, pending))
            for replica, transport, pending in started:
                await self._record_probe(replica, transport, pending)
        except Exception:
            # One failed round must not end the probing.
            if not self.closed:
                log.warning("probing the replicas failed", exc_info=True)

    async def _record_probe(self, replica: Replica, transport: Transport, pending: PendingCall) -> None:
        try:
            succeeded = getattr(await transport.result(pending), "ready", True)
        except StatusError as error:
            log.debug("probe of %s: %s", replica.endpoint.address, error)
            succeeded = False
        if self.closed or transport is not replica.transport:
            return
        if succeeded:
            replica._failed_probes = 0
            replica.verified = True
            if not replica.healthy and time.monotonic() >= replica._ejected_until:
                replica.healthy = True
                log.info("replica %s gets requests again", replica.endpoint.address)
            return
        replica._failed_probes += 1
        if replica._failed_probes % self._health.eject_after == 0:
            self._eject(replica, "its probes fail")
            await self._reconnect(replica)

    async def _reconnect(self, replica: Replica) -> None:
        """Cancel all pending requests of a replica, which would hang until their deadline, and connect again."""
        old, replica.transport = replica.transport, self._runtime.connect(replica.endpoint, self._options)
        replica.verified = False
        replica.regions.clear()
        await old.close()

    async def _resolve(self) -> None:
        """Update the replicas from host names, one per IP. A failed lookup changes nothing."""
        for endpoint in self._endpoints:
            ips = await self._runtime.resolve(endpoint.host, endpoint.port) if endpoint.is_hostname else []
            if ips:
                self._resolved[endpoint] = [endpoint.at(ip) for ip in ips]
        wanted = list(dict.fromkeys(found for e in self._endpoints for found in self._resolved.get(e, [e])))
        with self._lock:
            known = {replica.endpoint: replica for replica in self._replicas}
            if self.closed or known.keys() == set(wanted):
                return
            self._replicas = [known.get(endpoint) or self._connect(endpoint) for endpoint in wanted]
            self._draining += [replica for endpoint, replica in known.items() if endpoint not in wanted]
        log.info("replicas are now %s", ", ".join(replica.endpoint.address for replica in self._replicas))

    async def _close_drained(self) -> None:
        """Close replicas that their host name no longer lists, once their last request has ended."""
        for replica in [r for r in self._draining if r.outstanding == 0]:
            self._draining.remove(replica)
            await replica.transport.close()

    async def close(self) -> None:
        """Stop probing and cancel all pending requests; does nothing in another process."""
        if not self.belongs_here:
            return
        with self._lock:
            if self.closed:
                return
            self.closed = True
            prober = self._prober
        for replica in (*self._replicas, *self._draining):
            await replica.transport.close()
        if prober is not None:
            await prober.stop()


def _ranked(replicas: Sequence[Replica], key: str) -> list[Replica]:
    """Rendezvous hashing (Thaler and Ravishankar, 1998): if a replica leaves, only the keys it had first move."""
    return sorted(replicas, key=lambda r: zlib.crc32(f"{key}@{r.endpoint.target}".encode()), reverse=True)
