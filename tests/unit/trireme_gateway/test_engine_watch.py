"""Detection of dead engines, with a fake client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from trireme_client import DeadlineError, InvalidRequestError
from trireme_gateway import engine_watch
from trireme_gateway.engine_watch import EngineWatch


class _Client:
    """Rejects each probe after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def stream(self, model: str, inputs: Any, *, affinity_key: str, deadline_ms: float) -> AsyncIterator[Any]:  # noqa: ARG002
        await asyncio.sleep(min(self._seconds, deadline_ms / 1000))
        if deadline_ms < self._seconds * 1000:
            raise DeadlineError(deadline_ms, sent=True)
        raise InvalidRequestError("invalid_request (text_input): is empty")
        yield


async def _seconds_until_dead(client: Any, most_s: float) -> float | None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    watch = EngineWatch(client, "engine", "", streams=True)
    try:
        await asyncio.wait_for(watch.until_dead(), most_s)
    except asyncio.TimeoutError:
        return None
    return loop.time() - began


@pytest.mark.parametrize(("probe_s", "pressure", "dies"), [(1.0, 0, True), (1.0, 75, False), (30.0, 75, True)])
def test_a_slow_engine_is_alive_while_the_machine_is_busy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, probe_s: float, pressure: int, dies: bool
) -> None:
    path = tmp_path / "cpu"
    path.write_text(f"some avg10={pressure}.00 avg60=0.00 avg300=0.00 total=1\n")
    monkeypatch.setattr(engine_watch, "_CPU_PRESSURE", path)
    monkeypatch.setattr(engine_watch, "_SILENT_SECONDS", 0.1)
    monkeypatch.setattr(engine_watch, "_LOOK_SECONDS", 0.01)
    seconds = asyncio.run(_seconds_until_dead(_Client(probe_s), most_s=4.0 if not dies else 30.0))
    assert (seconds is not None) == dies
