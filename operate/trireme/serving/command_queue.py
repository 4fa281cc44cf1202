"""Orders to a running ``trireme serve``, from another terminal."""

from __future__ import annotations

import time

from trireme.errors import ServerError
from trireme.serving.run_state import Orders, Phase, RunDirectory, ServingState

# A replica loads its models within this, and lets go of its requests.
_SECONDS_PER_REPLICA = 240.0


def carry_out(directory: RunDirectory, *, replicas: int | None = None, restart: bool = False) -> ServingState:
    """Give an order, and wait until it is done; gives the state then.

    Args:
        replicas: how many there shall be; None: as many as there are.

    Raises:
        ServerError: nothing is served, the order was not carried out, or not in time.
    """
    state = directory.running()
    wanted = len(state.replicas) if replicas is None else replicas
    last = directory.orders()
    number = max(state.orders_done, last.number if last else 0) + 1
    directory.order(Orders(number, wanted, restart))
    deadline = time.monotonic() + _SECONDS_PER_REPLICA * max(wanted, len(state.replicas))
    while (state := directory.running()).orders_done < number:
        if time.monotonic() > deadline:
            raise ServerError("trireme serve has not carried the order out in time; see its log, or: trireme status")
        time.sleep(0.1)
    if len(state.replicas) != wanted or any(replica.phase is not Phase.SERVING for replica in state.replicas):
        told = ", ".join(f"{replica.name} is {replica.phase.value}" for replica in state.replicas)
        raise ServerError(f"{wanted} replicas were asked for; now {told}; the reason is in {directory.path}/serve.log")
    return state
