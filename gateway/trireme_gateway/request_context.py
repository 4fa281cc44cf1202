"""The context of one request: what is logged and counted for it."""

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
from trireme_gateway.metrics import Metrics
from trireme_gateway.rate_limits import KeyRateLimits

_LOG = logging.getLogger(__name__)
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# As nginx says that the caller left.
CLIENT_CLOSED_REQUEST = 499


@dataclass(slots=True)
class RequestContext:
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
    limits: KeyRateLimits | None = None
    status: int = CLIENT_CLOSED_REQUEST
    fault: str = ""

    @classmethod
    def of(cls, request: Request) -> RequestContext:
        context: RequestContext = request.scope["state"]["context"]
        return context

    def answered_by(self, variant: str, version: str, reason: str) -> None:
        self.variant, self.version, self.reason = variant, version, reason

    def used(self, input_tokens: int, output_tokens: int) -> None:
        """Count tokens, also against the key's limit."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        if self.limits is not None:
            self.limits.count_tokens(input_tokens + output_tokens)

    def headers(self) -> dict[str, str]:
        """Headers of every response."""
        headers = {
            "x-request-id": self.request_id,
            "x-trireme-variant": self.variant,
            "x-trireme-version": self.version,
            "x-trireme-reason": self.reason.replace("\n", " "),
        }
        headers = {name: value for name, value in headers.items() if value}
        return headers if self.limits is None else {**headers, **self.limits.headers()}


class RequestContextMiddleware:
    """ASGI middleware: begins and ends the ``RequestContext`` of each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        state = scope.setdefault("state", {})
        context = RequestContext(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, state.get("transport"))
        state["context"] = context

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                own = ((name.encode(), value.encode("latin-1", "replace")) for name, value in context.headers().items())
                message["headers"] = [*message["headers"], *own]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            _LOG.exception("unhandled exception", extra={"request_id": context.request_id})
            context.fault = f"{type(error).__name__}: {error}"
            if context.status != CLIENT_CLOSED_REQUEST:
                raise  # the answer had begun
            problem = f"The gateway failed; see its log for request {context.request_id}"
            error_body = ApiError(500, problem, kind="server_error", code="internal_error")
            await Response(error_body.json(), 500, media_type="application/json")(scope, receive, send_with_headers)
        finally:
            self._end(context, scope)

    def _end(self, context: RequestContext, scope: Scope) -> None:
        seconds = time.monotonic() - context.began
        route = scope.get("route")
        endpoint = getattr(route, "path", "")
        metrics = self._metrics
        metrics.requests.labels(endpoint, context.model, context.version, str(context.status)).inc()
        metrics.request_seconds.labels(endpoint).observe(seconds)
        if context.input_tokens:
            metrics.input_tokens.labels(context.model).inc(context.input_tokens)
        if context.output_tokens:
            metrics.output_tokens.labels(context.model).inc(context.output_tokens)
        # Probes arrive every second and are not logged while they succeed.
        level = logging.DEBUG if endpoint in ("/healthz", "/metrics") and context.status == 200 else logging.INFO
        _LOG.log(
            level,
            "%s %s: %d%s",
            scope["method"],
            scope["path"][:200],
            context.status,
            f", {context.fault}" if context.fault else "",
            extra={
                "request_id": context.request_id,
                "model": context.model,
                "version": context.version,
                "variant": context.variant,
                "key": context.limits.key.name if context.limits else "",
                "status": context.status,
                "duration_ms": round(seconds * 1000, 1),
                "input_tokens": context.input_tokens or None,
                "output_tokens": context.output_tokens or None,
            },
        )
