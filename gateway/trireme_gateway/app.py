"""The gateway's routes."""

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
from trireme_gateway.asks import RouteAsk
from trireme_gateway.catalogue import EMBEDDING, GENERATION, Catalogue, PublicModel
from trireme_gateway.connection import EventStream, read_body, unless_gone
from trireme_gateway.embedding import embed
from trireme_gateway.errors import ApiError, GatewayError, from_client_error
from trireme_gateway.fields import ChatFields, CompletionFields, EmbeddingFields, read_fields
from trireme_gateway.forms import ChatForm, CompletionForm
from trireme_gateway.generation import Generation, GenerationAsk
from trireme_gateway.keys import KeyFile
from trireme_gateway.limits import Limits
from trireme_gateway.metrics import CONTENT_TYPE, Metrics
from trireme_gateway.settings import GatewaySettings
from trireme_gateway.visit import Visit, Visits

_LOG = logging.getLogger(__name__)
_METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD"]


class Gateway:
    """What the routes share.

    Example:
        >>> uvicorn.run(Gateway(GatewaySettings("127.0.0.1:8001", Address("127.0.0.1", 8080))).app)
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._limits = Limits()
        self._keys = KeyFile(settings.keys_path) if settings.keys_path else None
        self._client: AsyncTriremeClient
        self._catalogue: Catalogue
        self._http: aiohttp.ClientSession
        self.app = FastAPI(title="Trireme", lifespan=self._running, docs_url=None, redoc_url=None, openapi_url=None)
        self.app.add_middleware(Visits, metrics=self._metrics)
        for path, method, endpoint in (
            ("/v1/chat/completions", "POST", self.chat),
            ("/v1/completions", "POST", self.complete),
            ("/v1/embeddings", "POST", self.embed),
            ("/v1/models", "GET", self.list_models),
            ("/v1/models/{model}", "GET", self.show_model),
        ):
            self.app.add_api_route(path, self._for_keys(endpoint), methods=[method], response_model=None)
        for path in ("/v2", "/v2/{path:path}"):
            self.app.add_api_route(path, self._for_keys(self.forward), methods=_METHODS, response_model=None)
        self.app.add_api_route("/healthz", self.healthz, methods=["GET"], response_model=None)
        self.app.add_api_route("/metrics", self.metrics, methods=["GET"], response_model=None)
        self.app.add_exception_handler(ApiError, _tell_error)
        self.app.add_exception_handler(HTTPException, _tell_unknown_route)
        self.app.add_exception_handler(ClientDisconnect, _tell_nobody)

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

    # -- who may come in -----------------------------------------------------------------------------------------------

    def _for_keys(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The same, for those who show a key, within its limits."""

        async def entered(request: Request) -> Response:
            if self._on_metrics_port(request):
                raise ApiError(404, "this address serves /metrics and /healthz alone", code="not_found")
            self._authenticate(request)
            return await endpoint(request)

        return entered

    def _authenticate(self, request: Request) -> None:
        if self._keys is None:
            return
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        try:
            key = self._keys.find(secret.strip()) if kind.lower() == "bearer" else None
        except GatewayError as error:
            _LOG.error("nobody is let in: %s", error)
            raise ApiError(503, "The gateway cannot read its keys", kind="server_error", code="unavailable") from None
        if key is None:
            problem = "The API key is not known" if secret else "An API key is needed: authorization: Bearer KEY"
            raise ApiError(401, problem, kind="authentication_error", code="invalid_api_key",
                           headers={"www-authenticate": "Bearer"})  # fmt: skip
        limits = self._limits.of(key)
        limits.enter()
        Visit.of(request).limits = limits

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
        ask = GenerationAsk(
            fields.model, engine, [messages], fields.sampling(), fields.stream, fields.include_usage, False,
            self._asked(request, fields), renamed,
        )  # fmt: skip
        return await self._generate(request, ask, ChatForm(fields.model, include_usage=fields.include_usage))

    async def complete(self, request: Request) -> Response:
        """``POST /v1/completions``."""
        fields = read_fields(CompletionFields, await read_body(request))
        engine = await self._engine(request, fields.model)
        ask = GenerationAsk(
            fields.model, engine, fields.prompts, fields.sampling(), fields.stream, fields.include_usage, fields.echo,
            self._asked(request, fields), {"text_input": "prompt"},
        )  # fmt: skip
        return await self._generate(request, ask, CompletionForm(fields.model, include_usage=fields.include_usage))

    async def _generate(self, request: Request, ask: GenerationAsk, form: ChatForm | CompletionForm) -> Response:
        visit = Visit.of(request)
        generation = Generation(self._client, ask, visit, self._metrics)
        if not ask.stream:
            return JSONResponse(form.whole(await unless_gone(request.receive, generation.whole())))
        events = generation.events(form)
        try:
            # Before the first piece an error still has a status, and the headers can say who answers.
            first = await unless_gone(request.receive, anext(events))
        except BaseException:
            await events.aclose()
            raise
        return EventStream(first, events, visit, self._settings.stall_seconds)

    async def _engine(self, request: Request, model: str) -> str:
        """The model that a request names, where it answers itself; "" where it is a route.

        Raises:
            ApiError: it is no language model.
        """
        spec = await self._catalogue.find(model, GENERATION)
        Visit.of(request).model = model
        return model if spec.decoupled else ""

    def _asked(self, request: Request, fields: ChatFields | CompletionFields | EmbeddingFields) -> RouteAsk:
        return RouteAsk.read(request.headers, fields.sticky_key, self._settings.request_timeout_seconds)

    # -- others --------------------------------------------------------------------------------------------------------

    async def embed(self, request: Request) -> Response:
        """``POST /v1/embeddings``."""
        fields = read_fields(EmbeddingFields, await read_body(request))
        visit, ask = Visit.of(request), self._asked(request, fields)
        spec = await self._catalogue.find(fields.model, EMBEDDING)
        visit.model = fields.model
        work = embed(self._client, fields, spec, ask, visit)
        return JSONResponse(await unless_gone(request.receive, work))

    async def list_models(self, request: Request) -> Response:  # noqa: ARG002
        """``GET /v1/models``."""
        return JSONResponse({"object": "list", "data": [_told(model) for model in await self._models()]})

    async def show_model(self, request: Request) -> Response:
        """``GET /v1/models/{model}``."""
        models = {model.name: model for model in await self._models()}
        name = request.path_params["model"]
        if name not in models:
            raise ApiError(404, f"The model {name[:100]!r} does not exist; there is: {', '.join(models) or 'none'}",
                           param="model", code="model_not_found")  # fmt: skip
        return JSONResponse(_told(models[name]))

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
        """200 while Triton says that it is ready."""
        ready = await self._client.is_ready(deadline_ms=1000)
        return JSONResponse({"status": "ok" if ready else "Triton is not ready"}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text; for those who have a key, unless it stands on an address of its own."""
        if not self._on_metrics_port(request):
            self._authenticate(request)
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})


def _told(model: PublicModel) -> dict[str, object]:
    """OpenAI's form of a model; what it does and at which tier is ours."""
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "trireme", "task": model.task,
            "tier": model.tier or None}  # fmt: skip


async def _tell_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, ApiError)
    return Response(error.json(), error.status, error.headers, "application/json")


async def _tell_unknown_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = f"{request.method} {request.url.path[:200]}: {error.detail}"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    return await _tell_error(request, ApiError(error.status_code, problem, code=code))


async def _tell_nobody(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """The caller left: what is answered reaches nobody."""
    return Response(status_code=499)
