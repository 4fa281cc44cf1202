"""The gateway's HTTP endpoints."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from trireme_client import AsyncTriremeClient, ClientError, Endpoint

from trireme_gateway import kserve
from trireme_gateway.catalogue import EMBEDDING, GENERATION, Catalogue, PublicModel
from trireme_gateway.connection import EventStream, cancel_on_disconnect, read_body
from trireme_gateway.embedding import embed
from trireme_gateway.errors import ApiError, GatewayError, from_client_error
from trireme_gateway.fields import ChatFields, CompletionFields, EmbeddingFields, read_fields
from trireme_gateway.generation import Generation, GenerationRequest
from trireme_gateway.keys import KeyFile
from trireme_gateway.metrics import CONTENT_TYPE, Metrics
from trireme_gateway.rate_limits import RateLimits
from trireme_gateway.request_context import RequestContext, RequestContextMiddleware
from trireme_gateway.response_format import ChatFormat, CompletionFormat
from trireme_gateway.route_options import RouteOptions
from trireme_gateway.settings import GatewaySettings

_LOG = logging.getLogger(__name__)
_METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD"]


class Gateway:
    """The application and what its endpoints share.

    Example:
        >>> uvicorn.run(Gateway(GatewaySettings("127.0.0.1:8001", Address("127.0.0.1", 8080))).app)
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._limits = RateLimits()
        self._keys = KeyFile(settings.keys_path) if settings.keys_path else None
        self._client: AsyncTriremeClient
        self._catalogue: Catalogue
        self._http: aiohttp.ClientSession
        self.app = FastAPI(title="Trireme", lifespan=self._running, docs_url=None, redoc_url=None, openapi_url=None)
        self.app.add_middleware(RequestContextMiddleware, metrics=self._metrics)
        for path, method, endpoint in (
            ("/v1/chat/completions", "POST", self.chat),
            ("/v1/completions", "POST", self.complete),
            ("/v1/embeddings", "POST", self.embed),
            ("/v1/models", "GET", self.list_models),
            ("/v1/models/{model}", "GET", self.show_model),
        ):
            self.app.add_api_route(path, self._authenticated(endpoint), methods=[method], response_model=None)
        for path in ("/v2", "/v2/{path:path}"):
            self.app.add_api_route(path, self._authenticated(self.forward), methods=_METHODS, response_model=None)
        self.app.add_api_route("/healthz", self.healthz, methods=["GET"], response_model=None)
        self.app.add_api_route("/metrics", self.metrics, methods=["GET"], response_model=None)
        self.app.add_exception_handler(ApiError, _error_response)
        self.app.add_exception_handler(HTTPException, _unknown_route_response)
        self.app.add_exception_handler(ClientDisconnect, _disconnected_response)

    @contextlib.asynccontextmanager
    async def _running(self, app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG002
        timeout = aiohttp.ClientTimeout(total=self._settings.request_timeout_seconds)
        async with (
            AsyncTriremeClient(
                [Endpoint(one, direct=True) for one in self._settings.triton.split(",")]
            ) as self._client,
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as self._http,
        ):
            self._catalogue = Catalogue(self._client)
            yield

    # -- authentication -----------------------------------------------------------------------------------------------

    def _authenticated(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint behind authentication and the rate limits of the key."""

        async def authenticated(request: Request) -> Response:
            if self._on_metrics_port(request):
                raise ApiError(404, "this address serves only /metrics and /healthz", code="not_found")
            self._authenticate(request)
            return await endpoint(request)

        return authenticated

    def _authenticate(self, request: Request) -> None:
        if self._keys is None:
            return
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        try:
            key = self._keys.find(secret.strip()) if kind.lower() == "bearer" else None
        except GatewayError as error:
            _LOG.error("all requests are rejected: %s", error)
            raise ApiError(503, "The gateway cannot read its keys", kind="server_error", code="unavailable") from None
        if key is None:
            problem = "The API key is invalid" if secret else "An API key is required: send authorization: Bearer KEY"
            raise ApiError(401, problem, kind="authentication_error", code="invalid_api_key",
                           headers={"www-authenticate": "Bearer"})  # fmt: skip
        limits = self._limits.of(key)
        limits.enter()
        RequestContext.of(request).limits = limits

    def _on_metrics_port(self, request: Request) -> bool:
        own, here = self._settings.metrics_listen, request.scope.get("server")
        return own is not None and here is not None and here[1] == own.port

    # -- generation ----------------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        fields = read_fields(ChatFields, await read_body(request))
        renamed = {"structured_outputs": "response_format", "text_input": "messages", "prompt": "messages"}
        if fields.max_completion_tokens is not None:
            renamed["max_tokens"] = "max_completion_tokens"
        engine = await self._engine(request, fields.model)
        messages = [message.plain() for message in fields.messages]
        generation_request = GenerationRequest(
            fields.model, engine, [messages], fields.sampling(), fields.stream, fields.include_usage, False,
            self._route_options(request, fields), renamed,
        )  # fmt: skip
        return await self._generate(
            request, generation_request, ChatFormat(fields.model, include_usage=fields.include_usage)
        )

    async def complete(self, request: Request) -> Response:
        """``POST /v1/completions``."""
        fields = read_fields(CompletionFields, await read_body(request))
        engine = await self._engine(request, fields.model)
        generation_request = GenerationRequest(
            fields.model, engine, fields.prompts, fields.sampling(), fields.stream, fields.include_usage, fields.echo,
            self._route_options(request, fields), {"text_input": "prompt"},
        )  # fmt: skip
        return await self._generate(
            request, generation_request, CompletionFormat(fields.model, include_usage=fields.include_usage)
        )

    async def _generate(
        self, request: Request, generation_request: GenerationRequest, response_format: ChatFormat | CompletionFormat
    ) -> Response:
        context = RequestContext.of(request)
        generation = Generation(self._client, generation_request, context, self._metrics)
        if not generation_request.stream:
            return JSONResponse(response_format.whole(await cancel_on_disconnect(request.receive, generation.whole())))
        events = generation.events(response_format)
        try:
            # Before the first event an error can still set the status, and the headers can name the variant.
            first = await cancel_on_disconnect(request.receive, anext(events))
        except BaseException:
            await events.aclose()
            raise
        return EventStream(first, events, context, self._settings.stall_seconds)

    async def _engine(self, request: Request, model: str) -> str:
        """The requested model if it is an engine; "" if it is a route.

        Raises:
            ApiError: the model is not a language model.
        """
        spec = await self._catalogue.find(model, GENERATION)
        RequestContext.of(request).model = model
        return model if spec.decoupled else ""

    def _route_options(self, request: Request, fields: ChatFields | CompletionFields | EmbeddingFields) -> RouteOptions:
        return RouteOptions.read(request.headers, fields.sticky_key, self._settings.request_timeout_seconds)

    # -- other endpoints -----------------------------------------------------------------------------------------------

    async def embed(self, request: Request) -> Response:
        """``POST /v1/embeddings``."""
        fields = read_fields(EmbeddingFields, await read_body(request))
        context, options = RequestContext.of(request), self._route_options(request, fields)
        spec = await self._catalogue.find(fields.model, EMBEDDING)
        context.model = fields.model
        work = embed(self._client, fields, spec, options, context)
        return JSONResponse(await cancel_on_disconnect(request.receive, work))

    async def list_models(self, request: Request) -> Response:  # noqa: ARG002
        """``GET /v1/models``."""
        return JSONResponse({"object": "list", "data": [_model_object(model) for model in await self._models()]})

    async def show_model(self, request: Request) -> Response:
        """``GET /v1/models/{model}``."""
        models = {model.name: model for model in await self._models()}
        name = request.path_params["model"]
        if name not in models:
            raise ApiError(404, f"The model {name[:100]!r} does not exist; available: {', '.join(models) or 'none'}",
                           param="model", code="model_not_found")  # fmt: skip
        return JSONResponse(_model_object(models[name]))

    async def _models(self) -> tuple[PublicModel, ...]:
        try:
            return await self._catalogue.models()
        except ClientError as error:
            raise from_client_error(error) from error

    async def forward(self, request: Request) -> Response:
        """``/v2``."""
        return await kserve.forward(self._http, self._http_url, request)

    @property
    def _http_url(self) -> str:
        return f"http://{self._settings.triton_http}" if self._settings.triton_http else ""

    async def healthz(self) -> Response:
        """200 while Triton is ready."""
        ready = await self._client.is_ready(deadline_ms=1000)
        return JSONResponse({"status": "ok" if ready else "Triton is not ready"}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Metrics in Prometheus' text format; needs a key unless they have an address of their own."""
        if not self._on_metrics_port(request):
            self._authenticate(request)
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})


def _model_object(model: PublicModel) -> dict[str, object]:
    """OpenAI's model object, with two fields of our own: task and tier."""
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "trireme", "task": model.task,
            "tier": model.tier or None}  # fmt: skip


async def _error_response(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, ApiError)
    return Response(error.json(), error.status, error.headers, "application/json")


async def _unknown_route_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = f"{request.method} {request.url.path[:200]}: {error.detail}"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    return await _error_response(request, ApiError(error.status_code, problem, code=code))


async def _disconnected_response(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """The caller disconnected: nobody receives the response."""
    return Response(status_code=499)
