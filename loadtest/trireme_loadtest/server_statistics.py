"""The server under a load test: the configuration and statistics of its models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from trireme_client import ClientError, DeadlineError, OperatorClient, UnavailableError
from trireme_client.operator import VersionStatistics
from tritonclient.grpc import model_config_pb2

from trireme_loadtest.errors import TargetError
from trireme_loadtest.record import ServerShare

DEADLINE_SECONDS = 5.0
_NANOSECONDS_PER_MS = 1e6
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ServerClient:
    """Queries the server at ``address`` (``host:port``) over ``protocol``, "grpc" or "http".

    Each request uses a new connection, because the load generator forks processes in between.
    """

    address: str
    protocol: str

    def model_config(self, model: str) -> model_config_pb2.ModelConfig:
        """The model's configuration.

        Raises:
            TargetError: no server responds, or it does not serve this model.
        """
        return self._call(model, lambda client: client.model_config(model, DEADLINE_SECONDS))

    def statistics(self, model: str) -> Sequence[VersionStatistics]:
        """Counters since the model was loaded; raises as ``model_config``."""
        return self._call(model, lambda client: client.statistics(DEADLINE_SECONDS, model))

    def _call(self, model: str, request: Callable[[OperatorClient], _Result]) -> _Result:
        try:
            with OperatorClient(f"{self.protocol}://{self.address}") as client:
                return request(client)
        except (UnavailableError, DeadlineError) as error:
            raise TargetError(
                f"no server responds at {self.address} over {self.protocol} ({error.problem}); start one with "
                "trireme serve, or set --url"
            ) from None
        except ClientError as error:
            raise TargetError(f"the server at {self.address} does not serve {model!r}: {error.problem}") from None


class StatisticsMeter:
    """The change of the statistics of models during a run and, for an ensemble, of its steps.

    Example:
        >>> meter = StatisticsMeter(ServerClient("127.0.0.1:8001", "grpc"), ["embedding_premium"])
        >>> meter.start()
        >>> shares = meter.stop()
    """

    def __init__(self, server: ServerClient, models: Iterable[str]) -> None:
        self._server = server
        self._models = list(dict.fromkeys(step for model in models for step in (model, *_steps(server, model))))
        self._before: dict[str, Sequence[VersionStatistics]] = {}

    def start(self) -> None:
        self._before = {model: self._server.statistics(model) for model in self._models}

    def stop(self) -> tuple[ServerShare, ...]:
        """The shares since ``start``, without models that served no request; empty if the server is gone."""
        try:
            shares = [_share(model, before, self._server.statistics(model)) for model, before in self._before.items()]
        except TargetError:
            return ()
        return tuple(share for share in shares if share is not None)


def _share(model: str, before: Sequence[VersionStatistics], after: Sequence[VersionStatistics]) -> ServerShare | None:
    """The change of the counters of a model's versions; None if they served no request."""

    def added(counter: Callable[[VersionStatistics], int]) -> int:
        return sum(map(counter, after)) - sum(map(counter, before))

    requests = added(lambda one: one.succeeded)
    if requests <= 0:
        return None

    def mean_ms(counter: Callable[[VersionStatistics], int]) -> float:
        return added(counter) / requests / _NANOSECONDS_PER_MS

    executions = added(lambda one: one.executions)
    return ServerShare(
        model=model,
        requests=requests,
        queue_ms=mean_ms(lambda one: one.queue_ns),
        compute_input_ms=mean_ms(lambda one: one.compute_input_ns),
        compute_infer_ms=mean_ms(lambda one: one.compute_infer_ns),
        compute_output_ms=mean_ms(lambda one: one.compute_output_ns),
        mean_batch=added(lambda one: one.rows) / executions if executions else 0.0,
    )


def _steps(server: ServerClient, model: str) -> list[str]:
    return [step.model_name for step in server.model_config(model).ensemble_scheduling.step]
