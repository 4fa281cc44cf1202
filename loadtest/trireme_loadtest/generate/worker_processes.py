"""Generator processes: each sends its share of one schedule; their samples form one run."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from trireme_loadtest.errors import TargetError
from trireme_loadtest.generate.schedule import LoadProgress, RequestSamples, Schedule, send_schedule
from trireme_loadtest.generate.targets import RequestSet

START_DEADLINE_SECONDS = 60.0
# All generators receive the common start time this long before it.
START_DELAY_SECONDS = 0.2
END_DEADLINE_SECONDS = 30.0
# Above these limits a run shows its generator. Lateness: of one request in a hundred, relative to the measured p99.
MOST_CPU_SHARE = 0.9
LATENESS_FLOOR_MS = 5.0
LATENESS_SHARE = 0.1


def send_from_processes(
    requests: Sequence[RequestSet],
    schedule: Schedule,
    *,
    workers: int,
    deadline_seconds: float,
    on_start: Callable[[], None],
    on_progress: Callable[[float, LoadProgress], None],
) -> list[RequestSamples]:
    """Send ``schedule`` from ``workers`` processes, all on the same clock.

    Args:
        on_start: called when all workers are connected, before the first request.
        on_progress: called about every second with the seconds since the start and the counts of all workers.

    Raises:
        TargetError: a generator process did not start or did not end.
    """
    # spawn: a forked child would inherit gRPC's threads and locks.
    context = multiprocessing.get_context("spawn")
    connections: list[Connection] = []
    processes = []
    try:
        for worker in range(workers):
            here, there = context.Pipe()
            process = context.Process(
                target=_work,
                args=(there, list(requests), schedule.share(worker, workers), deadline_seconds),
                daemon=True,
            )
            process.start()
            there.close()
            connections.append(here)
            processes.append(process)
        for connection in connections:
            _receive(connection, START_DEADLINE_SECONDS)
        on_start()
        # CLOCK_MONOTONIC is the same clock for all processes of a machine.
        start = time.monotonic() + START_DELAY_SECONDS
        for connection in connections:
            connection.send(start)
        end = start + float(schedule.times[-1]) + deadline_seconds + END_DEADLINE_SECONDS
        return _collect(connections, start, end, on_progress)
    finally:
        for process in processes:
            process.terminate()
            process.join(10)


def _collect(
    connections: Sequence[Connection], start: float, end: float, on_progress: Callable[[float, LoadProgress], None]
) -> list[RequestSamples]:
    latest = {connection: LoadProgress() for connection in connections}
    found: dict[Connection, RequestSamples] = {}
    while len(found) < len(connections):
        waiting = [connection for connection in connections if connection not in found]
        ready = wait(waiting, timeout=max(0.0, end - time.monotonic()))
        if not ready:
            raise TargetError("a load generator process did not end; the run is lost")
        for connection in waiting:
            if connection in ready:
                message = _receive(connection, END_DEADLINE_SECONDS)
                if isinstance(message, LoadProgress):
                    latest[connection] = message
                else:
                    found[connection] = message
        counts = latest.values()
        on_progress(
            time.monotonic() - start,
            LoadProgress(sum(c.sent for c in counts), sum(c.ended for c in counts), sum(c.failed for c in counts)),
        )
    return [found[connection] for connection in connections]


def _receive(connection: Connection, deadline_seconds: float) -> Any:
    try:
        if connection.poll(deadline_seconds):
            return connection.recv()
    except EOFError:
        raise TargetError("a load generator process died; the run is lost") from None
    raise TargetError(f"a load generator process was silent for {deadline_seconds:.0f} s; the run is lost")


def _work(connection: Connection, requests: list[RequestSet], schedule: Schedule, deadline_seconds: float) -> None:
    # Ctrl-C reaches the whole process group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def when_ready() -> float:
        connection.send("ready")
        start: float = connection.recv()
        return start

    if len(schedule.times) == 0:  # more workers than requests
        when_ready()
        connection.send(RequestSamples.empty(schedule))
        return
    connection.send(
        asyncio.run(
            send_schedule(
                requests,
                schedule,
                deadline_seconds=deadline_seconds,
                when_ready=when_ready,
                on_progress=connection.send,
            )
        )
    )


def limiting_problem(lateness_p99_ms: float, latency_p99_ms: float, cpu_share: float) -> str | None:
    """Why a run shows the generator instead of the server; ``None`` if the generator was not the limit.

    A generator must be punctual relative to what it measures: its lateness is part of every latency it reports.
    """
    allowed = max(LATENESS_FLOOR_MS, LATENESS_SHARE * latency_p99_ms) if math.isfinite(latency_p99_ms) else math.inf
    if cpu_share > MOST_CPU_SHARE:
        return f"a generator process was busy {cpu_share:.0%} of the time; use more --workers or a lower rate"
    if lateness_p99_ms > allowed:
        return (
            f"p99 of the send delay was {lateness_p99_ms:.1f} ms, the limit is {allowed:.1f} ms; "
            "use more --workers, a lower rate, or another machine for the generator"
        )
    return None
