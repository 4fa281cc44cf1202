"""Open loop: requests leave at times decided before the run, whether or not earlier ones were answered.

Latency counts from the intended send time. A server that freezes for a second is so seen by every request that fell
into that second, where a closed loop would have sent one and waited (coordinated omission).
Source: Tene, "How NOT to measure latency"; Schroeder et al., "Open versus closed: a cautionary tale", NSDI 2006.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trireme_loadtest.errors import RequestFailed
from trireme_loadtest.generate.targets import GrpcStreamTarget, GrpcTarget, HttpTarget, Target

# Connections are made and the server's first-use costs paid before the clock starts.
WARMUP_REQUESTS = 5


@dataclass(frozen=True, slots=True)
class RequestSet:
    """How one task is asked.

    Attributes:
        name: of the task, and so of the model.
        protocol: ``grpc``, ``grpc_stream`` (a decoupled model) or ``http``.
        address: ``host:port``, for ``http`` the URL.
        bodies: serialised requests to choose from.
    """

    name: str
    protocol: str
    address: str
    bodies: Sequence[bytes]

    def connect(self, deadline_seconds: float) -> Target | GrpcStreamTarget:
        if self.protocol == "http":
            return HttpTarget(self.address, deadline_seconds)
        kind = GrpcStreamTarget if self.protocol == "grpc_stream" else GrpcTarget
        return kind(self.address, deadline_seconds)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is sent when: FP64 [requests] seconds from the start, and INT64 [requests] which task and which body."""

    times: npt.NDArray[np.float64]
    tasks: npt.NDArray[np.int64]
    bodies: npt.NDArray[np.int64]

    def share(self, worker: int, workers: int) -> Schedule:
        """Every ``workers``-th request, from ``worker``."""
        return Schedule(self.times[worker::workers], self.tasks[worker::workers], self.bodies[worker::workers])


@dataclass(slots=True)
class RequestSamples:
    """What became of each request of a schedule.

    Attributes:
        intended, sent, ended: FP64 [requests], seconds from the start.
        first: FP64 [requests], when the first response came; NaN where none did.
        task: INT64 [requests].
        error: kind of the failure, ``""`` where there was none.
        timed_out: BOOL [requests].
        gaps: of streams: (request, seconds between two responses).
        cpu_share: of one core, of this generator process while it ran.
    """

    intended: npt.NDArray[np.float64]
    sent: npt.NDArray[np.float64]
    ended: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    task: npt.NDArray[np.int64]
    error: list[str]
    timed_out: npt.NDArray[np.bool_]
    gaps: list[tuple[int, float]]
    cpu_share: float = 0.0

    @classmethod
    def empty(cls, schedule: Schedule) -> RequestSamples:
        count = len(schedule.times)
        unknown = np.full(count, np.nan)
        return cls(
            intended=schedule.times,
            sent=unknown.copy(),
            ended=unknown.copy(),
            first=unknown.copy(),
            task=schedule.tasks,
            error=[""] * count,
            timed_out=np.zeros(count, dtype=np.bool_),
            gaps=[],
        )


@dataclass(slots=True)
class LoadProgress:
    """Counts so far, for the person who waits."""

    sent: int = 0
    ended: int = 0
    failed: int = 0


async def open_loop(
    plans: Sequence[RequestSet],
    schedule: Schedule,
    *,
    deadline_seconds: float,
    when_ready: Callable[[], float],
    on_progress: Callable[[LoadProgress], None],
) -> RequestSamples:
    """Send ``schedule`` and wait until every request is answered, failed or past its deadline.

    Args:
        when_ready: called once connections stand; waits for the common start and brings its ``time.monotonic()``.
        on_progress: called every second.
    """
    samples, progress = RequestSamples.empty(schedule), LoadProgress()
    loop = asyncio.get_running_loop()
    all_ended = asyncio.Event()
    running: set[asyncio.Task[None]] = set()

    async with AsyncExitStack() as stack:
        targets = [plan.connect(deadline_seconds) for plan in plans]
        for target in targets:
            await stack.enter_async_context(target)
        for plan, target in zip(plans, targets, strict=True):
            for body in plan.bodies[:WARMUP_REQUESTS]:
                # A server that fails now fails in the run too, where it is counted.
                with contextlib.suppress(RequestFailed):
                    await _response_times(target, body)
        start = await loop.run_in_executor(None, when_ready)

        async def exchange(index: int) -> None:
            task = int(schedule.tasks[index])
            samples.sent[index] = time.monotonic() - start
            progress.sent += 1
            try:
                times = await _response_times(targets[task], plans[task].bodies[schedule.bodies[index]])
                if times:
                    samples.first[index] = times[0] - start
                samples.gaps += [(index, later - sooner) for sooner, later in itertools.pairwise(times)]
            except RequestFailed as failure:
                samples.error[index], samples.timed_out[index] = failure.kind, failure.timed_out
                progress.failed += 1
            samples.ended[index] = time.monotonic() - start
            progress.ended += 1
            if progress.ended == len(schedule.times):
                all_ended.set()

        def launch(index: int) -> None:
            task = loop.create_task(exchange(index))
            running.add(task)
            task.add_done_callback(running.discard)

        # The loop's own timers are a millisecond wide, as much as a request may take; a sleeping thread is exact to a
        # tenth of that.
        pacer = threading.Thread(
            target=_pace,
            args=(schedule.times, start, lambda index: loop.call_soon_threadsafe(launch, index)),
            daemon=True,
        )
        cpu_before = time.process_time()
        pacer.start()
        while not all_ended.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(all_ended.wait(), timeout=1.0)
            on_progress(progress)
        samples.cpu_share = (time.process_time() - cpu_before) / max(time.monotonic() - start, 1e-9)
    return samples


def _pace(times: npt.NDArray[np.float64], start: float, launch: Callable[[int], object]) -> None:
    for index, at in enumerate(times.tolist()):
        while (wait := start + at - time.monotonic()) > 0:
            time.sleep(wait)
        launch(index)


async def _response_times(target: Target | GrpcStreamTarget, body: bytes) -> list[float]:
    """When each response came."""
    if isinstance(target, GrpcStreamTarget):
        return [time.monotonic() async for _ in target.stream(body)]
    await target.send(body)
    return [time.monotonic()]
