"""A load test: an open-loop run against a running server, and its record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import numpy as np

from trireme_loadtest.errors import SpecError
from trireme_loadtest.generate.arrivals import Arrivals
from trireme_loadtest.generate.requests import WeightedModel, grpc_body, http_body
from trireme_loadtest.generate.schedule import LoadProgress, RequestSamples, Schedule
from trireme_loadtest.generate.targets import RequestSet
from trireme_loadtest.generate.worker_processes import limiting_problem, send_from_processes
from trireme_loadtest.histogram import Histogram
from trireme_loadtest.judge.slo import Slo
from trireme_loadtest.machine import MachineFacts
from trireme_loadtest.record import GeneratorStats, LoadRecord, SecondCounts
from trireme_loadtest.server_statistics import ServerClient, StatisticsMeter

PROTOCOLS = ("grpc", "http")
# A server has kept up if its last response comes at most this long after the last request.
KEPT_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LoadTest:
    """The requests of a run and their server.

    Attributes:
        address: ``host:port``.
        protocol: one of ``PROTOCOLS``.
        seconds: length of the run.
        deadline_seconds: of each request.
        workers: generator processes.
        seed: equal seeds send the same requests at the same times.
    """

    address: str
    protocol: str
    tasks: Sequence[WeightedModel]
    arrivals: Arrivals
    seconds: float
    deadline_seconds: float
    workers: int
    seed: int = 1

    def settings(self) -> dict[str, str | float]:
        """The settings that are kept in the record."""
        return {
            "arrivals": self.arrivals.spec,
            "tasks": ", ".join(f"{task.model}={task.weight:g}" for task in self.tasks),
            "protocol": self.protocol,
            "address": self.address,
            "seconds": self.seconds,
            "deadline_seconds": self.deadline_seconds,
            "workers": self.workers,
            "seed": self.seed,
        }


def run_load_test(test: LoadTest, slo: Slo | None, on_progress: Callable[[float, LoadProgress], None]) -> LoadRecord:
    """Send the requests of ``test`` and record the responses.

    Raises:
        TargetError: no server responds, or it does not serve a model of the test.
        SpecError: the test sends no request.
        ConfigError: ``slo`` has an objective that this run cannot decide.
    """
    schedule = _schedule(test)
    if slo:
        slo.check_tasks(task.model for task in test.tasks)
        slo.check_rates(_asked_rates(test, schedule))
    server = ServerClient(test.address, test.protocol)
    requests = [_request_set(test, task, server) for task in test.tasks]
    meter = StatisticsMeter(server, [task.model for task in test.tasks])
    machine = asdict(MachineFacts.read())
    started_at = datetime.now(timezone.utc)
    samples = send_from_processes(
        requests,
        schedule,
        workers=test.workers,
        deadline_seconds=test.deadline_seconds,
        on_start=meter.start,
        on_progress=on_progress,
    )
    tasks = {
        task.model: _count_by_second(samples, index, test.deadline_seconds) for index, task in enumerate(test.tasks)
    }
    return LoadRecord(
        started_at=started_at,
        seconds=test.seconds,
        answered_seconds=_answered_seconds(samples, test.seconds),
        settings=test.settings(),
        machine=machine,
        tasks=tasks,
        generator=_generator(samples, tasks),
        server=meter.stop(),
    )


def _schedule(test: LoadTest) -> Schedule:
    if not any(task.weight for task in test.tasks):
        raise SpecError("every task has weight zero; give one a weight above zero")
    if len({task.model for task in test.tasks}) < len(test.tasks):
        raise SpecError("a model is given twice; give it one weight")
    times = test.arrivals.times(test.seconds, test.seed)
    chance = np.random.default_rng(test.seed)
    weights = np.array([task.weight for task in test.tasks])
    tasks = chance.choice(len(test.tasks), len(times), p=weights / weights.sum())
    counts = np.array([len(task.inputs) for task in test.tasks])
    return Schedule(times, tasks, chance.integers(0, counts[tasks]))


def _asked_rates(test: LoadTest, schedule: Schedule) -> Mapping[str | None, float]:
    rates: dict[str | None, float] = {None: len(schedule.times) / test.seconds}
    for index, task in enumerate(test.tasks):
        rates[task.model] = int(np.sum(schedule.tasks == index)) / test.seconds
    return rates


def _request_set(test: LoadTest, task: WeightedModel, server: ServerClient) -> RequestSet:
    config = server.model_config(task.model)
    if test.protocol == "http":
        if config.model_transaction_policy.decoupled:
            raise SpecError(
                f"{task.model} streams its responses, which Triton supports over gRPC only; use --protocol grpc"
            )
        url = f"http://{test.address}/v2/models/{task.model}/infer"
        return RequestSet(task.model, "http", url, [http_body(inputs) for inputs in task.inputs])
    protocol = "grpc_stream" if config.model_transaction_policy.decoupled else "grpc"
    return RequestSet(task.model, protocol, test.address, [grpc_body(task.model, inputs) for inputs in task.inputs])


def _count_by_second(samples: Sequence[RequestSamples], task: int, deadline_seconds: float) -> list[SecondCounts]:
    """Count the requests of one task by the second of their intended send time, over all generators."""
    asked: Counter[int] = Counter()
    errors: dict[int, Counter[str]] = {}
    latencies: dict[int, list[float]] = {}
    firsts: dict[int, list[float]] = {}
    gaps: dict[int, list[float]] = {}
    for one in samples:
        for index in np.flatnonzero(one.task == task).tolist():
            second = int(one.intended[index])
            asked[second] += 1
            if one.error[index]:
                errors.setdefault(second, Counter())[one.error[index]] += 1
            if one.timed_out[index]:
                latencies.setdefault(second, []).append(deadline_seconds * 1000)
            elif not one.error[index]:
                latencies.setdefault(second, []).append((one.ended[index] - one.intended[index]) * 1000)
                firsts.setdefault(second, []).append((one.first[index] - one.intended[index]) * 1000)
        for index, gap in one.gaps:
            if one.task[index] == task:
                gaps.setdefault(int(one.intended[index]), []).append(gap * 1000)
    streams = bool(gaps)
    return [
        SecondCounts(
            second,
            asked[second],
            dict(errors.get(second, {})),
            Histogram.of(latencies.get(second, [])),
            Histogram.of(firsts.get(second, [])) if streams else Histogram(),
            Histogram.of(gaps.get(second, [])),
        )
        for second in sorted(asked)
    ]


def _answered_seconds(samples: Sequence[RequestSamples], seconds: float) -> float:
    """How long the responses took: ``seconds`` if the last response arrived soon after the last request."""
    last = max(float(np.nanmax(one.ended, initial=0.0)) for one in samples)
    return seconds if last <= seconds + KEPT_UP_SECONDS else last


def _generator(samples: Sequence[RequestSamples], tasks: Mapping[str, Sequence[SecondCounts]]) -> GeneratorStats:
    lateness = Histogram.of(np.concatenate([(one.sent - one.intended) * 1000 for one in samples]))
    latency = Histogram.merged(window.latency for windows in tasks.values() for window in windows)
    cpu_share = max(one.cpu_share for one in samples)
    latency_p99_ms = latency.percentile_ms(99) if latency.count else math.nan
    problem = limiting_problem(lateness.percentile_ms(99), latency_p99_ms, cpu_share)
    return GeneratorStats(lateness, cpu_share, len(samples), problem)
