"""Registers shared memory with servers and unregisters it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from trireme_client._protos import pb
from trireme_client.call import Call
from trireme_client.errors import ClientError
from trireme_client.pool import Replica
from trireme_client.request import Outputs
from trireme_client.sender import RequestSender
from trireme_client.shared_memory import SharedRegion, SharedTensor, owner_is_dead
from trireme_client.transport import StatusError

log = logging.getLogger("trireme_client")


def used_regions(inputs: Mapping[str, object], outputs: Outputs | None) -> list[SharedRegion]:
    """The regions that a call reads or writes."""
    shared = [value for value in inputs.values() if isinstance(value, SharedTensor)]
    if outputs is not None and isinstance(outputs, Mapping):
        shared += [value for value in outputs.values() if value is not None]
    if not shared:
        return []
    return list({tensor.region.name: tensor.region for tensor in shared}.values())


class RegionRegistry:
    """Registers regions with replicas; ``Replica.regions`` has the names that a replica knows."""

    def __init__(self, sender: RequestSender) -> None:
        self._sender = sender

    async def register(self, regions: Sequence[SharedRegion], call: Call, replica: Replica) -> None:
        """Ensure that a replica knows these regions.

        Raises:
            StatusError: the replica rejects a region.
            ClosedError: a region was closed.
        """
        for region in regions:
            region.buffer(0, 0)
            if region.name in replica.regions:
                continue
            await self._unregister_orphans(replica, call)
            request = pb.SystemSharedMemoryRegisterRequest(name=region.name, key=region.key, byte_size=region.byte_size)
            try:
                await self._sender.call_admin(replica, "SystemSharedMemoryRegister", request, call)
            except StatusError as failure:
                if failure.status != "ALREADY_EXISTS":  # another thread was first
                    raise
            replica.regions.add(region.name)

    async def _unregister_orphans(self, replica: Replica, call: Call) -> None:
        """Unregister the regions of clients that died: the server would keep their memory forever."""
        request = pb.SystemSharedMemoryStatusRequest()
        known = await self._sender.call_admin(replica, "SystemSharedMemoryStatus", request, call)
        for name in known.regions:
            # Check the file too: a pid is meaningless for a client in another container that shares /dev/shm.
            if owner_is_dead(name) and not Path("/dev/shm", name).exists():
                await self._unregister(name, call, replica)

    async def unregister(
        self, region: SharedRegion, replicas: Iterable[Replica], start_call: Callable[[], Call]
    ) -> None:
        """Unregister a region from the replicas that know it; an unreachable replica is dead, or unregisters it later
        as an orphan."""
        for replica in replicas:
            if region.name not in replica.regions:
                continue
            replica.regions.discard(region.name)
            try:
                await self._unregister(region.name, start_call(), replica)
            except (StatusError, ClientError) as error:
                log.debug("could not unregister %s: %s", region.name, error)

    async def _unregister(self, name: str, call: Call, replica: Replica) -> None:
        request = pb.SystemSharedMemoryUnregisterRequest(name=name)
        await self._sender.call_admin(replica, "SystemSharedMemoryUnregister", request, call)
