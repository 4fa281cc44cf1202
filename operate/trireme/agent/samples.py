"""What an agent asks its server, and what of that decides whether the replica is ready."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trireme_backends.routing.route import CANARY_SUFFIX

from trireme.errors import ConfigError
from trireme.golden import GoldenSample, load_golden
from trireme.loading import plan_loading, variants_not_loaded
from trireme.model_config import load_model_config
from trireme.repository import ModelRepository
from trireme.triton_client import TritonClient

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Samples:
    """The golden samples of a server.

    Attributes:
        of: by model that is loaded.
        required: models that must answer for the replica to be ready: the routes, which is what callers ask; where no
            route has samples, every model that has. A canary is never one: it has a gate of its own.
        missing: models that are complete in the repository and not loaded, with the server's reason.
    """

    of: Mapping[str, Sequence[GoldenSample]]
    required: frozenset[str]
    missing: Mapping[str, str]


def find_samples(client: TritonClient, repository: ModelRepository, deadline_seconds: float) -> Samples:
    """Compare the repository with what the server has loaded.

    Raises:
        ServerError: the server does not tell.
        ConfigError: a golden sample is no golden sample.
    """
    plan = plan_loading(repository)
    index = client.index(deadline_seconds)
    ready = {entry.model for entry in index if entry.state == "READY"}
    reasons = {entry.model: entry.reason for entry in index if entry.reason}
    names = [name for name in plan.models if not name.endswith(CANARY_SUFFIX)]
    loaded = [name for name in names if name in ready]
    samples: dict[str, Sequence[GoldenSample]] = {}
    routes = set()
    for folder in map(repository.model, names):
        is_route = load_model_config(folder.config_path).backend == "router"
        if folder.name not in ready:
            # One that had samples must have them answered, also if it could not be loaded.
            if is_route and any(folder.golden_dir.glob("*.json")):
                routes.add(folder.name)
        elif lacking := variants_not_loaded(folder, loaded):
            # Its samples ask for these, and a fallback's answer would be another than the golden one.
            _LOG.warning("golden samples of %s are not asked: it lacks %s", folder.name, ", ".join(lacking))
        elif found := load_golden(folder):
            samples[folder.name] = found
            if is_route:
                routes.add(folder.name)
    missing = {
        name: reasons.get(name) or "its reason stands in the server's log" for name in names if name not in ready
    }
    return Samples(samples, frozenset(routes or {*samples, *missing}), missing)


def only_canaries_ask(repository: ModelRepository, model: str, versions: Collection[int]) -> bool:
    """Whether canaries are the only ensembles that are pinned to these versions."""
    pins: dict[bool, set[int]] = {True: set(), False: set()}
    for folder in repository.models():
        with contextlib.suppress(ConfigError):
            steps = load_model_config(folder.config_path).steps
            pins[folder.name.endswith(CANARY_SUFFIX)] |= {step.version for step in steps if step.model == model}
    return set(versions) <= pins[True] - pins[False]
