"""The replicas of a client: which one gets the next request, and which is sick."""

from __future__ import annotations

import logging
import math
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Collection, Sequence

from trireme_client._protos import Message, pb
from trireme_client.endpoint import Endpoint
from trireme_client.errors import ClosedError
from trireme_client.policy import HealthPolicy
from trireme_client.wire import Pending, Repeating, Runtime, Wire, WireError, WireOptions

log = logging.getLogger("trireme_client")

# A replica whose probe is well while a model on it is dead rests this long at first, doubling to the longest.
_REST_SECONDS = 1.0
_LONGEST_REST_SECONDS = 30.0
# Of a replica's even share of what is in flight: more of one affinity key goes elsewhere.
_MOST_LOAD = 1.25

ProbeRequest = Callable[[], Awaitable[Message | None]]


class Replica:
    """One server and what is known of it.

    Attributes:
        proven: the present connection has carried an answer, so a failure after it may have reached the server.
        healthy: it gets requests.
        outstanding: requests in flight.
        proxy: the variable of the environment that names the proxy on the way to it.
        regions: names of shared memory regions registered with it.
    """

    def __init__(self, endpoint: Endpoint, wire: Wire) -> None:
        self.endpoint, self.wire, self.proxy = endpoint, wire, endpoint.proxy_variable
        self.proven = False
        self.healthy = True
        self.outstanding = 0
        self.regions: set[str] = set()
        self._last_pick = 0
        self._failed_probes = 0
        self._rests = 0
        self._rest_until = 0.0


class Pool:
    """Chooses replicas and watches them. Every method may be called from any thread."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        zone: str,
        health: HealthPolicy,
        runtime: Runtime,
        options: WireOptions,
        probe_request: ProbeRequest,
    ) -> None:
        self._endpoints, self._zone, self._health = tuple(endpoints), zone, health
        self._runtime, self._options, self._probe_request = runtime, options, probe_request
        self._replicas: list[Replica] = []
        self._picks = 0
        self._resolved: dict[Endpoint, list[Endpoint]] = {}
        self._resolve_at = 0.0
        self._leaving: list[Replica] = []
        self._watch: Repeating | None = None
        self._lock = threading.Lock()
        self.closed = False

    def start(self) -> None:
        """Make the connections, at the first call: asyncio's belong to the loop that runs by then."""
        if self._replicas:
            return
        with self._lock:
            if self._replicas or self.closed:
                return
            self._replicas = [self._connect(endpoint) for endpoint in self._endpoints]
        if len(self._endpoints) > 1 or any(endpoint.is_name for endpoint in self._endpoints):
            self.watch()

    def watch(self) -> None:
        """Probe the replicas from now on."""
        with self._lock:
            if self._watch is None and not self.closed:
                self._watch = self._runtime.repeat(self._step, self._health.interval_ms / 1000)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return tuple(self._replicas)

    def pick(self, avoid: Collection[Replica] = (), sequence: str = "", affinity_key: str = "") -> Replica:
        """The replica for the next request, counted as in flight until ``release``.

        Healthy ones before sick ones, not yet tried before tried, own zone before others; of these the one with the
        fewest requests in flight, then the one not chosen for longest. A sequence stays with one replica; an affinity
        key with one that is not overloaded.
        """
        with self._lock:
            if self.closed:
                raise ClosedError("the client is closed")
            pool = self._replicas
            if len(pool) > 1:
                pool = [r for r in pool if r.healthy] or pool
                if sequence:
                    pool = _ranked(pool, sequence)[:1]
                pool = [r for r in pool if r not in avoid] or pool
                pool = [r for r in pool if r.endpoint.zone == self._zone] or pool
                if affinity_key:
                    # Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, SODA 2018).
                    most = math.ceil(_MOST_LOAD * (sum(r.outstanding for r in pool) + 1) / len(pool))
                    pool = [r for r in _ranked(pool, affinity_key) if r.outstanding < most][:1]
            replica = min(pool, key=lambda r: (r.outstanding, r._last_pick))
            self._picks += 1
            replica._last_pick = self._picks
            replica.outstanding += 1
            return replica

    def has_other(self, avoid: Collection[Replica]) -> bool:
        """Whether a healthy replica has not been tried."""
        return any(r.healthy and r not in avoid for r in self._replicas)

    def hold(self, replica: Replica) -> None:
        """Count one more request in flight."""
        with self._lock:
            replica.outstanding += 1

    def release(self, replica: Replica) -> None:
        with self._lock:
            replica.outstanding -= 1

    def answered(self, replica: Replica) -> None:
        """Note that a request was answered, be it one sent for lack of healthy replicas."""
        replica.proven = True
        if not replica.healthy and time.monotonic() >= replica._rest_until:
            replica.healthy = True

    def unreachable(self, replica: Replica) -> None:
        """Note that the connection failed: no requests until a probe is answered."""
        replica.proven = False
        self._eject(replica, "it cannot be reached")

    def sick(self, replica: Replica) -> None:
        """Note that a model's process on it is dead, which probes of the server do not see: let it rest a while."""
        replica._rests += 1
        rest_s = min(_LONGEST_REST_SECONDS, _REST_SECONDS * 2 ** (replica._rests - 1))
        replica._rest_until = time.monotonic() + rest_s
        self._eject(replica, f"a model on it is dead; next try in {rest_s:g} s")

    def _eject(self, replica: Replica, reason: str) -> None:
        if replica.healthy and len(self._replicas) > 1:
            replica.healthy = False
            log.info("replica %s gets no requests: %s", replica.endpoint.address, reason)

    def _connect(self, endpoint: Endpoint) -> Replica:
        return Replica(endpoint, self._runtime.connect(endpoint, self._options))

    async def _step(self) -> None:
        """Look names up again and probe every replica, all at once."""
        try:
            if time.monotonic() >= self._resolve_at:
                self._resolve_at = time.monotonic() + self._health.resolve_ms / 1000
                await self._resolve()
            await self._close_left()
            request = await self._probe_request()
            method = "ServerReady" if request is None else "ModelInfer"
            request = request or pb.ServerReadyRequest()
            timeout_s = self._health.probe_deadline_ms / 1000
            started: list[tuple[Replica, Wire, Pending]] = []
            for replica in self.replicas:
                try:
                    pending = replica.wire.start(method, request, timeout_s, ())
                except WireError:
                    continue  # its wire is being replaced
                started.append((replica, replica.wire, pending))
            for replica, wire, pending in started:
                await self._note_probe(replica, wire, pending)
        except Exception:
            # Whatever goes wrong once must not end the watching for ever.
            if not self.closed:
                log.warning("probing the replicas failed", exc_info=True)

    async def _note_probe(self, replica: Replica, wire: Wire, pending: Pending) -> None:
        try:
            answer = await wire.result(pending)
            well = getattr(answer, "ready", True)
        except WireError as error:
            log.debug("probe of %s: %s", replica.endpoint.address, error)
            well = False
        if self.closed or wire is not replica.wire:
            return
        if well:
            replica._failed_probes = 0
            replica.proven = True
            if not replica.healthy and time.monotonic() >= replica._rest_until:
                replica.healthy = True
                log.info("replica %s gets requests again", replica.endpoint.address)
            return
        replica._failed_probes += 1
        if replica._failed_probes % self._health.eject_after == 0:
            self._eject(replica, "its probes fail")
            await self._renew(replica)

    async def _renew(self, replica: Replica) -> None:
        """Give up all that is in flight on a replica, for it would hang until its deadline, and connect anew."""
        old, replica.wire = replica.wire, self._runtime.connect(replica.endpoint, self._options)
        replica.proven = False
        replica.regions.clear()
        await old.close()

    async def _resolve(self) -> None:
        """Follow host names: a replica for each IP. A look-up that fails changes nothing."""
        for endpoint in self._endpoints:
            ips = await self._runtime.resolve(endpoint.host, endpoint.port) if endpoint.is_name else []
            if ips:
                self._resolved[endpoint] = [endpoint.at(ip) for ip in ips]
        wanted = list(dict.fromkeys(found for e in self._endpoints for found in self._resolved.get(e, [e])))
        with self._lock:
            known = {replica.endpoint: replica for replica in self._replicas}
            if self.closed or known.keys() == set(wanted):
                return
            self._replicas = [known.get(endpoint) or self._connect(endpoint) for endpoint in wanted]
            self._leaving += [replica for endpoint, replica in known.items() if endpoint not in wanted]
        log.info("replicas are now %s", ", ".join(replica.endpoint.address for replica in self._replicas))

    async def _close_left(self) -> None:
        """Close replicas that left their name once their last request has ended."""
        for replica in [r for r in self._leaving if r.outstanding == 0]:
            self._leaving.remove(replica)
            await replica.wire.close()

    async def close(self) -> None:
        """Stop watching and cancel all that is in flight."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            watch = self._watch
        for replica in (*self._replicas, *self._leaving):
            await replica.wire.close()
        if watch is not None:
            await watch.stop()


def _ranked(replicas: Sequence[Replica], key: str) -> list[Replica]:
    """Rendezvous hashing (Thaler and Ravishankar, 1998): when a replica leaves, only the keys it had first move."""
    return sorted(replicas, key=lambda r: zlib.crc32(f"{key}@{r.endpoint.target}".encode()), reverse=True)
