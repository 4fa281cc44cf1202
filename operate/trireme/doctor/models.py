"""Checks of the models: complete, accepted by Triton, and matching the number of cores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trireme.doctor.check import Check, fail, ok, warn
from trireme.errors import ConfigError
from trireme.lint import Severity, lint
from trireme.processes.machine import Machine
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.repository.loading import missing_part
from trireme.repository.model_config import ModelConfig, load_model_config
from trireme.repository.resource_requirements import compute_threads


def exported(repository: ModelRepository) -> Iterator[Check]:
    """Every model with a recipe has a version with all files of its manifest."""
    recipes = [model for model in repository.models() if model.recipe_path.is_file()]
    missing = [model.name for model in recipes if not model.versions()]
    incomplete = {model.name: part for model in recipes if model.versions() and (part := _missing_part(model))}
    if missing:
        yield fail("weights", f"not exported yet: {', '.join(missing)}", "trireme export --all")
    for name, part in incomplete.items():
        yield fail("weights", f"{name}: {part}", f"trireme export {name}")
    if not missing and not incomplete:
        yield ok("weights", "every model with a recipe has a version with all files of its manifest")


def _missing_part(model: ModelFolder) -> str | None:
    try:
        return missing_part(model, load_model_config(model.config_path))
    except ConfigError:
        # Reported by the check of the repository.
        return None


def accepted(repository: ModelRepository, machine: Machine) -> Iterator[Check]:
    """``trireme lint`` finds no errors."""
    if not repository.models():
        yield fail("repository", f"no model in {repository.path}", "set TRIREME_REPOSITORY_DIR to a model repository")
        return
    report = lint(repository.path, machine)
    errors, here = len(report.of(Severity.ERROR)), len(report.of(Severity.NGC_ONLY))
    if errors:
        yield fail("repository", f"{errors} errors in {repository.path}", "trireme lint")
    elif here:
        yield warn("repository", f"{here} findings that the embedded server rejects", "trireme lint")
    else:
        yield ok("repository", f"{len(report.models)} models without errors")


def threads(configs: Mapping[str, ModelConfig], machine: Machine) -> Iterator[Check]:
    """No model uses more compute threads than there are cores."""
    counts = {name: compute_threads(config, machine) for name, config in configs.items()}
    most = max(counts.values(), default=0)
    names = ", ".join(sorted(name for name, count in counts.items() if count == most and count > machine.cores))
    if names:
        yield warn(
            "threads",
            f"{most} used by {names}, {machine.cores} cores",
            "reduce its threads per instance or its instance count",
        )
    else:
        yield ok(
            "threads",
            f"at most {most} used by one model, {sum(counts.values())} in total, {machine.cores} cores",
        )
