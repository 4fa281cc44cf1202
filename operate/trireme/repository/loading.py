"""Which models of the repository a server can load: those with every file and every model they depend on."""

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
    """What to load.

    Attributes:
        models: names, by name; the server sorts out what depends on what.
        left_out: models that lack something, with a sentence that says what and the command that mends it.
        broken: models whose hand-written files are wrong, with a sentence.
    """

    models: tuple[str, ...]
    left_out: Mapping[str, str]
    broken: Mapping[str, str]


def plan_loading(repository: ModelRepository) -> LoadingPlan:
    """Look at every model: its configuration, its files, and what it depends on."""
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
    # An ensemble may be a step of another: look again until nothing changes.
    while incomplete := _without_dependency(folders, configs, {*left_out, *broken}):
        left_out.update(incomplete)
    return LoadingPlan(tuple(name for name in folders if name not in left_out and name not in broken), left_out, broken)


def missing_part(folder: ModelFolder, config: ModelConfig) -> str | None:
    """What a model lacks of what its manifest and its configuration name, as a sentence; nothing where it is whole."""
    versions = config.version_policy.selects(folder.versions())
    if not versions:
        return f"{folder.path} holds no version that its version_policy selects"
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
                return f"{path} has {path.stat().st_size} bytes, its manifest says {size_bytes}"
    for warmup in config.message.model_warmup:
        for tensor in warmup.inputs.values():
            if tensor.input_data_file and not (folder.warmup_dir / tensor.input_data_file).is_file():
                return f"{folder.warmup_dir / tensor.input_data_file} is missing"
    return None


def variants_not_loaded(folder: ModelFolder, loaded: Collection[str]) -> list[str]:
    """The variants of a route that are not among the models ``loaded``; none where the model is no route.

    A route is served without some of its variants: it falls back from one that does not answer.
    """
    config = load_model_config(folder.config_path)
    missing: list[str] = []
    if config.backend == "router":
        for version in config.version_policy.selects(folder.versions()):
            # One that is malformed is not loaded: of this tells the server.
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
