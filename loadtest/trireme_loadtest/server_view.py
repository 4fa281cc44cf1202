"""What a load test asks the server about itself: is it there, does it have the model, where does time go."""

from __future__ import annotations

import urllib.error
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from trireme.direct_http import open_direct
from trireme.triton_client import CHANNEL_ARGUMENTS
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from trireme_loadtest.errors import TargetError
from trireme_loadtest.record import ServerShare

DEADLINE_SECONDS = 5.0
_NANOSECONDS_PER_MS = 1e6


class ServerView(Protocol):
    """One protocol's way to ask."""

    def model_config(self, model: str) -> model_config_pb2.ModelConfig:
        """The model's configuration.

        Raises:
            TargetError: no server answers, or it does not serve this model.
        """

    def statistics(self, model: str) -> service_pb2.ModelStatisticsResponse:
        """Counters since the model was loaded."""


class GrpcView:
    """Over gRPC; ``address`` is ``host:port``."""

    def __init__(self, address: str) -> None:
        self._address = address

    def model_config(self, model: str) -> model_config_pb2.ModelConfig:
        answer: service_pb2.ModelConfigResponse = self._ask(
            model, "ModelConfig", service_pb2.ModelConfigRequest(name=model)
        )
        return answer.config

    def statistics(self, model: str) -> service_pb2.ModelStatisticsResponse:
        return self._ask(model, "ModelStatistics", service_pb2.ModelStatisticsRequest(name=model))

    def _ask(self, model: str, method: str, request: Message) -> Any:
        with grpc.insecure_channel(self._address, options=CHANNEL_ARGUMENTS) as channel:
            try:
                return getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), method)(
                    request, timeout=DEADLINE_SECONDS, wait_for_ready=False
                )
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise unreachable(self._address, "gRPC", error.code().name) from None
                raise no_model(model, self._address, error.details()) from None


class HttpView:
    """Over HTTP; ``address`` is ``host:port``."""

    def __init__(self, address: str) -> None:
        self._address = address

    def model_config(self, model: str) -> model_config_pb2.ModelConfig:
        return json_format.Parse(self._ask(model, "config"), model_config_pb2.ModelConfig(), ignore_unknown_fields=True)

    def statistics(self, model: str) -> service_pb2.ModelStatisticsResponse:
        return json_format.Parse(
            self._ask(model, "stats"), service_pb2.ModelStatisticsResponse(), ignore_unknown_fields=True
        )

    def _ask(self, model: str, what: str) -> bytes:
        url = f"http://{self._address}/v2/models/{urllib.parse.quote(model, safe='')}/{what}"
        try:
            with open_direct(url, DEADLINE_SECONDS) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise no_model(model, self._address, error.read()[:200].decode(errors="replace")) from None
        except OSError as error:
            raise unreachable(self._address, "HTTP", str(error)) from None


def unreachable(address: str, protocol: str, reason: str) -> TargetError:
    return TargetError(
        f"no server answers at {address} over {protocol} ({reason}); start one with trireme serve, or name another "
        "with --url"
    )


def no_model(model: str, address: str, reason: str | None) -> TargetError:
    return TargetError(f"the server at {address} does not serve {model!r}: {reason}")


@dataclass(frozen=True, slots=True)
class _Totals:
    """Triton's counters of one model, all versions together."""

    requests: int
    rows: int
    executions: int
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int


class StatisticsMeter:
    """What a run adds to the statistics of models and, for an ensemble, of its steps.

    Example:
        >>> meter = StatisticsMeter(GrpcView("127.0.0.1:8001"), ["embedding_premium"])
        >>> meter.start()
        >>> shares = meter.stop()
    """

    def __init__(self, view: ServerView, models: Iterable[str]) -> None:
        self._view = view
        self._models = list(dict.fromkeys(step for model in models for step in (model, *_steps(view, model))))
        self._before: dict[str, _Totals] = {}

    def start(self) -> None:
        self._before = {model: self._read(model) for model in self._models}

    def stop(self) -> tuple[ServerShare, ...]:
        """The shares since ``start``; models that answered nothing are left out, and all of a server that is gone."""
        try:
            after = {model: self._read(model) for model in self._before}
        except TargetError:
            return ()
        return tuple(
            _share(model, before, after[model])
            for model, before in self._before.items()
            if after[model].requests > before.requests
        )

    def _read(self, model: str) -> _Totals:
        versions = self._view.statistics(model).model_stats
        stats = [version.inference_stats for version in versions]
        return _Totals(
            requests=sum(one.success.count for one in stats),
            rows=sum(version.inference_count for version in versions),
            executions=sum(version.execution_count for version in versions),
            queue_ns=sum(one.queue.ns for one in stats),
            compute_input_ns=sum(one.compute_input.ns for one in stats),
            compute_infer_ns=sum(one.compute_infer.ns for one in stats),
            compute_output_ns=sum(one.compute_output.ns for one in stats),
        )


def _share(model: str, before: _Totals, after: _Totals) -> ServerShare:
    requests = after.requests - before.requests

    def mean_ms(before_ns: int, after_ns: int) -> float:
        return (after_ns - before_ns) / requests / _NANOSECONDS_PER_MS

    executions = after.executions - before.executions
    return ServerShare(
        model=model,
        requests=requests,
        queue_ms=mean_ms(before.queue_ns, after.queue_ns),
        compute_input_ms=mean_ms(before.compute_input_ns, after.compute_input_ns),
        compute_infer_ms=mean_ms(before.compute_infer_ns, after.compute_infer_ns),
        compute_output_ms=mean_ms(before.compute_output_ns, after.compute_output_ns),
        mean_batch=(after.rows - before.rows) / executions if executions else 0.0,
    )


def _steps(view: ServerView, model: str) -> list[str]:
    return [step.model_name for step in view.model_config(model).ensemble_scheduling.step]
