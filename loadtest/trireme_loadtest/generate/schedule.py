"""A schedule of requests, sent in an open loop, and the result of each request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trireme_loadtest.errors import RequestFailed
from trireme_loadtest.generate.loops import open_loop
from trireme_loadtest.generate.targets import GrpcStreamTarget, RequestSet, Target, connected

# Time to open connections and pay the server's first-use costs before the clock starts.
WARMUP_REQUESTS = 5


@dataclass(frozen=True, slots=True)
class Schedule:
    """Send times, FP64 [requests] seconds from the start, and task and body of each request, INT64 [requests]."""

    times: npt.NDArray[np.float64]
    tasks: npt.NDArray[np.int64]
    bodies: npt.NDArray[np.int64]

    def share(self, worker: int, workers: int) -> Schedule:
        """Every ``workers``-th request, starting with ``worker``."""
        return Schedule(self.times[worker::workers], self.tasks[worker::workers], self.bodies[worker::workers])


@dataclass(slots=True)
class RequestSamples:
    """The result of each request of a schedule.

    Attributes:
        intended, sent, ended: FP64 [requests], seconds from the start.
        first: FP64 [requests], time of the first response; NaN without a response.
        task: INT64 [requests].
        error: kind of the failure, ``""`` for a success.
        timed_out: BOOL [requests].
        gaps: of streams: (request, seconds between two responses).
        cpu_share: of one core, of this generator process during the run.
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
    """Counts so far, for display."""

    sent: int = 0
    ended: int = 0
    failed: int = 0


async def send_schedule(
    requests: Sequence[RequestSet],
    schedule: Schedule,
    *,
    deadline_seconds: float,
    when_ready: Callable[[], float],
    on_progress: Callable[[LoadProgress], None],
) -> RequestSamples:
    """Send ``schedule`` and wait until every request has a response, has failed or has passed its deadline.

    Args:
        requests: by task.
        when_ready: called once connections are open; waits for the common start and returns its ``time.monotonic()``.
        on_progress: called every second.
    """
    samples, progress = RequestSamples.empty(schedule), LoadProgress()
    async with connected(requests, deadline_seconds) as targets:
        for task, target in zip(requests, targets, strict=True):
            for body in task.bodies[:WARMUP_REQUESTS]:
                # A server that fails now also fails in the run, where it is counted.
                with contextlib.suppress(RequestFailed):
                    await _response_times(target, body)
        start = await asyncio.get_running_loop().run_in_executor(None, when_ready)

        async def send(index: int) -> None:
            task = int(schedule.tasks[index])
            samples.sent[index] = time.monotonic() - start
            progress.sent += 1
            try:
                times = await _response_times(targets[task], requests[task].bodies[schedule.bodies[index]])
                if times:
                    samples.first[index] = times[0] - start
                samples.gaps += [(index, later - sooner) for sooner, later in itertools.pairwise(times)]
            except RequestFailed as failure:
                samples.error[index], samples.timed_out[index] = failure.kind, failure.timed_out
                progress.failed += 1
            samples.ended[index] = time.monotonic() - start
            progress.ended += 1

        cpu_before = time.process_time()
        sending = asyncio.create_task(open_loop(send, schedule.times.tolist(), start))
        while not sending.done():
            await asyncio.wait([sending], timeout=1.0)
            on_progress(progress)
        sending.result()
        samples.cpu_share = (time.process_time() - cpu_before) / max(time.monotonic() - start, 1e-9)
    return samples


async def _response_times(target: Target | GrpcStreamTarget, body: bytes) -> list[float]:
    """The arrival time of each response."""
    if isinstance(target, GrpcStreamTarget):
        return [time.monotonic() async for _ in target.stream(body)]
    await target.send(body)
    return [time.monotonic()]
