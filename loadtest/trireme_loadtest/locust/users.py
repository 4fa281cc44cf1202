"""Locust users of a Triton server: with this project's client, with bare tritonclient, and with KServe over HTTP.

``loadtest/locustfile.py`` has all three; your own locustfile imports those it needs:

    from trireme_loadtest.locust.users import TritonGrpcUser

Importing this module patches gRPC for gevent. Without the patch a blocking call stops every user of the process, so
that they run one after another, or hang forever (locustio/locust#1676). The import fails if the patch cannot work.
"""

from __future__ import annotations

import functools
import random
import time
from pathlib import Path
from typing import Any

import gevent.monkey
import tritonclient.grpc as triton_grpc
from grpc.experimental.gevent import init_gevent
from locust import FastHttpUser, User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from trireme.errors import TriremeError
from trireme.repository.golden import Tensors
from trireme_client import (
    ClientError,
    DeadlineError,
    Endpoint,
    InvalidRequestError,
    ModelNotFoundError,
    ServerFaultError,
    TriremeClient,
    UnavailableError,
)
from trireme_client.grpc_transport import channel_options
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from trireme_loadtest.generate.requests import WeightedModel, http_body

_STATUS_OF = {
    DeadlineError: "DEADLINE_EXCEEDED",
    UnavailableError: "UNAVAILABLE",
    InvalidRequestError: "INVALID_ARGUMENT",
    ModelNotFoundError: "NOT_FOUND",
}


def _patch_grpc() -> None:
    # Locust patches the standard library when it is imported; gRPC is patched on top of that.
    if not gevent.monkey.is_module_patched("socket") or not gevent.monkey.is_module_patched("threading"):
        raise SystemExit(
            "gevent has not patched the standard library, so gRPC users would block each other; start this file with "
            "the locust command, without LOCUST_SKIP_MONKEY_PATCH, and import locust before anything else"
        )
    init_gevent()


_patch_grpc()


class GrpcFailure(Exception):  # noqa: N818 - Locust shows its name and text, counted by text
    """A failed request; its text is the gRPC status alone, so that Locust groups failures by it."""


def status_of(error: ClientError) -> str:
    """The gRPC status of a client's error."""
    if isinstance(error, ServerFaultError):
        return error.status
    return next((status for kind, status in _STATUS_OF.items() if isinstance(error, kind)), type(error).__name__)


def _add_options(parser: LocustArgumentParser) -> None:
    # By default Locust listens on every interface, without a password.
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1")
    parser.add_argument(
        "--models", default="embedding_standard=3,sentiment_standard=1", help="Models to load: MODEL=WEIGHT,..."
    )
    parser.add_argument("--inputs", default="", help="File of texts, one per line; default: golden samples")
    parser.add_argument("--grpc-address", default="127.0.0.1:8001", help="gRPC server, host:port")
    parser.add_argument("--http-address", default="127.0.0.1:8000", help="HTTP server, host:port")
    parser.add_argument("--request-deadline", type=float, default=30.0, help="Deadline of each request, in seconds")


@functools.cache
def _load_tasks(models: str, inputs: str) -> list[WeightedModel]:
    return [WeightedModel.parse(model, Path(inputs) if inputs else None) for model in models.split(",")]


def _check_options(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    if options is None:
        return
    try:
        _load_tasks(options.models, options.inputs)
    except (TriremeError, OSError) as error:
        raise SystemExit(f"locust: {error}") from None


events.init_command_line_parser.add_listener(_add_options)  # type: ignore[no-untyped-call]
events.init.add_listener(_check_options)  # type: ignore[no-untyped-call]


class _ModelUser(User):
    """Repeatedly sends one of the inputs of one of the weighted models."""

    abstract = True
    wait_time = constant(0)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        self._tasks = _load_tasks(options.models, options.inputs)
        self._weights = [one.weight for one in self._tasks]

    @task
    def send_request(self) -> None:
        (chosen,) = random.choices(self._tasks, self._weights)
        self.infer(chosen.model, random.choice(chosen.inputs))

    def infer(self, model: str, inputs: Tensors) -> None:
        raise NotImplementedError


class _GrpcUser(_ModelUser):
    """Times a blocking call and reports it to Locust; subclasses make the call and raise ``GrpcFailure``."""

    abstract = True
    request_type = "gRPC"

    def infer(self, model: str, inputs: Tensors) -> None:
        began, failure = time.perf_counter(), None
        try:
            self.call(model, inputs)
        except GrpcFailure as error:
            failure = error
        self.environment.events.request.fire(
            request_type=self.request_type,
            name=model,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=0,
            exception=failure,
            context={},
        )

    def call(self, model: str, inputs: Tensors) -> None:
        raise NotImplementedError


class TritonGrpcUser(_GrpcUser):
    """Bare tritonclient."""

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self._deadline_seconds = options.request_deadline
        self._client = triton_grpc.InferenceServerClient(
            options.grpc_address, channel_args=channel_options(Endpoint(options.grpc_address, direct=True))
        )

    def on_stop(self) -> None:
        # It closes itself when it is deleted. Closing it here would close it twice, and gRPC counts gevent's channels:
        # at zero it ends the thread that all others of the process need, and closing another channel may hang forever.
        del self._client

    def call(self, model: str, inputs: Tensors) -> None:
        tensors = []
        for name, array in inputs.items():
            tensor = triton_grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        try:
            self._client.infer(model, tensors, client_timeout=self._deadline_seconds)
        except InferenceServerException as error:
            # tritonclient's form is "StatusCode.UNAVAILABLE".
            raise GrpcFailure(str(error.status()).rpartition(".")[2]) from None


class TriremeClientUser(_GrpcUser):
    """This project's client, with its retries."""

    request_type = "trireme client"

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self._client = TriremeClient(
            Endpoint(options.grpc_address, direct=True), deadline_ms=options.request_deadline * 1000
        )

    def on_stop(self) -> None:
        self._client.close()

    def call(self, model: str, inputs: Tensors) -> None:
        try:
            self._client.infer(model, inputs)
        except ClientError as error:
            raise GrpcFailure(status_of(error)) from None


class KserveHttpUser(FastHttpUser, _ModelUser):
    """KServe v2 over HTTP, JSON in and out."""

    def __init__(self, environment: Any) -> None:
        options = environment.parsed_options
        self.host = f"http://{options.http_address}"
        self.network_timeout = self.connection_timeout = options.request_deadline
        super().__init__(environment)

    def infer(self, model: str, inputs: Tensors) -> None:
        headers = {"Content-Type": "application/json"}
        self.client.post(f"/v2/models/{model}/infer", data=http_body(inputs).decode(), headers=headers, name=model)
