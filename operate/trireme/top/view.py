"""Rendering of a frame for a terminal with 80 columns."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from trireme_backends.routing.route import CANARY_SUFFIX

from trireme.serving.run_state import Phase
from trireme.top.frame import Frame, Latency, ModelRow, ReplicaRow


def render(frame: Frame) -> RenderableType:
    """Render the screen."""
    parts: list[RenderableType] = [_head(frame), Text(), _replicas(frame)]
    if frame.models:
        parts += [Text(), _models(frame)]
    if frame.languages:
        parts += [Text(), _languages(frame)]
    if problems := _problems(frame):
        parts += [Text(), *problems]
    return Group(*parts)


def _head(frame: Frame) -> Text:
    state = frame.state
    ready = sum(row.state.phase is Phase.SERVING for row in frame.replicas)
    minutes, seconds = divmod(int(time.time() - state.started_at), 60)
    head = Text("trireme top", style="bold")
    head.append(f"   {state.phase.value}", style="green" if state.phase is Phase.SERVING else "red")
    head.append(f"   {ready} of {len(frame.replicas)} replicas ready   up {minutes} min {seconds} s", style="not bold")
    head.append(
        f"\n{frame.rate:.1f} requests/s   {frame.errors:.1f} errors/s   gRPC {state.grpc_address}", style="not bold"
    )
    return head


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), expand=False, header_style="bold")
    table.add_column(first, no_wrap=True, overflow="ellipsis")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _replicas(frame: Frame) -> Table:
    table = _table("replica", "zone", "state", "req/s", "p50 ms", "p95 ms", "queue", "err/s", "heals", "restarts")
    for row in frame.replicas:
        replica = row.state
        table.add_row(
            replica.name,
            replica.zone,
            Text(_phase(row), style="green" if row.answers and replica.phase is Phase.SERVING else "red"),
            *_rate_cells(row.rate, row.latency, row.queued, row.errors),
            str(replica.heals),
            str(replica.restarts),
        )
    return table


def _phase(row: ReplicaRow) -> str:
    # The agent has not detected it yet.
    return "silent" if row.state.phase is Phase.SERVING and not row.answers else row.state.phase.value


def _models(frame: Frame) -> Table:
    table = _table("task and variant, or model", "version", "share", "req/s", "p50 ms", "p95 ms", "queue", "err/s")
    task = ""
    for row in frame.models:
        if row.task != task:
            task = row.task
            table.add_row(Text(task or "without a router", style="bold"))
        table.add_row(
            Text(f"  {row.model}", style="yellow" if row.model.endswith(CANARY_SUFFIX) else ""),
            row.version,
            _share(row),
            *_rate_cells(row.rate, row.latency, row.queued, row.errors),
        )
    return table


def _share(row: ModelRow) -> str:
    return "" if row.share is None else f"{100 * row.share:.1f}%"


def _languages(frame: Frame) -> Table:
    table = _table("language model", "tokens/s", "first p50", "p95 ms", "next p50", "p95 ms", "run", "wait", "cache")
    for row in frame.languages:
        table.add_row(
            row.model,
            f"{row.tokens:.1f}",
            *_latency_cells(row.first_token),
            *_latency_cells(row.inter_token),
            f"{row.running:.0f}",
            f"{row.waiting:.0f}",
            f"{100 * row.cache:.0f}%",
        )
    return table


def _rate_cells(rate: float, latency: Latency, queued: float, errors: float) -> tuple[str | Text, ...]:
    return (
        f"{rate:.1f}",
        *_latency_cells(latency),
        f"{queued:.0f}",
        Text(f"{errors:.1f}", style="red" if errors > 0 else ""),
    )


def _latency_cells(latency: Latency) -> tuple[str, str]:
    p50, p95 = (f"{value:.1f}" if value is not None else "-" for value in (latency.p50_ms, latency.p95_ms))
    return p50, p95


def _problems(frame: Frame) -> list[Text]:
    lines = []
    for row in frame.replicas:
        replica = row.state
        lines += [Text(f"{replica.name}: {sentence}", style="red") for sentence in replica.problem_sentences()]
        if replica.last_fault:
            lines.append(Text(f"{replica.name}: last fault: {replica.last_fault}", style="yellow"))
    lines += [Text(f"skipped: {name}: {reason}", style="dim") for name, reason in frame.state.left_out.items()]
    return lines
