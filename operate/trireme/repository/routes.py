"""The routes of a repository; a route is a model of the router backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trireme_backends.errors import FileError
from trireme_backends.routing.route import Route, check_variants, load_route
from trireme_backends.routing.traffic import TRAFFIC_NAME, Traffic
from trireme_backends.strict_json import read_json

from trireme.errors import ConfigError, NotFoundError
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.repository.model_config import ModelConfig, load_model_config

ROUTE_NAME = "route.json"


@dataclass(frozen=True, slots=True)
class RouteFolder:
    """The model folder of a route."""

    folder: ModelFolder
    config: ModelConfig

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def route_path(self) -> Path:
        """``route.json`` of the latest version that Triton loads.

        Raises:
            ConfigError: the route has no version.
        """
        versions = self.config.version_policy.selects(self.folder.versions())
        if not versions:
            raise ConfigError(self.folder.path, f"has no version; write its rules to 1/{ROUTE_NAME}")
        return self.folder.version_dir(versions[-1]) / ROUTE_NAME

    @property
    def traffic_path(self) -> Path:
        return self.folder.path / TRAFFIC_NAME

    def route(self) -> Route:
        """The routing rules, checked against the repository.

        Raises:
            ConfigError: a rule is invalid, or a variant does not exist; the message has file and key.
        """
        path = self.route_path
        try:
            route = load_route(path)
            check_variants(route, path, self.folder.path.parent)
        except FileError as error:
            raise ConfigError(error.path, error.detail) from None
        return route


def find_routes(repository: ModelRepository) -> list[RouteFolder]:
    """Every route, by name."""
    configs = ((folder, load_model_config(folder.config_path)) for folder in repository.models())
    return [RouteFolder(folder, config) for folder, config in configs if config.backend == "router"]


def find_route(repository: ModelRepository, task: str) -> RouteFolder:
    """The route called ``task``.

    Raises:
        NotFoundError: it does not exist; the message lists the existing routes.
    """
    routes = find_routes(repository)
    for route_folder in routes:
        if route_folder.name == task:
            return route_folder
    raise NotFoundError("task", task, (route_folder.name for route_folder in routes))


def check_route(route_folder: RouteFolder) -> Sequence[str]:
    """One message for each problem in a route's files: rules, variants, tiers, cascade, traffic."""
    problems = []
    try:
        route = route_folder.route()
    except ConfigError as error:
        problems.append(str(error))
    else:
        repository = ModelRepository(route_folder.folder.path.parent)
        problems += [
            f"{route_folder.route_path}: {problem}"
            for index, variant in enumerate(route.variants)
            for problem in _mismatches(route, index, load_model_config(repository.model(variant.name).config_path))
        ]
        problems += _traffic_problems(route_folder, route)
    return problems


def _mismatches(route: Route, index: int, config: ModelConfig) -> list[str]:
    variant = route.variants[index]
    tier = config.parameters.get("tier", variant.tier.value)
    problems = []
    if tier != variant.tier.value:
        problems.append(
            f"variants[{index}].tier: is {variant.tier.value!r}, but {config.name} has {tier!r}; change one of them"
        )
    cascade = route.cascade
    if cascade and variant.tier is cascade.first_tier:
        outputs = [output.name for output in config.outputs]
        if cascade.confidence_output not in outputs:
            problems.append(
                f"cascade.confidence_output: {config.name} has no output {cascade.confidence_output!r}; "
                f"available: {', '.join(outputs)}"
            )
    return problems


def _traffic_problems(route_folder: RouteFolder, route: Route) -> list[str]:
    path = route_folder.traffic_path
    if not path.exists():
        return []
    try:
        traffic = read_json(path, Traffic)
    except FileError as error:
        return [str(error)]
    known = {variant.name: variant for variant in route.variants}
    problems = []
    for name, percent in traffic.canary_percent.items():
        if name not in known:
            problems.append(f"{path}: canary_percent.{name}: not a variant of the route; available: {', '.join(known)}")
        elif percent and not (route_folder.folder.path.parent / known[name].canary / "config.pbtxt").is_file():
            problems.append(f"{path}: canary_percent.{name}: model {known[name].canary!r} does not exist; set it to 0")
    return problems
