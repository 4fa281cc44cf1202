"""One request to the gateway, and what is noted, logged and counted of it."""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trireme_gateway.errors import ApiError
from trireme_gateway.limits import KeyLimits
from trireme_gateway.metrics import Metrics

_LOG = logging.getLogger(__name__)
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# As nginx says that the caller left.
CLIENT_CLOSED_REQUEST = 499


@dataclass(slots=True)
class Visit:
    """What is known of one request; filled in as it goes on.

    Attributes:
        model: as asked for, once it is known to exist: metrics must not grow with what callers make up.
        variant, version: which answered.
        limits: of the caller's key; None without keys.
        status: of the answer; 499 when the caller left before its end.
        fault: what went wrong after the answer had begun.
    """

    request_id: str
    transport: Any
    began: float = field(default_factory=time.monotonic)
    model: str = ""
    variant: str = ""
    version: str = ""
    reason: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    limits: KeyLimits | None = None
    status: int = CLIENT_CLOSED_REQUEST
    fault: str = ""

    @classmethod
    def of(cls, request: Request) -> Visit:
        visit: Visit = request.scope["state"]["visit"]
        return visit

    def answered_by(self, variant: str, version: str, reason: str) -> None:
        self.variant, self.version, self.reason = variant, version, reason

    def used(self, input_tokens: int, output_tokens: int) -> None:
        """Note tokens, and take them from the key's limit."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        if self.limits is not None:
            self.limits.count_tokens(input_tokens + output_tokens)

    def headers(self) -> dict[str, str]:
        """What every answer says of itself."""
        told = {
            "x-request-id": self.request_id,
            "x-trireme-variant": self.variant,
            "x-trireme-version": self.version,
            "x-trireme-reason": self.reason.replace("\n", " "),
        }
        told = {name: value for name, value in told.items() if value}
        return told if self.limits is None else {**told, **self.limits.headers()}


class Visits:
    """ASGI middleware: begins and ends the ``Visit`` of each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        state = scope.setdefault("state", {})
        visit = Visit(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, state.get("transport"))
        state["visit"] = visit

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                own = ((name.encode(), value.encode("latin-1", "replace")) for name, value in visit.headers().items())
                message["headers"] = [*message["headers"], *own]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            _LOG.exception("a fault of the gateway", extra={"request_id": visit.request_id})
            visit.fault = f"{type(error).__name__}: {error}"
            if visit.status != CLIENT_CLOSED_REQUEST:
                raise  # the answer had begun
            problem = f"The gateway failed; its log tells why, under {visit.request_id}"
            told = ApiError(500, problem, kind="server_error", code="internal_error")
            await Response(told.json(), 500, media_type="application/json")(scope, receive, noting)
        finally:
            self._end(visit, scope)

    def _end(self, visit: Visit, scope: Scope) -> None:
        seconds = time.monotonic() - visit.began
        route = scope.get("route")
        endpoint = getattr(route, "path", "")
        metrics = self._metrics
        metrics.requests.labels(endpoint, visit.model, visit.version, str(visit.status)).inc()
        metrics.request_seconds.labels(endpoint).observe(seconds)
        if visit.input_tokens:
            metrics.input_tokens.labels(visit.model).inc(visit.input_tokens)
        if visit.output_tokens:
            metrics.output_tokens.labels(visit.model).inc(visit.output_tokens)
        # Probes come every second, and say nothing while all is well.
        level = logging.DEBUG if endpoint in ("/healthz", "/metrics") and visit.status == 200 else logging.INFO
        _LOG.log(
            level,
            "%s %s: %d%s",
            scope["method"],
            scope["path"][:200],
            visit.status,
            f", {visit.fault}" if visit.fault else "",
            extra={
                "request_id": visit.request_id,
                "model": visit.model,
                "version": visit.version,
                "variant": visit.variant,
                "key": visit.limits.key.name if visit.limits else "",
                "status": visit.status,
                "duration_ms": round(seconds * 1000, 1),
                "input_tokens": visit.input_tokens or None,
                "output_tokens": visit.output_tokens or None,
            },
        )
