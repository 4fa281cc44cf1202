"""Rows computed from the metrics of two replicas."""

from __future__ import annotations

import dataclasses

import pytest
from rich.console import Console
from trireme.processes.server_metrics import Metrics, MetricsWindow
from trireme.serving.run_state import Phase, ReplicaState, ServingState
from trireme.top.frame import Frame, Latency, frame_of
from trireme.top.view import render

REPLICAS = tuple(
    ReplicaState(name, zone, Phase.SERVING, "h:1", "h:2", "h:3", "h:4", server_pid=1, heals=heals)
    for name, zone, heals in (("r0", "a", 0), ("r1", "b", 3))
)
STATE = ServingState(1, 0.0, Phase.SERVING, "127.0.0.1:8001", "127.0.0.1:8000", replicas=REPLICAS)
STEPS = {"v": ["v_encoder"], "v__canary": ["v_encoder"]}


def page(*, stable: int, canary: int, failed: int = 0, direct: int = 0, waiting: int = 0) -> str:
    """Metrics of a replica whose router served this many requests with variant v and its canary."""
    labels = 'task="t",reason="requested_tier",outcome="answered"'
    return "\n".join(
        [
            f'trireme_router_requests_total{{{labels},variant="v",version="1"}} {stable}',
            f'trireme_router_requests_total{{{labels},variant="v__canary",version="2"}} {canary}',
            f'trireme_router_requests_total{{task="t",reason="",outcome="unavailable",variant="",version=""}} {failed}',
            'trireme_router_requests_total{task="t",reason="",outcome="invalid",variant="",version=""} 77',
            f'trireme_router_calls_total{{task="t",variant="v",outcome="ok"}} {stable}',
            f'trireme_router_calls_total{{task="t",variant="v",outcome="late"}} {failed}',
            f'trireme_router_calls_total{{task="t",variant="v__canary",outcome="ok"}} {canary}',
            'trireme_router_traffic_errors_total{task="t"} 0',
            f'trireme_router_waiting_rows{{task="t",variant="v"}} {waiting}',
            *(
                f'trireme_router_latency_seconds_bucket{{task="t",variant="v",le="{le}"}} {count}'
                for le, count in (("0.01", stable * 0.9), ("0.02", stable), ("+Inf", stable))
            ),
            "# TYPE nv_inference_request_success counter",
            f'nv_inference_request_success{{model="t",version="1"}} {stable + canary}',
            f'nv_inference_request_success{{model="v",version="1"}} {stable}',
            f'nv_inference_request_success{{model="v__canary",version="1"}} {canary}',
            f'nv_inference_request_success{{model="v_encoder",version="1"}} {stable + canary}',
            f'nv_inference_request_success{{model="plain",version="7"}} {direct}',
            "# TYPE nv_inference_request_summary_us summary",
            'nv_inference_request_summary_us{model="plain",version="7",quantile="0.5"} 1500',
            'nv_inference_request_summary_us{model="plain",version="7",quantile="0.95"} 2500',
            "# TYPE nv_inference_request_failure counter",
            f'nv_inference_request_failure{{model="plain",version="7",reason="BACKEND"}} {direct / 10}',
            f'nv_inference_request_failure{{model="plain",version="7",reason="CANCELED"}} {direct}',
            "# TYPE nv_inference_pending_request_count gauge",
            'nv_inference_pending_request_count{model="plain",version="7"} 2',
            "",
        ]
    )


def frame(before: str, *after: str, state: ServingState = STATE) -> Frame:
    """A frame over two seconds; ``after`` has one page per replica."""
    start = Metrics.parse(before)
    pages = [dataclasses.replace(Metrics.parse(text), at=start.at + 2) for text in after]
    windows = {replica.name: MetricsWindow(start, page) for replica, page in zip(REPLICAS, pages, strict=True)}
    return frame_of(state, windows, STEPS)


BEFORE = page(stable=100, canary=10)
TYPICAL = frame(
    BEFORE,
    page(stable=180, canary=20, direct=40, waiting=5),
    page(stable=160, canary=40, failed=4),
)


def test_a_canary_has_its_share_of_the_task_over_all_replicas() -> None:
    rows = {row.model: row for row in TYPICAL.models}
    assert list(rows) == ["v", "v__canary", "plain"]
    assert [(row.task, row.version, row.share) for row in rows.values()] == [
        ("t", "1", pytest.approx(0.777, abs=0.001)),
        ("t", "2", pytest.approx(0.222, abs=0.001)),
        ("", "7", None),
    ]
    assert [row.rate for row in rows.values()] == [70, 20, 20]
    assert rows["v"].queued == 5
    assert rows["v"].errors == 2
    assert rows["v"].latency == Latency(pytest.approx(5.56, abs=0.01), pytest.approx(15))
    # Requests cancelled by the caller are not failures.
    assert rows["plain"].errors == 2
    assert rows["plain"].latency == Latency(1.5, 2.5)


def test_steps_and_router_calls_are_not_counted_as_requests() -> None:
    assert [row.rate for row in TYPICAL.replicas] == [65, 45]
    assert TYPICAL.rate == 110


def test_streams_are_counted_at_the_engine() -> None:
    """Clients follow the pin of a decoupled variant; the engine also counts the ten requests to the variant itself."""

    def page(*, engine: int, variant: int, routed: int) -> Metrics:
        return Metrics.parse(
            "# TYPE nv_inference_request_success counter\n"
            f'nv_inference_request_success{{model="engine",version="2"}} {engine}\n'
            f'nv_inference_request_success{{model="variant",version="1"}} {variant}\n'
            f'trireme_router_calls_total{{task="t",variant="variant",outcome="ok"}} {routed}\n'
            'trireme_router_traffic_errors_total{task="t"} 0\n'
        )

    before = page(engine=0, variant=0, routed=0)
    after = dataclasses.replace(page(engine=100, variant=10, routed=60), at=before.at + 2)
    shown = frame_of(
        dataclasses.replace(STATE, replicas=REPLICAS[:1]), {"r0": MetricsWindow(before, after)}, {"engine": ["variant"]}
    )
    assert [(row.model, row.version, row.rate) for row in shown.models] == [("engine", "2", 20)]


def test_rejected_requests_are_not_counted_as_errors() -> None:
    assert [row.errors for row in TYPICAL.replicas] == [2, 2]


def test_a_replica_without_metrics_is_shown_as_silent() -> None:
    shown = frame(BEFORE, page(stable=180, canary=20), "")
    assert [row.answers for row in shown.replicas] == [True, False]
    assert "silent" in text_of(shown)


def text_of(shown: Frame, width: int = 80) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(render(shown))
    return capture.get()


def test_long_names_fit_into_80_columns() -> None:
    text = text_of(TYPICAL)
    assert max(len(line) for line in text.splitlines()) <= 80
    for word in ("2 of 2 replicas ready", "110.0 requests/s", "v__canary", "22.2%", "without a router", "plain"):
        assert word in text


def test_problems_are_listed_below() -> None:
    broken = dataclasses.replace(
        REPLICAS[1], phase=Phase.RESTARTING, problems={"m": ("wrong answer",)}, last_fault="process died"
    )
    state = dataclasses.replace(STATE, replicas=(REPLICAS[0], broken), left_out={"g": "no weights"})
    text = text_of(frame(BEFORE, BEFORE, BEFORE, state=state))
    for line in (
        "1 of 2 replicas ready",
        "r1: m: wrong answer",
        "r1: last fault: process died",
        "skipped: g: no weights",
    ):
        assert line in text
