"""The agent's HTTP endpoints: ``/livez``, ``/readyz``, ``/metrics``, ``POST /drain``."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from trireme.agent.metrics import AgentMetrics
from trireme.agent.process import AgentReport, AgentState
from trireme.agent.watch import AgentWatch
from trireme.processes.server_metrics import wait_until_quiet

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """How an agent shuts down.

    Attributes:
        notice_seconds: time for proxies to detect that the replica is not ready.
        deadline_seconds: for requests in flight afterwards.
    """

    notice_seconds: float = 2.5
    deadline_seconds: float = 30.0


def make_app(watch: AgentWatch, metrics: AgentMetrics) -> FastAPI:
    """``/readyz`` is 200 only in READY, ``/livez`` is 503 only in DEAD; both return the report as JSON."""
    app = FastAPI(openapi_url=None)

    def response(is_ok: bool, report: AgentReport) -> JSONResponse:
        return JSONResponse(asdict(report), 200 if is_ok else 503)

    @app.get("/livez")
    async def livez() -> JSONResponse:
        report = watch.report
        return response(report.state is not AgentState.DEAD, report)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        report = watch.report
        return response(report.state is AgentState.READY, report)

    @app.get("/metrics")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.post("/drain")
    async def drain() -> JSONResponse:
        watch.drain()
        return response(True, watch.report)

    return app


class AgentServer(uvicorn.Server):
    """A uvicorn server that reacts to SIGTERM by draining: not ready first, exit when requests in flight are done."""

    def __init__(
        self, app: FastAPI, watch: AgentWatch, host: str, port: int, metrics_address: str, policy: DrainPolicy
    ) -> None:
        super().__init__(uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False))
        self._watch = watch
        self._metrics_address = metrics_address
        self._policy = policy

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del sig, frame
        threading.Thread(target=self._drain_and_exit, daemon=True).start()

    def _drain_and_exit(self) -> None:
        self._watch.drain()
        time.sleep(self._policy.notice_seconds)
        if not wait_until_quiet(self._metrics_address, self._policy.deadline_seconds):
            _LOG.warning("requests are still in flight after %.0f s", self._policy.deadline_seconds)
        self.should_exit = True
