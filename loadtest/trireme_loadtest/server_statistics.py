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
    """Asks the server at ``address`` (``host:port``) over ``protocol``, "grpc" or "http".

    Each request has a connection of its own: the processes of the load generator are forked in between.
    """

    address: str
    protocol: str

    def model_config(self, model: str) -> model_config_pb2.ModelConfig:
        """The model's configuration.

        Raises:
            TargetError: no server answers, or it does not serve this model.
        """
        return self._call(model, lambda client: client.model_config(model, DEADLINE_SECONDS))

    def statistics(self, model: str) -> Sequence[VersionStatistics]:
        """Counters since the model was loaded; it raises as ``model_config``."""
        return self._call(model, lambda client: client.statistics(DEADLINE_SECONDS, model))

    def _call(self, model: str, request: Callable[[OperatorClient], _Result]) -> _Result:
        try:
            with OperatorClient(f"{self.protocol}://{self.address}") as client:
                return request(client)
        except (UnavailableError, DeadlineError) as error:
            raise TargetError(
                f"no server answers at {self.address} over {self.protocol} ({error.problem}); start one with "
                "trireme serve, or name another with --url"
            ) from None
        except ClientError as error:
            raise TargetError(f"the server at {self.address} does not serve {model!r}: {error.problem}") from None


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
        >>> meter = StatisticsMeter(ServerClient("127.0.0.1:8001", "grpc"), ["embedding_premium"])
        >>> meter.start()
        >>> shares = meter.stop()
    """

    def __init__(self, server: ServerClient, models: Iterable[str]) -> None:
        self._server = server
        self._models = list(dict.fromkeys(step for model in models for step in (model, *_steps(server, model))))
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
        versions = self._server.statistics(model)
        return _Totals(
            requests=sum(one.succeeded for one in versions),
            rows=sum(one.rows for one in versions),
            executions=sum(one.executions for one in versions),
            queue_ns=sum(one.queue_ns for one in versions),
            compute_input_ns=sum(one.compute_input_ns for one in versions),
            compute_infer_ns=sum(one.compute_infer_ns for one in versions),
            compute_output_ns=sum(one.compute_output_ns for one in versions),
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


def _steps(server: ServerClient, model: str) -> list[str]:
    return [step.model_name for step in server.model_config(model).ensemble_scheduling.step]
