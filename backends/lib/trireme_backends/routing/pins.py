"""The version to which a variant's ensemble is pinned in the repository, and that version's quality."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from trireme_backends.routing.route import Variant

# The parameter of an ensemble's config.pbtxt that names the step that carries the ensemble's version.
VERSION_STEP = "version_step"
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_MANIFEST_NAME = "manifest.json"


class VersionStepError(ValueError):
    """An ensemble does not define which of its steps carries its version.

    Attributes:
        problem, fix: the two halves of the message.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; {fix}")
        self.problem, self.fix = problem, fix


@dataclass(frozen=True, slots=True)
class Pin:
    """The model version that does a variant's work.

    Attributes:
        model: the version step of the ensemble, or the variant itself if it is not an ensemble.
        quality: accuracy on held-out rows from the version's manifest; None if the manifest has none.
        is_whole_variant: the ensemble is this one step, pinned, and passes every tensor under the same name, so that
            callers may call the step instead of the ensemble.
    """

    model: str
    version: str
    quality: float | None = None
    is_whole_variant: bool = False


UNKNOWN = Pin("", "")


def read_pin(variant_dir: Path) -> Pin:
    """Return the pin of a variant; for an ensemble, that of its version step.

    Raises:
        OSError: the variant has no ``config.pbtxt``.
        ValueError: the file cannot be parsed, or names no version.
    """
    try:
        config = text_format.Parse(
            (variant_dir / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig()
        )
    except text_format.ParseError as error:
        raise ValueError(str(error)) from None
    repository_dir = variant_dir.parent
    if not config.ensemble_scheduling.step:
        return _pin(variant_dir, _newest_version(variant_dir, list(config.version_policy.specific.versions)))
    step = version_step(config, repository_dir)
    return _pin(repository_dir / step.model_name, _version_of(step, repository_dir), _is_whole(config))


def version_step(config: model_config_pb2.ModelConfig, repository_dir: Path) -> Any:
    """Return the step of an ensemble that carries its version.

    This is the step named by the parameter ``version_step``; without the parameter, the only step or the only one whose
    version has a ``manifest.json``.

    Raises:
        VersionStepError: the parameter names no step, or several steps are possible.
    """
    steps = list(config.ensemble_scheduling.step)
    models = list(dict.fromkeys(step.model_name for step in steps))
    if VERSION_STEP in config.parameters:
        named = config.parameters[VERSION_STEP].string_value
        if named not in models:
            raise VersionStepError(f"{VERSION_STEP} names '{named}', which is not a step", f"one of {_listed(models)}")
        steps = [step for step in steps if step.model_name == named]
    elif len(models) > 1:
        steps = [step for step in steps if _has_manifest(step, repository_dir)] or steps
        models = list(dict.fromkeys(step.model_name for step in steps))
        if len(models) > 1:
            line = f'parameters {{ key: "{VERSION_STEP}" value {{ string_value: "{models[0]}" }} }}'
            raise VersionStepError(
                f"any of the steps {_listed(models)} could carry the version", f"name one, such as {line}"
            )
    versions = sorted({step.model_version for step in steps})
    if len(versions) != 1:
        raise VersionStepError(
            f"'{steps[0].model_name}' is called at versions {_listed(versions)}", "pin its steps to one version"
        )
    return steps[0]


class Pins:
    """The pins of a repository, read again when a ``config.pbtxt`` is replaced; a lookup costs one ``stat``."""

    def __init__(self, repository_dir: Path) -> None:
        self._repository_dir = repository_dir
        self._pins: dict[str, tuple[tuple[int, int], Pin]] = {}

    def pin(self, variant: str) -> Pin:
        """The current pin; the last valid one while the file cannot be read; ``UNKNOWN`` before the first valid one and
        if the file does not define which step carries the version."""
        held, pin = self._pins.get(variant, ((0, 0), UNKNOWN))
        try:
            status = os.stat(f"{self._repository_dir}/{variant}/config.pbtxt")  # noqa: PTH116 - pathlib takes ten times as long
            seen = (status.st_ino, status.st_mtime_ns)
            if seen != held:
                try:
                    pin = read_pin(self._repository_dir / variant)
                except VersionStepError:
                    # Kept until the file is replaced. The previous pin is not used: that version may no longer serve.
                    pin = UNKNOWN
                self._pins[variant] = (seen, pin)
        except (OSError, ValueError):
            pass
        return pin

    def quality(self, variant: Variant) -> float:
        """The quality set in the route, else that of the pinned version; without either, the order of the tiers."""
        if variant.quality is not None:
            return variant.quality
        # As of the last lookup of the pin: each call of the variant makes one.
        quality = (self._pins[variant.name][1] if variant.name in self._pins else self.pin(variant.name)).quality
        return variant.tier.rank / 10 if quality is None else quality


def _is_whole(config: model_config_pb2.ModelConfig) -> bool:
    steps = config.ensemble_scheduling.step
    maps = (pair for step in steps for names in (step.input_map, step.output_map) for pair in names.items())
    return len(steps) == 1 and bool(steps[0].model_version > 0) and all(inner == outer for inner, outer in maps)


def _has_manifest(step: Any, repository_dir: Path) -> bool:
    try:
        version = _version_of(step, repository_dir)
    except (OSError, ValueError):
        return False
    return repository_dir.joinpath(f"{step.model_name}/{version}/{_MANIFEST_NAME}").is_file()


def _version_of(step: Any, repository_dir: Path) -> int:
    pinned = int(step.model_version)
    return pinned if pinned > 0 else _newest_version(repository_dir / step.model_name, [])


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))


def _pin(model_dir: Path, version: int, is_whole_variant: bool = False) -> Pin:
    quality: float | None
    try:
        manifest = json.loads((model_dir / str(version) / _MANIFEST_NAME).read_text(encoding="utf-8"))
        quality = float(manifest["accuracy"]["accuracy"])
    except (OSError, ValueError, KeyError, TypeError):
        quality = None
    return Pin(model_dir.name, str(version), quality, is_whole_variant)


def _newest_version(model_dir: Path, specific: list[int]) -> int:
    versions = specific or [int(entry.name) for entry in model_dir.iterdir() if _VERSION.fullmatch(entry.name)]
    if not versions:
        raise ValueError(f"{model_dir} has no version")
    return max(versions)
