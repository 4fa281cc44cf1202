"""The agent's HTTP: ``/livez``, ``/readyz``, ``/metrics``, ``POST /drain``."""

from __future__ import annotations

import threading
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from trireme.agent.metrics import AgentMetrics
from trireme.agent.report import AgentReport, AgentState
from trireme.agent.watch import AgentWatch


def make_app(watch: AgentWatch, metrics: AgentMetrics) -> FastAPI:
    """``/readyz`` is 200 in READY alone, ``/livez`` 503 in DEAD alone; both tell the report as JSON."""
    app = FastAPI(openapi_url=None)

    def told(well: bool, report: AgentReport) -> JSONResponse:
        body = {
            "state": report.state.value,
            "problems": {model: list(found) for model, found in report.problems.items()},
            "heals": report.heals,
            "last_heal": report.last_heal,
            "fault": report.fault,
        }
        return JSONResponse(body, 200 if well else 503)

    @app.get("/livez")
    async def livez() -> JSONResponse:
        report = watch.report
        return told(report.state is not AgentState.DEAD, report)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        report = watch.report
        return told(report.state is AgentState.READY, report)

    @app.get("/metrics")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.post("/drain")
    async def drain() -> JSONResponse:
        watch.drain()
        return told(True, watch.report)

    return app


class AgentServer(uvicorn.Server):
    """uvicorn, but that SIGTERM makes the replica red first and ends the agent when every proxy has seen it."""

    def __init__(self, app: FastAPI, watch: AgentWatch, host: str, port: int, drain_seconds: float) -> None:
        super().__init__(uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False))
        self._watch = watch
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        threading.Thread(target=self._leave, daemon=True).start()

    def _leave(self) -> None:
        self._watch.drain()
        time.sleep(self._drain_seconds)
        self.should_exit = True
