"""The rows of ``trireme top``: what the replicas did between two looks at them."""

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
# A router tells of its calls every half second.
_TELLING_SECONDS = 0.5
# Triton's counters lack the ending that the format wants, and that its reader gives them.
_SUCCESS = "nv_inference_request_success_total"
_FAILURE = "nv_inference_request_failure_total"


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds; None where nothing was answered."""

    p50_ms: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One replica.

    Attributes:
        rate, errors: answers, and failures that are not the caller's own, per second.
        queued: rows and requests that wait now, in routers and in Triton.
    """

    state: ReplicaState
    answers: bool
    rate: float
    errors: float
    queued: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A version of a variant as a router asks it, or of a model that callers ask themselves (``task`` is empty).

    Attributes:
        share: of the task's answers, 0 to 1.
        errors: failed calls of a variant (the router answers from another), or failures of the model, per second.
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
    """A language model: tokens per second, times in milliseconds, requests now, share of the KV cache in use."""

    model: str
    tokens: float
    first_token: Latency
    inter_token: Latency
    running: float
    waiting: float
    cache: float


@dataclass(frozen=True, slots=True)
class Frame:
    """All that is shown at a moment."""

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
    """By model that callers ask, the models whose requests are parts of those: the steps of an ensemble.

    An engine that streams is asked itself, by clients that follow the pin of its ensemble; whoever asks the ensemble
    asks the engine, too.
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
    """The rows.

    Args:
        windows: by replica.
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
    asked = window.counts("trireme_router_requests_total", "outcome")
    direct = _direct([window], steps)
    faults = sum(asked.get((outcome,), 0.0) for outcome in _SERVER_FAULTS) + sum(_failures([window], direct).values())
    return ReplicaRow(
        replica,
        bool(window.after.samples),
        (asked.get(("answered",), 0.0) + sum(direct.values())) / seconds,
        faults / seconds,
        sum(window.after.sums("trireme_router_waiting_rows").values())
        + sum(window.after.sums("nv_inference_pending_request_count").values()),
        _latency([window], "trireme_router_latency_seconds"),
    )


def _variant_rows(windows: Iterable[MetricsWindow]) -> list[ModelRow]:
    windows = list(windows)
    answers = _added(windows, "trireme_router_requests_total", "task", "variant", "version", outcome="answered")
    calls = _added(windows, "trireme_router_calls_total", "task", "variant")
    well = _added(windows, "trireme_router_calls_total", "task", "variant", outcome="ok")
    queued = _now(windows, "trireme_router_waiting_rows", "task", "variant")
    of_task: Counter[str] = Counter()
    for (task, _, _), count in answers.items():
        of_task[task] += count  # type: ignore[assignment]
    seconds = _seconds(windows)
    rows = []
    for (task, variant, version), count in sorted(answers.items()):
        failed = calls.get((task, variant), 0.0) - well.get((task, variant), 0.0)
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
    """By model and version, what callers asked without a router: all but steps, routers, and the routers' calls."""
    inner = {step for found in steps.values() for step in found}
    routers = {task for (task,) in _now(windows, "trireme_router_traffic_errors_total", "task")}
    calls = _added(windows, "trireme_router_calls_total", "variant", outcome="ok")
    direct: dict[tuple[str, ...], float] = {}
    for (model, version), count in _added(windows, _SUCCESS, "model", "version").items():
        if model not in inner and model not in routers:
            routed = sum(calls.get((name,), 0.0) for name in (model, *steps.get(model, ())))
            # What a router has not told of yet must not look like callers of the variant.
            untold = routed * _TELLING_SECONDS / _seconds(windows)
            direct[model, version] = count - routed if count - routed > untold else 0.0
    return direct


def _failures(windows: Sequence[MetricsWindow], models: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """By model and version of ``models``, failures but those that the caller cancelled."""
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
    """What counters rose by, over all replicas."""
    added: dict[tuple[str, ...], float] = {}
    for window in windows:
        for key, count in window.counts(name, *labels, **equal).items():
            added[key] = added.get(key, 0.0) + count
    return added


def _now(windows: Sequence[MetricsWindow], name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """What gauges say now, added up over all replicas."""
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
    """Triton's own quantiles, of the replica where they are highest: they cannot be added up."""
    found: dict[str, float] = {}
    for window in windows:
        for (share,), value in window.after.sums("nv_inference_request_summary_us", "quantile", **equal).items():
            found[share] = max(found.get(share, 0.0), value / 1000)
    present = operator.itemgetter("0.5", "0.95")
    return Latency(*present(found)) if {"0.5", "0.95"} <= found.keys() else Latency()
