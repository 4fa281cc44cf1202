"""The models of the repository that a server can load: those with all files and dependencies."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from trireme_backends.errors import FileError
from trireme_backends.routing.route import load_route

from trireme.errors import ConfigError
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.repository.manifest import MANIFEST_NAME, read_manifest
from trireme.repository.model_config import ModelConfig, load_model_config
from trireme.repository.routes import ROUTE_NAME


@dataclass(frozen=True, slots=True)
class LoadingPlan:
    """The models to load and to skip.

    Attributes:
        models: names, sorted; the server resolves dependencies.
        left_out: incomplete models, with a message that names the missing part and the fix.
        broken: models with an invalid hand-written file, with a message.
    """

    models: tuple[str, ...]
    left_out: Mapping[str, str]
    broken: Mapping[str, str]


def plan_loading(repository: ModelRepository) -> LoadingPlan:
    """Check the configuration, files and dependencies of every model."""
    configs: dict[str, ModelConfig] = {}
    left_out: dict[str, str] = {}
    broken: dict[str, str] = {}
    folders = {folder.name: folder for folder in repository.models()}
    for name, folder in folders.items():
        try:
            configs[name] = load_model_config(folder.config_path)
            if part := missing_part(folder, configs[name]):
                fix = f"run: trireme export {name}" if folder.recipe_path.exists() else "restore it"
                left_out[name] = f"{part}; {fix}"
        except ConfigError as error:
            broken[name] = str(error)
    # An ensemble may be a step of another: repeat until nothing changes.
    while incomplete := _without_dependency(folders, configs, {*left_out, *broken}):
        left_out.update(incomplete)
    return LoadingPlan(tuple(name for name in folders if name not in left_out and name not in broken), left_out, broken)


def missing_part(folder: ModelFolder, config: ModelConfig) -> str | None:
    """The first part that is missing from a model according to its manifest and config; None if it is complete."""
    versions = config.version_policy.selects(folder.versions())
    if not versions:
        return f"{folder.path} has no version that its version_policy selects"
    for version in versions:
        directory = folder.version_dir(version)
        needed: dict[str, int | None] = {}
        if config.model_filename and not config.is_ensemble:
            needed[config.model_filename] = None
        if folder.recipe_path.exists():
            if not (directory / MANIFEST_NAME).is_file():
                return f"{directory} is not exported"
            try:
                needed |= {name: record.size_bytes for name, record in read_manifest(directory).files.items()}
            except ConfigError as error:
                return str(error)
        for name, size_bytes in needed.items():
            path = directory / name
            if not path.is_file():
                return f"{path} is missing"
            if size_bytes is not None and path.stat().st_size != size_bytes:
                return f"{path} has {path.stat().st_size} bytes, its manifest records {size_bytes}"
    for warmup in config.message.model_warmup:
        for tensor in warmup.inputs.values():
            if tensor.input_data_file and not (folder.warmup_dir / tensor.input_data_file).is_file():
                return f"{folder.warmup_dir / tensor.input_data_file} is missing"
    return None


def variants_not_loaded(folder: ModelFolder, loaded: Collection[str]) -> list[str]:
    """The variants of a route that are not in ``loaded``; empty if the model is not a route.

    A route is served without some of its variants: it falls back from one that does not respond.
    """
    config = load_model_config(folder.config_path)
    missing: list[str] = []
    if config.backend == "router":
        for version in config.version_policy.selects(folder.versions()):
            # The server rejects and reports an invalid route.
            with contextlib.suppress(FileError):
                route = load_route(folder.version_dir(version) / ROUTE_NAME)
                missing += [variant.name for variant in route.variants if variant.name not in loaded]
    return missing


def _without_dependency(
    folders: Mapping[str, ModelFolder], configs: Mapping[str, ModelConfig], unusable: set[str]
) -> dict[str, str]:
    incomplete = {}
    for name, config in configs.items():
        if name in unusable:
            continue
        for step in config.steps:
            if step.model not in folders:
                incomplete[name] = f"its step {step.model} is not in the repository"
            elif step.model in unusable:
                incomplete[name] = f"its step {step.model} cannot be loaded"
            elif step.version > 0 and step.version not in folders[step.model].versions():
                incomplete[name] = f"its step {step.model} has no version {step.version}"
    return incomplete
