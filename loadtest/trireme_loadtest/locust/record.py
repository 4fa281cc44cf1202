"""Records a Locust run as ``trireme load run`` does; with ``--slo`` the exit code is the verdict.

Each worker counts by second and sends its counts to the master, which adds them: percentiles are of all requests.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from operator import itemgetter
from pathlib import Path
from typing import Any

from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.runners import WorkerRunner
from trireme.errors import TriremeError

from trireme_loadtest.histogram import Histogram
from trireme_loadtest.judge.slo import Slo
from trireme_loadtest.judge.verdict import judge
from trireme_loadtest.machine import MachineFacts
from trireme_loadtest.record import GeneratorStats, LoadRecord, SecondCounts
from trireme_loadtest.report.files import write_reports
from trireme_loadtest.report.text import text_report


@dataclass(slots=True)
class _PendingCounts:
    """One task in one second: counts of latencies in milliseconds, and failures by kind."""

    latencies_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    firsts_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)

    def counts(self, name: str, second: int) -> _CountsMessage:
        latencies, firsts, gaps = (
            dict(Histogram.of(times).counts) for times in (self.latencies_ms, self.firsts_ms, self.gaps_ms)
        )
        return name, second, [dict(self.errors), latencies, firsts, gaps]


# Counts of one process for a task in a second: errors by kind, and histogram counts of the times.
_CountsMessage = tuple[str, int, list[Mapping[Any, int]]]


class _Recorder:
    """Records the requests of this process, and on a master those of its workers."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._pending: dict[tuple[str, int], _PendingCounts] = {}
        self._counts = self._no_counts()
        self._machine = asdict(MachineFacts.read())
        self._cpu_shares: dict[str, float] = {}

    @staticmethod
    def _no_counts() -> defaultdict[tuple[str, int], tuple[Counter[Any], ...]]:
        """By task and second, from any number of workers: counts of errors, latencies, first tokens and gaps."""
        return defaultdict(lambda: (Counter(), Counter(), Counter(), Counter()))

    def on_request(
        self, name: str, response_time: float, exception: BaseException | None, context: dict[str, Any], **_: Any
    ) -> None:
        # By the second it was sent in, so that a hanging request appears where it began.
        second = int(time.time() - response_time / 1000)
        tally = self._pending.setdefault((name, second), _PendingCounts())
        if exception is None:
            tally.latencies_ms.append(response_time)
            # For users that stream.
            tally.firsts_ms += context.get("ttft_ms", [])
            tally.gaps_ms += context.get("inter_token_ms", [])
        else:
            tally.errors[str(exception) or type(exception).__name__] += 1

    def take(self) -> list[_CountsMessage]:
        """The counts since the last call, in a form that Locust can send."""
        taken, self._pending = self._pending, {}
        return [tally.counts(name, second) for (name, second), tally in taken.items()]

    def add(self, messages: Iterable[_CountsMessage]) -> None:
        """Merge the counts of one process."""
        for name, second, counts in messages:
            for total, part in zip(self._counts[name, second], counts, strict=True):
                total.update(part)

    def on_report_to_master(self, data: dict[str, Any], **_: Any) -> None:
        data["trireme_windows"] = self.take()
        data["trireme_cpu_share"] = self._environment.runner.current_cpu_usage / 100

    def on_worker_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        self.add(data.get("trireme_windows", []))
        self._cpu_shares[client_id] = max(data.get("trireme_cpu_share", 0.0), self._cpu_shares.get(client_id, 0.0))

    def on_test_start(self, **_: Any) -> None:
        self._pending, self._counts = {}, self._no_counts()

    def record(self) -> LoadRecord | None:
        """The run so far; ``None`` before the first request."""
        self.add(self.take())
        if not self._counts:
            return None
        start = min(second for _, second in self._counts)
        seconds = max(second for _, second in self._counts) - start + 1
        tasks: dict[str, list[SecondCounts]] = {}
        for (name, second), (errors, *times) in sorted(self._counts.items(), key=itemgetter(0)):
            latency, firsts, gaps = (Histogram(dict(sorted(counts.items()))) for counts in times)
            found = SecondCounts(second - start, latency.count + errors.total(), dict(errors), latency, firsts, gaps)
            tasks.setdefault(name, []).append(found)
        runner, options = self._environment.runner, self._environment.parsed_options
        busy = runner.cpu_warning_emitted or runner.worker_cpu_warning_emitted
        return LoadRecord(
            started_at=datetime.fromtimestamp(start, timezone.utc),
            seconds=float(seconds),
            answered_seconds=float(seconds),
            settings={
                "arrivals": f"closed loop of {runner.target_user_count or options.num_users} users",
                "tasks": options.models,
                "protocol": "Locust",
                "address": options.grpc_address,
                "seconds": float(seconds),
            },
            machine=self._machine,
            tasks=tasks,
            generator=GeneratorStats(
                lateness=Histogram(),
                cpu_share=max(self._cpu_shares.values(), default=runner.current_cpu_usage / 100),
                workers=len(self._cpu_shares) or 1,
                problem="a Locust process was busy more than 90% of the time; use more workers" if busy else None,
            ),
        )


def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--slo", default="", help="Objectives (slo.toml); exit code 0 met, 1 broken, 3 inconclusive")
    parser.add_argument("--report", default="", help="Folder for run.json, report.html, report.txt and junit.xml")


def _record(environment: Any, runner: Any, **_: Any) -> None:
    options = environment.parsed_options
    if options is None or not (options.slo or options.report):
        return
    recorder = _Recorder(environment)
    environment.events.request.add_listener(recorder.on_request)
    if isinstance(runner, WorkerRunner):
        environment.events.report_to_master.add_listener(recorder.on_report_to_master)
        return
    try:
        slo = Slo.read(Path(options.slo)) if options.slo else None
    except (TriremeError, OSError) as error:
        raise SystemExit(f"locust: {error}") from None
    environment.events.worker_report.add_listener(recorder.on_worker_report)
    environment.events.test_start.add_listener(recorder.on_test_start)
    environment.events.quitting.add_listener(lambda **_: _conclude(environment, recorder, slo, options.report))


def _conclude(environment: Any, recorder: _Recorder, slo: Slo | None, folder: str) -> None:
    record = recorder.record()
    if record is None:
        print("locust: no request was sent, so there is no verdict")
        environment.process_exit_code = 3
        return
    try:
        if slo:
            slo.check_tasks(record.tasks)
        verdict = judge(record, slo) if slo else None
        if folder:
            write_reports(record, verdict, Path(folder))
    except (TriremeError, OSError) as error:
        print(f"locust: {error}")
        environment.process_exit_code = 2
        return
    print(text_report(record, verdict))
    if verdict:
        environment.process_exit_code = verdict.outcome.value


events.init_command_line_parser.add_listener(_add_options)  # type: ignore[no-untyped-call]
events.init.add_listener(_record)  # type: ignore[no-untyped-call]
