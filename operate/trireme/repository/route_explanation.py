"""What the router would decide, and the numbers it would use. No variant is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from trireme_backends.errors import BackendError
from trireme_backends.routing.decision import Decision, VariantState, decide, requested_tier
from trireme_backends.routing.parameters import StreamParameters, parse_parameters, read_stream_parameters
from trireme_backends.routing.pins import Pins
from trireme_backends.routing.traffic import TrafficFile, sticky_position
from trireme_client import OperatorClient
from tritonclient.utils import triton_to_np_dtype

from trireme.errors import TriremeError
from trireme.repository.model_config import ModelConfig
from trireme.repository.routes import RouteFolder

Parameters = Mapping[str, str | int | float | bool]

DEADLINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with its numbers.

    Attributes:
        live: by a running router, from its latencies, queues and breakers; else from the rules alone.
        reason: the typed reason, and what stands beside it.
        considered: every variant with verdict, quality, cost and predicted p95.
    """

    task: str
    live: bool
    variant: str
    version: str
    reason: Mapping[str, Any]
    considered: Sequence[Mapping[str, Any]]

    def as_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "source": "running router" if self.live else "rules",
            "variant": self.variant,
            "version": self.version,
            **self.reason,
            "considered": self.considered,
        }

    def as_text(self) -> str:
        """Lines for a person."""
        state = "the running router" if self.live else "the rules alone, since no server runs: expected latencies"
        lines = [
            f"{self.task}: {self.variant}, version {self.version or 'unknown'}, because: {self.reason['reason']}",
            f"by {state}; {self.reason['time_left_ms']:g} ms are left",
            "",
            f"  {'variant':<24}{'tier':<10}{'quality':>8}{'cost/1000':>11}{'p95 ms':>9}  verdict",
        ]
        lines += [
            f"  {one['variant']:<24}{one['tier']:<10}{one['quality']:>8.4g}{one['cost_per_1000']:>11.4g}"
            f"{one['predicted_p95_ms']:>9.4g}  {one['verdict']}"
            for one in self.considered
        ]
        return "\n".join(lines)


def explain_live(found: RouteFolder, parameters: Parameters, grpc_address: str) -> Explanation:
    """Ask the running router to decide, and not to call.

    Raises:
        ClientError: it refused, with its sentence.
    """
    with OperatorClient(grpc_address) as client:
        answer = client.infer(
            found.name,
            _any_inputs(found.config),
            DEADLINE_SECONDS,
            {**{name: _sendable(value) for name, value in parameters.items()}, "decide_only": True, "explain": True},
        )
    variant, version, reason = (
        answer.outputs[name].item(0).decode() for name in ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON")
    )
    told = json.loads(reason)
    return Explanation(found.name, True, variant, version, told, told.pop("considered"))


def explain_offline(found: RouteFolder, parameters: Parameters) -> Explanation:
    """Decide by the rules: every variant in service and as fast as expected, no queue.

    Raises:
        ConfigError: the rules are wrong.
        TriremeError: a parameter is wrong, or no variant keeps the limits.
    """
    route = found.route()
    pins = Pins(found.folder.path.parent)
    states = {
        variant.name: VariantState(pins.quality(variant), variant.expected_latency_ms) for variant in route.variants
    }
    try:
        if route.streams:
            stream, _ = read_stream_parameters(json.dumps(dict(parameters)))
        else:
            stream = StreamParameters(parse_parameters(parameters))
        routing, tier = stream.routing, requested_tier(route, stream.routing)
        decision = decide(
            route,
            routing,
            states,
            tier=route.cascade.first_tier if tier is None and route.cascade else tier,
            time_left_ms=stream.max_ttft_ms or routing.max_latency_ms or route.deadline_ms,
        )
    except BackendError as error:
        raise TriremeError(str(error)) from None
    name = decision.variant.name
    traffic = TrafficFile(found.traffic_path).current()
    if routing.sticky_key is not None and traffic.goes_to_canary(name, sticky_position(routing.sticky_key)):
        name = decision.variant.canary
    considered = [candidate.as_json() for candidate in decision.candidates]
    return Explanation(found.name, False, name, pins.pin(name).version, _reason(decision), considered)


def _reason(decision: Decision) -> dict[str, Any]:
    return {
        "reason": decision.reason.value,
        "tier": decision.variant.tier.value,
        "predicted_p95_ms": decision.predicted_p95_ms,
        "time_left_ms": decision.time_left_ms,
    }


def _sendable(value: str | int | float | bool) -> str | int | bool:
    # Not every server takes fractions as parameters; the router reads numbers from text.
    return str(value) if isinstance(value, float) else value


def _any_inputs(config: ModelConfig) -> dict[str, npt.NDArray[Any]]:
    """One row of zeros or empty texts for every input: the decision does not depend on them."""
    arrays = {}
    for tensor in config.inputs:
        if not tensor.optional:
            batch = [1] if config.message.max_batch_size else []
            shape = batch + [max(size, 1) for size in tensor.dims]
            dtype = triton_to_np_dtype(tensor.datatype)
            arrays[tensor.name] = np.full(shape, b"", dtype) if dtype == np.object_ else np.zeros(shape, dtype)
    return arrays
