"""Cycles of releases under load, and the certificate of what callers saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from trireme.errors import TriremeError
from trireme.release.journal import Outcome, Release
from trireme.release.workspace import journal_of
from trireme.repository.folders import ModelRepository
from trireme_client import OperatorClient

from trireme_loadtest.generate.requests import grpc_body, grpc_outputs, text_tensors
from trireme_loadtest.generate.targets import RequestSet
from trireme_loadtest.generate.traffic import RequestOutcome, Traffic
from trireme_loadtest.prove.served_copy import ServedCopy
from trireme_loadtest.prove.versions import OUTPUT, VersionKind, make_version, mark_of

VARIANT, ENCODER, TASK, NEIGHBOUR = (
    "embedding_economy",
    "embedding_economy_encoder",
    "text_embedding",
    "sentiment_economy",
)
_TEXTS = (
    "a short one",
    "The service was quick and the people were friendly.",
    "I waited for an hour, then a waiter said that the kitchen had closed, and nobody apologised for it.",
)
_CALLERS = ("router", "ensemble", "encoder", "neighbour")
# Callers that a release moves from one version to another.
_MOVED = ("router", "ensemble")
MOST_ROLLBACK_SECONDS = 1.0
_KINDS = (VersionKind.GOOD, VersionKind.SLOW, VersionKind.WRONG, VersionKind.CRASHING)
_QUIET_SECONDS = 5.0
_SETTLE_SECONDS = 1.0
_CANARY_STEPS = "5,50,100"
_SHOWN_FAILURES = 20
_CALL_DEADLINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ReleaseCycle:
    """One version's release.

    Attributes:
        publish_seconds: duration of the whole command.
        load_seconds: duration of its last step, loading on the servers; None if rejected.
        canary: ``promoted``, ``rejected`` or ``-`` if it was never published.
        rollback_seconds: duration of the command.
        last_old_answer_seconds: from the start of the command to the last response of the version that was rolled back.
        surprises: unexpected results for a version of this kind.
    """

    kind: VersionKind
    mark: int
    publish_seconds: float
    load_seconds: float | None
    canary: str
    rollback_seconds: float | None
    last_old_answer_seconds: float | None
    surprises: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RolloutCertificate:
    """The result of ``trireme prove rollout``; written as JSON.

    Attributes:
        requests, failures: by caller.
        failure_texts: the first of them.
        neighbour_p99_ms: of a model that is not released: before the first release, and during releases.
        versions: sha256 of each published file, by version.
        problems: why it did not pass.
    """

    passed: bool
    problems: tuple[str, ...]
    triton_version: str
    requests_per_second: float
    seconds: float
    requests: Mapping[str, int]
    failures: Mapping[str, int]
    failure_texts: tuple[str, ...]
    worst_rollback_seconds: float | None
    worst_last_old_answer_seconds: float | None
    worst_load_seconds: float | None
    neighbour_p99_ms: Mapping[str, float]
    cycles: tuple[ReleaseCycle, ...]
    versions: Mapping[str, Mapping[str, str]]


def prove_rollout(
    served: ServedCopy, requests_per_second: float, cycles: int, progress: Callable[[str], None]
) -> RolloutCertificate:
    """Release ``cycles`` versions under traffic: good, slow, wrong and crashing ones in turn."""
    origin = ModelRepository(served.settings.repository_dir).model(ENCODER).version_dir(1)
    done: list[ReleaseCycle] = []
    with Traffic(_requests(served.grpc_address), requests_per_second, _read_mark) as traffic:
        started_at = time.monotonic()
        time.sleep(_QUIET_SECONDS)
        first_release_at = time.monotonic()
        for number in range(1, cycles + 1):
            kind = _KINDS[(number - 1) % len(_KINDS)]
            source = served.settings.state_dir.parent / "sources" / str(number)
            make_version(origin, source, kind, number)
            done.append(_CycleRun(served, traffic, kind, number).run(source))
            progress(f"cycle {number} of {cycles}: {_summary(done[-1])}")
        ended_at = time.monotonic()
    releases = journal_of(served.settings).releases()
    with OperatorClient(served.grpc_address) as client:
        triton_version = client.server_version(_CALL_DEADLINE_SECONDS)
    problems = _problems(traffic.outcomes, done)
    return RolloutCertificate(
        passed=not problems,
        problems=problems,
        triton_version=triton_version,
        requests_per_second=requests_per_second,
        seconds=ended_at - started_at,
        requests={caller: sum(one.name == caller for one in traffic.outcomes) for caller in _CALLERS},
        failures={
            caller: sum(one.name == caller and bool(one.failure) for one in traffic.outcomes) for caller in _CALLERS
        },
        failure_texts=tuple(f"{one.name}: {one.failure}" for one in traffic.outcomes if one.failure)[:_SHOWN_FAILURES],
        worst_rollback_seconds=_worst(cycle.rollback_seconds for cycle in done),
        worst_last_old_answer_seconds=_worst(cycle.last_old_answer_seconds for cycle in done),
        worst_load_seconds=_worst(cycle.load_seconds for cycle in done),
        neighbour_p99_ms={
            "before": _p99_ms(one for one in traffic.outcomes if one.due < first_release_at),
            "during": _p99_ms(one for one in traffic.outcomes if one.due >= first_release_at),
        },
        cycles=tuple(done),
        versions=_published(releases),
    )


def _requests(address: str) -> list[RequestSet]:
    """Requests of each caller: to the router, the ensemble, a fixed version, and a model that is not released."""
    tensors = [text_tensors(text) for text in _TEXTS]
    bodies = {
        "router": [grpc_body(TASK, one, {"tier": "economy"}) for one in tensors],
        "ensemble": [grpc_body(VARIANT, one) for one in tensors],
        "encoder": [grpc_body(ENCODER, one, version="1") for one in tensors],
        "neighbour": [grpc_body(NEIGHBOUR, one) for one in tensors],
    }
    return [RequestSet(caller, "grpc", address, bodies[caller]) for caller in _CALLERS]


def _read_mark(caller: str, response: bytes) -> int | None:
    return None if caller == "neighbour" else mark_of(grpc_outputs(response)[OUTPUT])


class _CycleRun:
    def __init__(self, served: ServedCopy, traffic: Traffic[int | None], kind: VersionKind, mark: int) -> None:
        self._served, self._traffic, self._kind, self._mark = served, traffic, kind, mark
        self._surprises: list[str] = []

    def run(self, source: Path) -> ReleaseCycle:
        publishable = self._kind in (VersionKind.GOOD, VersionKind.SLOW)
        started = time.monotonic()
        published = self._verb(publishable, "publish", ENCODER, str(source))
        publish_seconds = time.monotonic() - started
        canary, rollback_seconds, last_old_seconds = "-", None, None
        if published:
            promoted = self._verb(self._kind is VersionKind.GOOD, "canary", VARIANT, "--steps", _CANARY_STEPS)
            canary = "promoted" if promoted else "rejected"
            if promoted:
                time.sleep(_SETTLE_SECONDS)
                self._check_all_moved(time.monotonic())
                rollback_seconds, last_old_seconds = self._roll_back()
        load_seconds = self._load_seconds() if published else None
        versions = ModelRepository(self._served.settings.repository_dir).model(ENCODER).versions()
        if len(versions) > 2:
            self._verb(True, "prune", ENCODER, "--keep", "1")
        return ReleaseCycle(
            self._kind, self._mark, publish_seconds, load_seconds, canary, rollback_seconds, last_old_seconds,
            tuple(self._surprises),
        )  # fmt: skip

    def _verb(self, expected: bool, *arguments: str) -> bool:
        done = self._served.verb(*arguments)
        worked = done.returncode == 0
        if worked is not expected:
            output = " ".join((done.stderr or done.stdout).split())
            self._surprises.append(f"{arguments[0]} {'failed' if expected else 'did not reject it'}: {output}")
        return worked

    def _check_all_moved(self, now: float) -> None:
        late = [one for one in self._traffic.outcomes if one.name in _MOVED and one.due > now - _SETTLE_SECONDS / 2]
        if not late or any(one.result != self._mark for one in late):
            self._surprises.append("after the promotion the new version did not serve every caller")

    def _roll_back(self) -> tuple[float, float]:
        started_at = time.monotonic()
        self._verb(True, "rollback", VARIANT)
        ended_at = time.monotonic()
        time.sleep(_SETTLE_SECONDS)
        old = [
            one.ended
            for one in self._traffic.outcomes
            if one.name in _MOVED and one.result == self._mark and one.ended > started_at
        ]
        return ended_at - started_at, max(old, default=started_at) - started_at

    def _load_seconds(self) -> float | None:
        published = [r for r in journal_of(self._served.settings).releases() if r.verb == "publish"]
        last = published[-1]
        return last.ended_at - last.reached_at if last.ended_at and last.reached_at else None


def _problems(outcomes: Iterable[RequestOutcome[int | None]], cycles: Iterable[ReleaseCycle]) -> tuple[str, ...]:
    failed = sum(bool(one.failure) for one in outcomes)
    found = [f"{failed} requests failed"] if failed else []
    for number, cycle in enumerate(cycles, start=1):
        found += [f"cycle {number} ({cycle.kind.value}): {surprise}" for surprise in cycle.surprises]
        took = cycle.last_old_answer_seconds
        if took is not None and took > MOST_ROLLBACK_SECONDS:
            found.append(f"cycle {number}: rollback took {took:.2f} s to the last old response; the limit is 1 s")
    return tuple(found)


def _published(releases: Iterable[Release]) -> dict[str, dict[str, str]]:
    return {
        f"{form['model']}/{form['version']}": dict(form["files"])
        for release in releases
        if release.verb == "publish" and release.outcome is Outcome.DONE
        for form in release.steps
        if form["kind"] == "CopyVersion"
    }


def _p99_ms(outcomes: Iterable[RequestOutcome[int | None]]) -> float:
    latencies = [one.seconds * 1000 for one in outcomes if one.name == "neighbour" and not one.failure]
    if not latencies:
        raise TriremeError("the neighbour received no request; raise --rps")
    return float(np.quantile(latencies, 0.99))


def _worst(seconds: Iterable[float | None]) -> float | None:
    return max((value for value in seconds if value is not None), default=None)


def _summary(cycle: ReleaseCycle) -> str:
    took = cycle.last_old_answer_seconds
    back = "" if took is None else f", rolled back, last old response after {took:.2f} s"
    ending = f"canary {cycle.canary}" if cycle.load_seconds is not None else "rejected by publish"
    return "; ".join([f"{cycle.kind.value} version: {ending}{back}", *cycle.surprises])
