"""What each verb will do, worked out from the files before anything is touched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from trireme_backends.routing.errors import RouteFileError
from trireme_backends.routing.route import CANARY_SUFFIX
from trireme_backends.routing.traffic import Traffic, parse_traffic

from trireme.errors import ConfigError, NotFoundError, TriremeError
from trireme.manifest import sha256_of
from trireme.model_config import ModelConfig, load_model_config
from trireme.release.edits import keep_versions, parse_text, pin_steps
from trireme.release.engine import Plan
from trireme.release.journal import Journal, Outcome
from trireme.release.step import (
    AddModel,
    CheckVersion,
    CopyVersion,
    InstallVersion,
    Reconfigure,
    RemoveModel,
    RemoveVersion,
    ReplaceFile,
    Step,
    from_json,
)
from trireme.repository import ModelFolder, ModelRepository, is_version, version_files
from trireme.routing.routes import RouteFolder, find_routes

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
    held = sorted({*config.version_policy.selects(folder.versions()), *pinned_versions(repository, model)})
    kept = sorted({*held, number})
    held_text = keep_versions(text, held, folder.config_path) if held else text
    # A policy such as "the latest one" would swap versions, under the ensembles that pin the old one, as soon as the
    # new folder is there: while a release is on its way, and when it is undone.
    hold = Reconfigure(model, text, held_text, (), f"hold {_listed(held)}")
    steps = (
        CopyVersion(model, number, str(source.resolve()), files),
        CheckVersion(model, number),
        *((hold,) if held_text != text else ()),
        InstallVersion(model, number),
        Reconfigure(
            model, held_text, keep_versions(text, kept, folder.config_path), tuple(kept), f"keep {_listed(kept)} loaded"
        ),
    )
    return Plan("publish", model, steps, commit_index=len(steps))


def plan_canary(repository: ModelRepository, variant: str, pins: Mapping[str, int]) -> Plan:
    """``<variant>__canary``: the variant with the steps of ``pins`` at those versions, loaded, without traffic yet.

    Raises:
        NotFoundError: there is no such variant.
        TriremeError: a version to pin is not loaded or is pinned already, or a canary is under way.
    """
    folder = repository.model(variant)
    if canary_folder(repository, variant).path.exists():
        raise TriremeError(f"{variant} has a canary already; promote it, or roll it back, first")
    _check_loaded(repository, pins)
    text = folder.config_path.read_text(encoding="utf-8")
    pinned = pin_steps(text, pins, folder.config_path)
    if pinned == text:
        raise TriremeError(f"{variant} is pinned to {_told(pins)} already; publish a new version first")
    return Plan("canary", variant, (AddModel(canary_folder(repository, variant).name, pinned),), commit_index=1)


def plan_shift(repository: ModelRepository, variant: str, percent: float) -> Plan:
    """``percent`` of the requests that a route sends to ``variant`` to its canary, from the next request on.

    Raises:
        TriremeError: no route sends requests to the variant, or it has no canary.
    """
    canary = canary_folder(repository, variant)
    if not canary.path.exists():
        raise TriremeError(f"{variant} has no canary to shift traffic to")
    routes = routes_to(repository, variant)
    why = f"{percent:g} % of the traffic to {canary.name}"
    return Plan("canary", variant, tuple(_shift(route, variant, percent, why) for route in routes), commit_index=0)


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
    off, removal = _close_canary(repository, variant)
    return Plan("promote", variant, (repin, *off, *removal), commit_index=0)


def plan_rollback(repository: ModelRepository, journal: Journal, variant: str, pins: Mapping[str, int] | None) -> Plan:
    """The variant's traffic off its canary, and its pins back to ``pins``, or to those before its last promotion.

    Needs no load of a model version: the one it goes back to is still loaded.

    Raises:
        NotFoundError: there is no such variant.
        TriremeError: there is neither a canary nor an earlier state to go back to.
    """
    folder = repository.model(variant)
    off, removal = _close_canary(repository, variant)
    before = folder.config_path.read_text(encoding="utf-8")
    if pins is not None:
        _check_loaded(repository, pins)
        after = pin_steps(before, pins, folder.config_path)
    else:
        # With a canary under way, going back means closing it: the variant itself was never moved.
        earlier = {} if off or removal else _pins_before_last_promotion(journal, folder)
        after = pin_steps(before, earlier, folder.config_path)
    if after == before and not off and not removal:
        raise TriremeError(f"{variant} is there already; nothing to roll back")
    back = (Reconfigure(variant, before, after, (1,), "pin back", patient=False),) if after != before else ()
    return Plan("rollback", variant, (*off, *back, *removal), commit_index=0)


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
    for path in version_files(source):
        if path.is_symlink():
            raise TriremeError(
                f"{path} is a link; a version holds plain files, so that it stays what it was checked as"
            )
        if path.name != DONE_MARKER:
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


def _close_canary(repository: ModelRepository, variant: str) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Steps that take the traffic off a variant's canary, and steps that remove the canary; empty where it has none."""
    off = tuple(
        _shift(route, variant, 0.0, f"all traffic to {variant}")
        for route in find_routes(repository)
        if variant in read_traffic(route).canary_percent
    )
    canary = canary_folder(repository, variant)
    return off, (RemoveModel(canary.name),) if canary.path.exists() else ()


def routes_to(repository: ModelRepository, variant: str) -> list[RouteFolder]:
    """The routes that send requests to ``variant``.

    Raises:
        TriremeError: there is none.
    """
    routes = [route for route in find_routes(repository) if variant in [v.name for v in route.route().variants]]
    if not routes:
        raise TriremeError(f"no route sends requests to {variant}, so no traffic can be shifted to a canary")
    return routes


def read_traffic(route: RouteFolder) -> Traffic:
    """Which share of its variants' requests a route sends to their canaries now.

    Raises:
        ConfigError: its ``traffic.json`` is wrong.
    """
    if not route.traffic_path.exists():
        return Traffic()
    try:
        return parse_traffic(route.traffic_path, route.traffic_path.read_text(encoding="utf-8"))
    except RouteFileError as error:
        raise ConfigError(route.traffic_path, f"{error.key}: {error.problem}") from None


def _shift(route: RouteFolder, variant: str, percent: float, why: str) -> ReplaceFile:
    before = route.traffic_path.read_text(encoding="utf-8") if route.traffic_path.exists() else None
    percents = {name: share for name, share in read_traffic(route).canary_percent.items() if name != variant}
    if percent:
        percents[variant] = percent
    after = json.dumps({"canary_percent": percents}, indent=2) + "\n" if percents else None
    return ReplaceFile(str(route.traffic_path.relative_to(route.folder.path.parent)), before, after, why)


def _pins_before_last_promotion(journal: Journal, folder: ModelFolder) -> dict[str, int]:
    for release in reversed(journal.releases()):
        if (release.verb, release.subject, release.outcome) == ("promote", folder.name, Outcome.DONE):
            for form in release.steps:
                step = from_json(form)
                if isinstance(step, Reconfigure):
                    return pins_of(parse_text(step.before, folder.config_path))
    raise TriremeError(f"{folder.name} was never promoted, so there is nothing to go back to; name a version with --to")


def _listed(versions: Sequence[int]) -> str:
    return f"version{'s' if len(versions) > 1 else ''} {', '.join(map(str, versions))}"


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
