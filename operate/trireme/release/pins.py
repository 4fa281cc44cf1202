"""Version pins of ensembles, and versions given on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trireme.errors import ConfigError, NotFoundError, TriremeError
from trireme.release.callers import serving_by_files
from trireme.repository.folders import ModelFolder, ModelRepository, is_version
from trireme.repository.model_config import ModelConfig, load_model_config


def pins_of(config: ModelConfig) -> dict[str, int]:
    """The versions that an ensemble's steps are pinned to, by model; a step at -1 is not pinned."""
    return {step.model: step.version for step in config.steps if step.version > 0}


def movable_pins(folder: ModelFolder, verb: str) -> dict[str, int]:
    """The pins that ``verb`` can move; empty for a plain model.

    Raises:
        ConfigError: the ensemble pins nothing; its callers get what the callers of its models get.
        TriremeError: ``verb`` is canary and ``folder`` is a plain model.
    """
    config = load_model_config(folder.config_path)
    pins = pins_of(config)
    if not config.is_ensemble and verb == "canary":
        raise TriremeError(
            f"{folder.name} is not an ensemble; a canary needs an ensemble that pins it; "
            f"run: trireme promote {folder.name}"
        )
    if config.is_ensemble and not pins:
        models = list(dict.fromkeys(step.model for step in config.steps))
        others = "" if verb == "canary" else f"run: {' and '.join(f'trireme {verb} {model}' for model in models)}; or "
        raise ConfigError(
            folder.config_path,
            f"{folder.name} calls {', '.join(models)} at model_version: -1, the newest loaded version, and has no pin "
            f"to move; {others}pin the step, for example model_version: 1",
            line=config.place("ensemble_scheduling", "step", 0, "model_version").line,
        )
    return pins


def wanted_pins(repository: ModelRepository, subject: str, wanted: Sequence[str], verb: str) -> dict[str, int]:
    """The versions to move ``subject`` to: those in ``wanted``, otherwise the newest.

    For an ensemble these are the newest loaded versions of its models; for a model, its newest version, loaded or not.

    Raises:
        NotFoundError: the model does not exist.
        TriremeError: ``wanted`` contains a version that cannot be moved to.
    """
    folder = repository.model(subject)
    pins = movable_pins(folder, verb)
    if wanted:
        return read_pins(repository, list(pins) or [subject], wanted)
    if not pins:
        return {subject: folder.versions()[-1]} if folder.versions() else {}
    loaded = serving_by_files(repository).loaded
    newest = {model: loaded[model][-1] for model in pins if loaded.get(model)}
    if not newest:
        raise TriremeError(f"no version of {', '.join(pins)} is loaded; run: trireme publish {next(iter(pins))} PATH")
    return newest


def read_pins(repository: ModelRepository, models: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Parse versions of ``models``: ``MODEL=VERSION``, or a bare version that only one model has.

    Raises:
        TriremeError: a text is neither, or a bare version matches no model or several.
    """
    pins = {}
    for text in wanted:
        model, _, version = text.rpartition("=")
        if not is_version(version):
            raise TriremeError(f"{text!r} is not a version; write MODEL=VERSION, for example {models[0]}=2")
        named = [model] if model else [name for name in models if int(version) in repository.model(name).versions()]
        # If every model has version 1, only those with other versions to choose from are candidates.
        named = [name for name in named if len(repository.model(name).versions()) > 1] or named
        if len(named) != 1 or named[0] not in models:
            available = ", ".join(f"{name}={_choice(repository.model(name).versions())}" for name in models)
            raise TriremeError(
                f"{text!r} does not identify the version of one model; write MODEL=VERSION; available: {available}"
            )
        pins[named[0]] = int(version)
    return pins


def check_loaded(repository: ModelRepository, pins: Mapping[str, int]) -> None:
    """Raise NotFoundError or TriremeError, with the fix, if a version to pin is not loaded."""
    loaded = serving_by_files(repository).loaded
    for model, version in pins.items():
        if version not in repository.model(model).versions():
            raise NotFoundError(f"version of {model}", str(version), map(str, repository.model(model).versions()))
        if version not in loaded[model]:
            newer = version > max(loaded[model], default=0)
            fix = (
                f"run: trireme promote {model}"
                if newer
                else f"loaded versions: {', '.join(map(str, loaded[model])) or 'none'}"
            )
            raise TriremeError(f"version {version} of {model} is not loaded; {fix}")


def _choice(versions: Sequence[int]) -> str:
    return "|".join(map(str, versions)) or "(none published)"
