"""Telling servers about shared memory, and to forget it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from trireme_client._protos import pb
from trireme_client.call import Call
from trireme_client.errors import ClientError
from trireme_client.pool import Replica
from trireme_client.request import Outputs
from trireme_client.session import Session
from trireme_client.shared_memory import SharedRegion, SharedTensor, owner_is_dead
from trireme_client.wire import WireError

log = logging.getLogger("trireme_client")

_FORGET_DEADLINE_MS = 1000.0


def used_regions(inputs: Mapping[str, object], outputs: Outputs | None) -> list[SharedRegion]:
    """The regions that a call reads or writes."""
    shared = [value for value in inputs.values() if isinstance(value, SharedTensor)]
    if outputs is not None and isinstance(outputs, Mapping):
        shared += [value for value in outputs.values() if value is not None]
    if not shared:
        return []
    return list({tensor.region.name: tensor.region for tensor in shared}.values())


async def register(session: Session, regions: Sequence[SharedRegion], call: Call, replica: Replica) -> None:
    """Make sure that a replica knows these regions.

    Raises:
        WireError: it does not take them.
        ClosedError: a region was left.
    """
    for region in regions:
        region.buffer(0, 0)
        if region.name in replica.regions:
            continue
        await _sweep(session, replica, call)
        request = pb.SystemSharedMemoryRegisterRequest(name=region.name, key=region.key, byte_size=region.byte_size)
        try:
            await session.control(replica, "SystemSharedMemoryRegister", request, call)
        except WireError as failure:
            if failure.status != "ALREADY_EXISTS":  # another thread was faster
                raise
        replica.regions.add(region.name)


async def _sweep(session: Session, replica: Replica, call: Call) -> None:
    """Let the server forget the regions of clients that died: it would hold their memory for ever."""
    known = await session.control(replica, "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(), call)
    for name in known.regions:
        # The file counts as well: a pid tells nothing of a client in another container that shares /dev/shm.
        if owner_is_dead(name) and not Path("/dev/shm", name).exists():
            request = pb.SystemSharedMemoryUnregisterRequest(name=name)
            await session.control(replica, "SystemSharedMemoryUnregister", request, call)


async def forget(session: Session, region: SharedRegion) -> None:
    """Let every replica forget a region; one that cannot be asked is dead, or forgets at the next sweep."""
    request = pb.SystemSharedMemoryUnregisterRequest(name=region.name)
    for replica in session.pool.replicas:
        if region.name not in replica.regions:
            continue
        replica.regions.discard(region.name)
        try:
            call = session.begin(deadline_ms=_FORGET_DEADLINE_MS)
            await session.control(replica, "SystemSharedMemoryUnregister", request, call)
        except (WireError, ClientError) as error:
            log.debug("could not unregister %s: %s", region.name, error)
