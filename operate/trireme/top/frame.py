"""The rows of ``trireme top``: differences between two snapshots of the replicas' metrics."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trireme.errors import ConfigError
from trireme.processes.server_metrics import MetricsWindow, quantile
from trireme.repository.folders import ModelRepository
from trireme.repository.model_config import load_model_config
from trireme.serving.run_state import ReplicaState, ServingState

_SERVER_FAULTS = ("failed", "unavailable")
# A router updates its metrics every half second.
_ROUTER_UPDATE_SECONDS = 0.5
# The parser adds the suffix "_total" that the format requires and Triton omits.
_SUCCESS = "nv_inference_request_success_total"
_FAILURE = "nv_inference_request_failure_total"


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency in milliseconds; None without responses."""

    p50_ms: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One replica.

    Attributes:
        rate: responses per second.
        errors: failures per second, without those caused by the caller.
        queued: rows and requests that are queued now, in routers and in Triton.
    """

    state: ReplicaState
    answers: bool
    rate: float
    errors: float
    queued: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A version of a variant behind a router, or of a model that callers request directly (``task`` is empty).

    Attributes:
        share: fraction of the task's responses, 0 to 1.
        errors: failed calls of a variant (the router falls back to another), or failures of the model, per second.
    """

    task: str
    model: str
    version: str
    share: float | None
    rate: float
    errors: float
    queued: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class LanguageRow:
    """A language model: tokens per second, latencies, current requests, used fraction of the KV cache."""

    model: str
    tokens: float
    first_token: Latency
    inter_token: Latency
    running: float
    waiting: float
    cache: float


@dataclass(frozen=True, slots=True)
class Frame:
    """The content of one screen."""

    state: ServingState
    replicas: Sequence[ReplicaRow]
    models: Sequence[ModelRow]
    languages: Sequence[LanguageRow]

    @property
    def rate(self) -> float:
        return sum(row.rate for row in self.replicas)

    @property
    def errors(self) -> float:
        return sum(row.errors for row in self.replicas)


def steps_of(repository: ModelRepository) -> Mapping[str, Sequence[str]]:
    """Return the models whose requests are part of a model's requests: the steps of an ensemble.

    For a decoupled ensemble it is the reverse: clients follow its pin and request the engine directly, and every
    request to the ensemble is also one to the engine.
    """
    steps: dict[str, list[str]] = {}
    for folder in repository.models():
        try:
            config = load_model_config(folder.config_path)
        except ConfigError:
            continue
        if config.is_ensemble and config.is_decoupled:
            for step in config.steps:
                steps.setdefault(step.model, []).append(folder.name)
        elif config.is_ensemble:
            steps[folder.name] = [step.model for step in config.steps]
    return steps


def frame_of(state: ServingState, windows: Mapping[str, MetricsWindow], steps: Mapping[str, Sequence[str]]) -> Frame:
    """Compute all rows.

    Args:
        windows: by replica name.
        steps: see ``steps_of``.
    """
    return Frame(
        state,
        [_replica_row(replica, windows[replica.name], steps) for replica in state.replicas],
        [*_variant_rows(windows.values()), *_direct_rows(windows.values(), steps)],
        _language_rows(windows.values()),
    )


def _replica_row(replica: ReplicaState, window: MetricsWindow, steps: Mapping[str, Sequence[str]]) -> ReplicaRow:
    seconds = window.seconds or 1.0
    routed = window.counts("trireme_router_requests_total", "outcome")
    direct = _direct([window], steps)
    faults = sum(routed.get((outcome,), 0.0) for outcome in _SERVER_FAULTS) + sum(_failures([window], direct).values())
    return ReplicaRow(
        replica,
        bool(window.after.samples),
        (routed.get(("answered",), 0.0) + sum(direct.values())) / seconds,
        faults / seconds,
        sum(window.after.sums("trireme_router_waiting_rows").values())
        + sum(window.after.sums("nv_inference_pending_request_count").values()),
        _latency([window], "trireme_router_latency_seconds"),
    )


def _variant_rows(windows: Iterable[MetricsWindow]) -> list[ModelRow]:
    windows = list(windows)
    answers = _added(windows, "trireme_router_requests_total", "task", "variant", "version", outcome="answered")
    calls = _added(windows, "trireme_router_calls_total", "task", "variant")
    succeeded = _added(windows, "trireme_router_calls_total", "task", "variant", outcome="ok")
    queued = _now(windows, "trireme_router_waiting_rows", "task", "variant")
    of_task: Counter[str] = Counter()
    for (task, _, _), count in answers.items():
        of_task[task] += count  # type: ignore[assignment]
    seconds = _seconds(windows)
    rows = []
    for (task, variant, version), count in sorted(answers.items()):
        failed = calls.get((task, variant), 0.0) - succeeded.get((task, variant), 0.0)
        share = count / of_task[task] if of_task[task] else None
        latency = _latency(windows, "trireme_router_latency_seconds", task=task, variant=variant)
        waiting = queued.get((task, variant), 0.0)
        rows.append(ModelRow(task, variant, version, share, count / seconds, failed / seconds, waiting, latency))
    return rows


def _direct_rows(windows: Iterable[MetricsWindow], steps: Mapping[str, Sequence[str]]) -> list[ModelRow]:
    windows = list(windows)
    seconds = _seconds(windows)
    direct = _direct(windows, steps)
    failures = _failures(windows, direct)
    queued = _now(windows, "nv_inference_pending_request_count", "model", "version")
    rows = []
    for (model, version), count in sorted(direct.items()):
        failed = failures.get((model, version), 0.0)
        if count > 0 or failed > 0:
            waiting = sum(
                waiting for (name, _), waiting in queued.items() if name == model or name in steps.get(model, ())
            )
            latency = _summary(windows, model=model, version=version)
            rows.append(ModelRow("", model, version, None, count / seconds, failed / seconds, waiting, latency))
    return rows


def _direct(windows: Sequence[MetricsWindow], steps: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], float]:
    """Requests without a router, by model and version: excludes steps, routers and the routers' calls."""
    inner = {step for found in steps.values() for step in found}
    routers = {task for (task,) in _now(windows, "trireme_router_traffic_errors_total", "task")}
    calls = _added(windows, "trireme_router_calls_total", "variant", outcome="ok")
    direct: dict[tuple[str, ...], float] = {}
    for (model, version), count in _added(windows, _SUCCESS, "model", "version").items():
        if model not in inner and model not in routers:
            routed = sum(calls.get((name,), 0.0) for name in (model, *steps.get(model, ())))
            # Calls that are not yet in a router's metrics must not be taken for direct requests.
            pending = routed * _ROUTER_UPDATE_SECONDS / _seconds(windows)
            direct[model, version] = count - routed if count - routed > pending else 0.0
    return direct


def _failures(windows: Sequence[MetricsWindow], models: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """Failures of ``models``, by model and version, without requests cancelled by the caller."""
    every = _added(windows, _FAILURE, "model", "version")
    cancelled = _added(windows, _FAILURE, "model", "version", reason="CANCELED")
    return {key: every.get(key, 0.0) - cancelled.get(key, 0.0) for key in models}


def _language_rows(windows: Iterable[MetricsWindow]) -> list[LanguageRow]:
    windows = list(windows)
    tokens = _added(windows, "trireme_generation_output_tokens_total", "model")
    running = _now(windows, "trireme_generation_running", "model")
    waiting = _now(windows, "trireme_generation_waiting", "model")
    cache = _now(windows, "trireme_generation_kv_cache_usage_ratio", "model")
    return [
        LanguageRow(
            model,
            tokens.get((model,), 0.0) / _seconds(windows),
            _latency(windows, "trireme_generation_time_to_first_token_seconds", model=model),
            _latency(windows, "trireme_generation_inter_token_seconds", model=model),
            running[(model,)],
            waiting.get((model,), 0.0),
            cache.get((model,), 0.0) / max(len(windows), 1),
        )
        for (model,) in sorted(running)
    ]


def _seconds(windows: Sequence[MetricsWindow]) -> float:
    return max((window.seconds for window in windows), default=0.0) or 1.0


def _added(windows: Sequence[MetricsWindow], name: str, *labels: str, **equal: str) -> dict[tuple[str, ...], float]:
    """Increase of counters, summed over all replicas."""
    added: dict[tuple[str, ...], float] = {}
    for window in windows:
        for key, count in window.counts(name, *labels, **equal).items():
            added[key] = added.get(key, 0.0) + count
    return added


def _now(windows: Sequence[MetricsWindow], name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Current values of gauges, summed over all replicas."""
    added: dict[tuple[str, ...], float] = {}
    for window in windows:
        for key, value in window.after.sums(name, *labels).items():
            added[key] = added.get(key, 0.0) + value
    return added


def _latency(windows: Sequence[MetricsWindow], histogram: str, **equal: str) -> Latency:
    buckets = {
        float(le) * 1000: count for (le,), count in _added(windows, f"{histogram}_bucket", "le", **equal).items()
    }
    return Latency(quantile(0.5, buckets), quantile(0.95, buckets))


def _summary(windows: Sequence[MetricsWindow], **equal: str) -> Latency:
    """Triton's quantiles, the maximum over the replicas, because quantiles cannot be summed."""
    found: dict[str, float] = {}
    for window in windows:
        for (share,), value in window.after.sums("nv_inference_request_summary_us", "quantile", **equal).items():
            found[share] = max(found.get(share, 0.0), value / 1000)
    present = operator.itemgetter("0.5", "0.95")
    return Latency(*present(found)) if {"0.5", "0.95"} <= found.keys() else Latency()
