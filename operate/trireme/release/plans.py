"""What each verb will do, worked out from the files before anything is touched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from trireme.errors import NotFoundError, TriremeError
from trireme.manifest import sha256_of
from trireme.model_config import ModelConfig, load_model_config
from trireme.release.edits import keep_versions, pin_steps
from trireme.release.engine import Plan
from trireme.release.journal import Journal, Outcome
from trireme.release.step import (
    AddModel,
    CheckVersion,
    CopyVersion,
    InstallVersion,
    Reconfigure,
    RemoveVersion,
    ReplaceFile,
    Step,
    from_json,
)
from trireme.repository import ModelFolder, ModelRepository, is_version

CANARY_SUFFIX = "__canary"
# Stands beside the files of a version while they are being dropped in; no part of it.
DONE_MARKER = ".done"


def plan_publish(repository: ModelRepository, model: str, source: Path, version: str | None = None) -> Plan:
    """A new version of ``model`` out of the files of ``source``, loaded beside the versions that serve.

    Raises:
        NotFoundError: there is no such model.
        TriremeError: ``source`` or ``version`` cannot be published; the sentence says why.
    """
    folder = repository.model(model)
    number = _new_version(folder, version)
    files = _hash_files(source)
    config = load_model_config(folder.config_path)
    text = folder.config_path.read_text(encoding="utf-8")
    kept = sorted({*config.version_policy.selects(folder.versions()), *pinned_versions(repository, model), number})
    return Plan(
        "publish",
        model,
        (
            CopyVersion(model, number, str(source.resolve()), files),
            CheckVersion(model, number),
            InstallVersion(model, number),
            Reconfigure(
                model, text, keep_versions(text, kept, folder.config_path), tuple(kept),
                f"keep versions {', '.join(map(str, kept))} loaded",
            ),
        ),
        commit_index=4,
    )  # fmt: skip


def plan_canary(repository: ModelRepository, variant: str, pins: Mapping[str, int]) -> Plan:
    """``<variant>__canary``: the variant with the steps of ``pins`` at those versions, loaded, without traffic yet.

    Raises:
        NotFoundError: there is no such variant.
        TriremeError: a version to pin is not loaded, or a canary is under way.
    """
    folder = repository.model(variant)
    if canary_folder(repository, variant).path.exists():
        raise TriremeError(f"{variant} has a canary already; promote it, or roll it back, first")
    _check_loaded(repository, pins)
    text = folder.config_path.read_text(encoding="utf-8")
    return Plan(
        "canary",
        variant,
        (AddModel(canary_folder(repository, variant).name, pin_steps(text, pins, folder.config_path)),),
        commit_index=1,
    )


def plan_promote(repository: ModelRepository, variant: str, pins: Mapping[str, int]) -> Plan:
    """The variant itself pinned to ``pins``; its canary, if it has one, is closed.

    Raises:
        NotFoundError: there is no such variant.
        TriremeError: a version to pin is not loaded, or is pinned already.
    """
    folder = repository.model(variant)
    _check_loaded(repository, pins)
    before = folder.config_path.read_text(encoding="utf-8")
    after = pin_steps(before, pins, folder.config_path)
    if after == before:
        raise TriremeError(f"{variant} is pinned to {_told(pins)} already")
    repin = Reconfigure(variant, before, after, (1,), f"pin {_told(pins)}")
    return Plan("promote", variant, (repin, *_close_canary(repository, variant)), commit_index=0)


def plan_rollback(repository: ModelRepository, journal: Journal, variant: str, pins: Mapping[str, int] | None) -> Plan:
    """The variant's traffic off its canary, and its pins back to ``pins``, or to those before its last promotion.

    Needs no load of a model version: the one it goes back to is still loaded.

    Raises:
        NotFoundError: there is no such variant.
        TriremeError: there is neither a canary nor an earlier state to go back to.
    """
    folder = repository.model(variant)
    close = _close_canary(repository, variant)
    before = folder.config_path.read_text(encoding="utf-8")
    if pins is not None:
        _check_loaded(repository, pins)
        after = pin_steps(before, pins, folder.config_path)
    else:
        # With a canary under way, going back means closing it: the variant itself was never moved.
        after = before if close else _before_last_promotion(journal, variant)
    if after == before and not close:
        raise TriremeError(f"{variant} is there already; nothing to roll back")
    back = (Reconfigure(variant, before, after, (1,), "pin back", patient=False),) if after != before else ()
    return Plan("rollback", variant, (*close, *back), commit_index=0)


def plan_prune(repository: ModelRepository, model: str, keep: int) -> Plan:
    """All versions of ``model`` removed but the newest ``keep`` and those that an ensemble pins.

    Raises:
        NotFoundError: there is no such model.
        TriremeError: nothing is left to remove.
    """
    folder = repository.model(model)
    versions = folder.versions()
    kept = sorted({*versions[max(0, len(versions) - keep) :], *pinned_versions(repository, model)} & set(versions))
    gone = [version for version in versions if version not in kept]
    if not gone:
        raise TriremeError(f"{model} has no version to prune: {', '.join(map(str, kept))} are new or pinned")
    text = folder.config_path.read_text(encoding="utf-8")
    loaded = [v for v in load_model_config(folder.config_path).version_policy.selects(versions) if v in kept]
    let_go = Reconfigure(
        model, text, keep_versions(text, loaded or kept[-1:], folder.config_path), tuple(loaded or kept[-1:]),
        f"let {', '.join(map(str, gone))} go",
    )  # fmt: skip
    return Plan("prune", model, (let_go, *(RemoveVersion(model, version) for version in gone)), commit_index=0)


def canary_folder(repository: ModelRepository, variant: str) -> ModelFolder:
    """Where the variant's canary stands while there is one."""
    return ModelFolder(repository.path / f"{variant}{CANARY_SUFFIX}")


def pins_of(config: ModelConfig) -> dict[str, int]:
    """The versions an ensemble's steps are pinned to, by model."""
    return {step.model: step.version for step in config.steps}


def newest_pins(repository: ModelRepository, variant: str) -> dict[str, int]:
    """The newest loaded version of each model that the variant's steps call."""
    newest = {}
    for model in pins_of(load_model_config(repository.model(variant).config_path)):
        folder = repository.model(model)
        loaded = load_model_config(folder.config_path).version_policy.selects(folder.versions())
        if loaded:
            newest[model] = loaded[-1]
    return newest


def pinned_versions(repository: ModelRepository, model: str) -> set[int]:
    """The versions of ``model`` that an ensemble of the repository pins."""
    ensembles = (load_model_config(folder.config_path) for folder in repository.models())
    return {step.version for config in ensembles for step in config.steps if step.model == model and step.version > 0}


def _new_version(folder: ModelFolder, version: str | None) -> int:
    existing = folder.versions()
    if version is None:
        return max(existing, default=0) + 1
    if not is_version(version):
        raise TriremeError(
            f"version {version!r} is none: give a number from 1, of up to 18 digits, without leading zeros"
        )
    if int(version) in existing:
        raise TriremeError(f"{folder.name} has a version {version}; the newest is {existing[-1]}")
    return int(version)


def _hash_files(source: Path) -> dict[str, str]:
    if not source.is_dir():
        raise TriremeError(f"{source} is no folder with the files of a version")
    files = {}
    for path in sorted(source.rglob("*")):
        if path.is_symlink():
            raise TriremeError(
                f"{path} is a link; a version holds plain files, so that it stays what it was checked as"
            )
        if path.is_file() and path.name != DONE_MARKER:
            files[str(path.relative_to(source))] = sha256_of(path)
    if not files:
        raise TriremeError(f"{source} holds no file")
    return files


def _check_loaded(repository: ModelRepository, pins: Mapping[str, int]) -> None:
    for model, version in pins.items():
        folder = repository.model(model)
        loaded = load_model_config(folder.config_path).version_policy.selects(folder.versions())
        if version not in loaded:
            raise NotFoundError(f"loaded version of {model}", str(version), map(str, loaded))


def _close_canary(repository: ModelRepository, variant: str) -> tuple[Step, ...]:
    """Steps that take the traffic off a variant's canary, and then the canary itself."""
    steps: list[Step] = []
    for route in repository.path.glob("*/traffic.json"):
        before = route.read_text(encoding="utf-8")
        content = json.loads(before)
        if content.get("canary_percent", {}).pop(variant, None) is not None:
            after = json.dumps(content, indent=2) + "\n"
            relative = str(route.relative_to(repository.path))
            steps.append(ReplaceFile(relative, before, after, f"all traffic to {variant}"))
    return tuple(steps)


def _before_last_promotion(journal: Journal, variant: str) -> str:
    for release in reversed(journal.releases()):
        if (release.verb, release.subject, release.outcome) == ("promote", variant, Outcome.DONE):
            for form in release.steps:
                step = from_json(form)
                if isinstance(step, Reconfigure):
                    return step.before
    raise TriremeError(f"{variant} was never promoted, so there is nothing to go back to; name a version with --to")


def _told(pins: Mapping[str, int]) -> str:
    return ", ".join(f"{model} to version {version}" for model, version in pins.items())


def read_pins(repository: ModelRepository, variant: str, wanted: Sequence[str]) -> dict[str, int]:
    """The pins that a person names for a variant: ``MODEL=VERSION``, or a bare version where one model is meant.

    Raises:
        TriremeError: a text is neither, or a bare version could mean several of the variant's models, or none.
    """
    models = list(pins_of(load_model_config(repository.model(variant).config_path)))
    pins = {}
    for text in wanted:
        model, _, version = text.rpartition("=")
        if not is_version(version):
            raise TriremeError(f"{text!r} names no version: write MODEL=VERSION, for example {models[0]}=2")
        meant = [model] if model else [name for name in models if int(version) in repository.model(name).versions()]
        # With every model at version 1 only those with other versions to choose from can be meant.
        meant = [name for name in meant if len(repository.model(name).versions()) > 1] or meant
        if len(meant) != 1 or meant[0] not in models:
            raise TriremeError(
                f"{text!r} is no version of exactly one model of {variant}; write MODEL=VERSION with one of: "
                + ", ".join(models)
            )
        pins[meant[0]] = int(version)
    return pins
