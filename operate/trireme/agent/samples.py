"""The golden samples that an agent sends, and the models that a ready replica requires."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from trireme_backends.routing.route import CANARY_SUFFIX
from trireme_client import OperatorClient

from trireme.errors import ConfigError
from trireme.repository.folders import ModelRepository
from trireme.repository.golden import GoldenSample, load_golden
from trireme.repository.loading import plan_loading, variants_not_loaded
from trireme.repository.model_config import load_model_config

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProbeSamples:
    """The golden samples of a server, and the dependencies between its models.

    Attributes:
        of: golden samples by loaded model.
        broken: models whose golden samples cannot be read, with the error.
        loaded: all loaded models.
        missing: models that are complete in the repository but not loaded, with the server's reason. Never canaries,
            which have their own gate.
        steps: by ensemble, the models that it calls, directly or indirectly.
        routes: by route, its variants that are complete in the repository. A route without any is not required.
    """

    of: Mapping[str, Sequence[GoldenSample]] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()
    missing: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, frozenset[str]] = field(default_factory=dict)
    routes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def calls(self, model: str) -> frozenset[str]:
        """The models that a model may call."""
        variants = frozenset(self.routes.get(model, ()))
        return variants.union(*(self.steps.get(name, ()) for name in (model, *variants)))

    def unready_reason(self, out: Collection[str], failing: Mapping[str, str]) -> str:
        """Return why a replica is not ready; empty if it is.

        Args:
            out: models out of service.
            failing: models that respond with errors to their golden samples, with the error.
        """
        out = {*out, *self.missing}
        if not self.loaded - {*out, *failing}:
            return "no model is ready"
        for route, variants in sorted(self.routes.items()):
            if route in out:
                return f"route {route} is out of service"
            if route in failing:
                return f"route {route} fails: {failing[route]}"
            if all(out & {variant, *self.steps.get(variant, ())} for variant in variants):
                return f"route {route} has no ready variant"
        return ""


def find_samples(client: OperatorClient, repository: ModelRepository, deadline_seconds: float) -> ProbeSamples:
    """Compare the repository with the models that the server has loaded.

    Raises:
        ClientError: the server does not respond.
    """
    index = client.index(deadline_seconds)
    ready = frozenset(entry.model for entry in index if entry.state == "READY")
    reasons = {entry.model: entry.reason for entry in index if entry.reason}
    names = [name for name in plan_loading(repository).models if not name.endswith(CANARY_SUFFIX)]
    samples: dict[str, Sequence[GoldenSample]] = {}
    broken: dict[str, str] = {}
    routes: dict[str, Sequence[str]] = {}
    for folder in map(repository.model, names):
        variants = variants_not_loaded(folder, ())
        if complete := [variant for variant in variants if variant in names]:
            routes[folder.name] = complete
        if folder.name not in ready:
            continue
        if lacking := [variant for variant in variants if variant not in ready]:
            # Its samples request these variants, and the response of a fallback would differ from the golden one.
            _LOG.warning("golden samples of %s are skipped: not loaded: %s", folder.name, ", ".join(lacking))
            continue
        try:
            if golden := load_golden(folder):
                samples[folder.name] = golden
        except ConfigError as error:
            broken[folder.name] = str(error)
    return ProbeSamples(
        of=samples,
        broken=broken,
        loaded=ready,
        missing={name: reasons.get(name) or "see the server's log" for name in names if name not in ready},
        steps=_steps(repository, names),
        routes=routes,
    )


def _steps(repository: ModelRepository, names: Sequence[str]) -> Mapping[str, frozenset[str]]:
    configs = {name: load_model_config(repository.model(name).config_path) for name in names}
    direct = {name: {step.model for step in config.steps} for name, config in configs.items() if config.is_ensemble}

    def below(model: str, above: frozenset[str]) -> frozenset[str]:
        # Terminates for cycles too, which no server loads.
        steps = frozenset(direct.get(model, ())) - above
        return steps.union(*(below(step, above | steps) for step in steps))

    return {name: below(name, frozenset((name,))) for name in direct}


def only_canaries_call(repository: ModelRepository, model: str, versions: Collection[int]) -> bool:
    """Whether canaries are the only ensembles pinned to these versions."""
    pins: dict[bool, set[int]] = {True: set(), False: set()}
    for folder in repository.models():
        with contextlib.suppress(ConfigError):
            steps = load_model_config(folder.config_path).steps
            pins[folder.name.endswith(CANARY_SUFFIX)] |= {step.version for step in steps if step.model == model}
    return set(versions) <= pins[True] - pins[False]
