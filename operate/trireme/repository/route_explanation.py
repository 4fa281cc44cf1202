"""The decision of a router for given parameters and its inputs, without calling a variant."""

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
    """A routing decision with its inputs.

    Attributes:
        live: True if a running router decided, with its latencies, queues and breakers; else by the rules alone.
        reason: the reason and its details, as in ROUTE_REASON.
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
        """The decision as text for a terminal."""
        source = "running router" if self.live else "rules with expected latencies (no server is running)"
        lines = [
            f"{self.task}: {self.variant}, version {self.version or 'unknown'}, because: {self.reason['reason']}",
            f"source: {source}; time left: {self.reason['time_left_ms']:g} ms",
            "",
            f"  {'variant':<24}{'tier':<10}{'quality':>8}{'cost/1000':>11}{'p95 ms':>9}  verdict",
        ]
        lines += [
            f"  {one['variant']:<24}{one['tier']:<10}{one['quality']:>8.4g}{one['cost_per_1000']:>11.4g}"
            f"{one['predicted_p95_ms']:>9.4g}  {one['verdict']}"
            for one in self.considered
        ]
        return "\n".join(lines)


def explain_live(route_folder: RouteFolder, parameters: Parameters, grpc_address: str) -> Explanation:
    """Request a decision from the running router, without calling a variant.

    Raises:
        ClientError: the router rejected the request.
    """
    with OperatorClient(grpc_address) as client:
        result = client.infer(
            route_folder.name,
            _placeholder_inputs(route_folder.config),
            DEADLINE_SECONDS,
            {
                **{name: _request_parameter(value) for name, value in parameters.items()},
                "decide_only": True,
                "explain": True,
            },
        )
    variant, version, reason = (
        result.outputs[name].item(0).decode() for name in ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON")
    )
    details = json.loads(reason)
    return Explanation(route_folder.name, True, variant, version, details, details.pop("considered"))


def explain_offline(route_folder: RouteFolder, parameters: Parameters) -> Explanation:
    """Decide by the rules, assuming that every variant is available, as fast as expected and has no queue.

    Raises:
        ConfigError: the rules are invalid.
        TriremeError: a parameter is invalid, or no variant meets the limits.
    """
    route = route_folder.route()
    pins = Pins(route_folder.folder.path.parent)
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
    traffic = TrafficFile(route_folder.traffic_path).current()
    if routing.sticky_key is not None and traffic.goes_to_canary(name, sticky_position(routing.sticky_key)):
        name = decision.variant.canary
    considered = [candidate.as_json() for candidate in decision.candidates]
    return Explanation(route_folder.name, False, name, pins.pin(name).version, _reason(decision), considered)


def _reason(decision: Decision) -> dict[str, Any]:
    return {
        "reason": decision.reason.value,
        "tier": decision.variant.tier.value,
        "predicted_p95_ms": decision.predicted_p95_ms,
        "time_left_ms": decision.time_left_ms,
    }


def _request_parameter(value: str | int | float | bool) -> str | int | bool:
    # Not every server supports float parameters; the router parses numbers from strings.
    return str(value) if isinstance(value, float) else value


def _placeholder_inputs(config: ModelConfig) -> dict[str, npt.NDArray[Any]]:
    """One row of zeros or empty strings for every input; the decision does not depend on them."""
    arrays = {}
    for tensor in config.inputs:
        if not tensor.optional:
            batch = [1] if config.message.max_batch_size else []
            shape = batch + [max(size, 1) for size in tensor.dims]
            dtype = triton_to_np_dtype(tensor.datatype)
            arrays[tensor.name] = np.full(shape, b"", dtype) if dtype == np.object_ else np.zeros(shape, dtype)
    return arrays
