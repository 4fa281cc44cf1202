"""Builds the plan of each command from the files, before anything is changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trireme_backends.errors import FileError
from trireme_backends.routing.route import CANARY_SUFFIX
from trireme_backends.routing.traffic import Traffic
from trireme_backends.strict_json import read_json

from trireme.errors import ConfigError, NotFoundError, TriremeError
from trireme.release.callers import Move, Serving, serving_by_files
from trireme.release.edits import keep_versions, pin_steps
from trireme.release.engine import Plan
from trireme.release.journal import Journal, Outcome
from trireme.release.pins import check_loaded, movable_pins
from trireme.release.step import (
    AddModel,
    CheckVersion,
    CopyVersion,
    InstallVersion,
    LoadModels,
    Reconfigure,
    RemoveModel,
    RemoveVersion,
    ReplaceFile,
    Step,
)
from trireme.repository.folders import ModelFolder, ModelRepository, is_version, version_files
from trireme.repository.loading import plan_loading
from trireme.repository.manifest import sha256_of
from trireme.repository.model_config import load_model_config
from trireme.repository.routes import RouteFolder, find_routes

# Marks a directory in an inbox as complete; not part of the version.
DONE_MARKER = ".done"


def plan_publish(repository: ModelRepository, model: str, source: Path, version: str | None = None) -> Plan:
    """Plan to publish the files of ``source`` as a new version of ``model``.

    If an ensemble pins the model, or no version is loaded yet, the new version is loaded beside the current ones.
    Otherwise callers get the newest loaded version, so the new one stays unloaded until it is promoted.

    Raises:
        NotFoundError: the model does not exist.
        TriremeError: ``source`` or ``version`` cannot be published.
    """
    folder = repository.model(model)
    serving = serving_by_files(repository)
    pins = serving.pins(model)
    number = _new_version(folder, version, pins.values())
    files = _hash_files(source)
    text = folder.config_path.read_text(encoding="utf-8")
    held = sorted({*serving.loaded[model], *pins.values()} & set(folder.versions()))
    held_text = keep_versions(text, held, folder.config_path) if held else text
    # A policy such as "latest" would replace the version that ensembles pin as soon as the new folder exists, during a
    # release and its undo.
    hold = Reconfigure(model, text, held_text, (), f"hold {_listed(held)}")
    has_samples = any(folder.golden_dir.glob("*.json"))
    steps: tuple[Step, ...] = (
        CopyVersion(model, number, str(source.resolve()), files),
        CheckVersion(model, number, has_samples),
        *((hold,) if held_text != text else ()),
        InstallVersion(model, number),
    )
    after, remarks = serving.with_loaded(model, held), []
    if pins or not held:
        kept = sorted({*held, number})
        after = serving.with_loaded(model, kept)
        steps += (
            Reconfigure(
                model, held_text, keep_versions(text, kept, folder.config_path), tuple(kept),
                f"keep {_listed(kept)} loaded",
            ),
            *_load_waiting(repository, serving, model, number),
        )  # fmt: skip
    else:
        remarks.append(
            f"{model} {number} stays unloaded until: trireme promote {model}; a canary needs an ensemble that pins it"
        )
    if not has_samples:
        remarks.append(f"not proven: no golden samples; add some to {folder.golden_dir}")
    return _plan("publish", model, steps, len(steps), serving, after, remarks)


def plan_canary(repository: ModelRepository, variant: str, pins: Mapping[str, int]) -> Plan:
    """Plan to load ``<variant>__canary``, the variant with the steps in ``pins`` at those versions, without traffic.

    Raises:
        NotFoundError: the variant does not exist.
        TriremeError: it is not an ensemble with pins, a version to pin is not loaded or already pinned, or the variant
            already has a canary.
    """
    folder = repository.model(variant)
    movable_pins(folder, "canary")
    if canary_folder(repository, variant).path.exists():
        raise TriremeError(f"{variant} already has a canary; promote or roll back {variant} first")
    check_loaded(repository, pins)
    text = folder.config_path.read_text(encoding="utf-8")
    pinned = pin_steps(text, pins, folder.config_path)
    if pinned == text:
        raise _pinned_already(repository, variant, pins)
    serving = serving_by_files(repository)
    step = AddModel(canary_folder(repository, variant).name, pinned)
    return _plan("canary", variant, (step,), 1, serving, serving)


def plan_shift(repository: ModelRepository, variant: str, percent: float) -> Plan:
    """Plan to send ``percent`` of a route's requests to ``variant`` to its canary, from the next request on.

    Raises:
        TriremeError: no route sends requests to the variant, or it has no canary.
    """
    canary = canary_folder(repository, variant)
    if not canary.path.exists():
        raise TriremeError(f"{variant} has no canary to shift traffic to")
    routes = routes_to(repository, variant)
    why = f"{percent:g} % of the traffic to {canary.name}"
    steps = tuple(_shift(route, variant, percent, why) for route in routes)
    serving = serving_by_files(repository)
    who = f"{percent:g} % of the requests from {', '.join(route.name for route in routes)} to {variant}"
    move = Move(variant, who, serving.versions_for(variant), serving.versions_for(canary.name))
    return Plan("canary", variant, steps, commit_index=0, moves=(move,))


def plan_promote(repository: ModelRepository, subject: str, pins: Mapping[str, int]) -> Plan:
    """Plan to pin an ensemble to ``pins`` and close its canary, or to move the callers of a model to a version.

    Raises:
        NotFoundError: the model or version does not exist.
        TriremeError: a version to pin is not loaded, or callers already get it.
    """
    folder = repository.model(subject)
    if not load_model_config(folder.config_path).is_ensemble:
        plan = _plan_model("promote", repository, folder, pins)
        # A version that does not load on every server is unloaded again.
        return replace(plan, commit_index=len(plan.steps))
    movable_pins(folder, "promote")
    check_loaded(repository, pins)
    before = folder.config_path.read_text(encoding="utf-8")
    after = pin_steps(before, pins, folder.config_path)
    if after == before:
        raise _pinned_already(repository, subject, pins)
    repin = Reconfigure(subject, before, after, (1,), f"pin {_pin_list(pins)}")
    off, removal = _close_canary(repository, subject)
    serving = serving_by_files(repository)
    return _plan("promote", subject, (repin, *off, *removal), 0, serving, serving.with_pins(subject, pins))


def plan_rollback(repository: ModelRepository, journal: Journal, subject: str, pins: Mapping[str, int] | None) -> Plan:
    """Plan to abort an ensemble's canary and restore its pins to ``pins`` or to those before its last promotion.

    The callers of a plain model are moved back. No version needs to be loaded: the previous one still is.

    Raises:
        NotFoundError: the model or version does not exist.
        TriremeError: no caller would be moved.
    """
    folder = repository.model(subject)
    is_ensemble = load_model_config(folder.config_path).is_ensemble
    off, removal = _close_canary(repository, subject)
    if pins is None:
        # With a canary, a rollback means closing it: the variant itself was never moved.
        pins = {} if off or removal else _before_last_promotion(journal, folder)
    check_loaded(repository, pins)
    if not is_ensemble:
        return _plan_model("rollback", repository, folder, pins, waits=True)
    before = folder.config_path.read_text(encoding="utf-8")
    after = pin_steps(before, pins, folder.config_path)
    back = (Reconfigure(subject, before, after, (1,), "restore the pins", waits=True),) if after != before else ()
    serving = serving_by_files(repository)
    plan = _plan("rollback", subject, (*off, *back, *removal), 0, serving, serving.with_pins(subject, pins))
    if off:
        canary = f"{subject}{CANARY_SUFFIX}"
        who = f"requests from routes to {canary}"
        closed = Move(canary, who, serving.versions_for(canary), plan.expected[subject])
        plan = replace(plan, moves=(closed, *plan.moves))
    if not plan.moves and not removal:
        raise TriremeError(
            f"{subject} is already pinned to {_pin_list(pins)}; to roll back further, name a version with --to"
        )
    return plan


def plan_prune(repository: ModelRepository, model: str, keep: int) -> Plan:
    """Plan to remove the versions of ``model`` other than the newest ``keep``, pinned ones, and the one callers get.

    Raises:
        NotFoundError: the model does not exist.
        TriremeError: there is no version to remove.
    """
    folder = repository.model(model)
    versions = folder.versions()
    serving = serving_by_files(repository)
    newest_loaded = serving.loaded[model][-1:]
    needed = {*versions[max(0, len(versions) - keep) :], *serving.pins(model).values(), *newest_loaded}
    kept = [version for version in versions if version in needed]
    removed = [version for version in versions if version not in kept]
    if not removed:
        raise TriremeError(f"{model} has no version to prune: {', '.join(map(str, kept))} are new, pinned or serving")
    text = folder.config_path.read_text(encoding="utf-8")
    loaded = tuple(version for version in serving.loaded[model] if version in kept)
    unload = Reconfigure(
        model, text, keep_versions(text, loaded, folder.config_path), loaded, f"unload {_listed(removed)}"
    )
    steps = (*((unload,) if loaded else ()), *(RemoveVersion(model, version) for version in removed))
    return _plan("prune", model, steps, 0, serving, serving.with_loaded(model, loaded))


def _plan(
    verb: str,
    subject: str,
    steps: tuple[Step, ...],
    commit_index: int,
    before: Serving,
    after: Serving,
    remarks: Sequence[str] = (),
) -> Plan:
    moves = before.moves(after)
    expected = {name: after.versions_for(name) for name in (subject, *(move.name for move in moves))}
    return Plan(verb, subject, steps, commit_index, moves, expected, tuple(remarks))


def _plan_model(
    verb: str, repository: ModelRepository, folder: ModelFolder, wanted: Mapping[str, int], *, waits: bool = False
) -> Plan:
    """Plan to move callers of a model without a version, who get its newest loaded one, to ``wanted``."""
    model = folder.name
    if model not in wanted:
        raise TriremeError(f"{model} has no version; run: trireme publish {model} PATH")
    version, serving = wanted[model], serving_by_files(repository)
    if version not in folder.versions():
        raise NotFoundError(f"version of {model}", str(version), map(str, folder.versions()))
    if serving.versions_for(model) == wanted:
        fix = "name a version with --to" if verb == "rollback" else "publish a new version first"
        raise TriremeError(f"callers of {model} already get version {version}; {fix}")
    pins = serving.pins(model)
    if above := sorted(name for name, pinned in pins.items() if pinned > version):
        raise TriremeError(
            f"callers of {model} get its newest loaded version, and a version newer than {version} is pinned by "
            f"{', '.join(above)}; first run: {' and '.join(f'trireme rollback {name}' for name in above)}"
        )
    held = {*serving.loaded[model], *pins.values()} & set(folder.versions())
    kept = sorted({held_version for held_version in held if held_version < version} | {version})
    unloaded = sorted(set(serving.loaded[model]) - set(kept))
    text = folder.config_path.read_text(encoding="utf-8")
    step = Reconfigure(
        model, text, keep_versions(text, kept, folder.config_path), (version,), f"keep {_listed(kept)} loaded", waits
    )
    remarks = [f"unloads {_listed(unloaded)} of {model}: callers that request it get an error"] if unloaded else []
    return _plan(verb, model, (step,), 0, serving, serving.with_loaded(model, kept), remarks)


def _load_waiting(repository: ModelRepository, serving: Serving, model: str, version: int) -> tuple[Step, ...]:
    """A step that loads the ensembles that wait for that version of ``model``; empty if there are none."""
    waiting = [name for name, steps in serving.steps.items() if steps.get(model) in (-1, version)]
    for caller in waiting:
        waiting += [name for name, steps in serving.steps.items() if caller in steps and name not in waiting]
    not_loaded = plan_loading(repository).left_out
    models = tuple(name for name in waiting if name in not_loaded)
    return (LoadModels(models),) if models else ()


def canary_folder(repository: ModelRepository, variant: str) -> ModelFolder:
    """The folder of the variant's canary, whether it exists or not."""
    return ModelFolder(repository.path / f"{variant}{CANARY_SUFFIX}")


def _new_version(folder: ModelFolder, version: str | None, pinned: Iterable[int]) -> int:
    existing = folder.versions()
    if version is None:
        # The first version is the one that an ensemble waits for, if any.
        return max(existing) + 1 if existing else min(pinned, default=1)
    if not is_version(version):
        raise TriremeError(f"{version!r} is not a version number; use 1 or higher, at most 18 digits, no leading zeros")
    if int(version) in existing:
        raise TriremeError(f"{folder.name} already has version {version}; the newest is {existing[-1]}")
    return int(version)


def _hash_files(source: Path) -> dict[str, str]:
    if not source.is_dir():
        raise TriremeError(f"{source} is not a directory; name the directory with the files of the version")
    files = {}
    for path in version_files(source):
        if path.is_symlink():
            raise TriremeError(
                f"{path} is a link; replace it with a regular file, so that the version stays as it was checked"
            )
        if path.name != DONE_MARKER:
            files[str(path.relative_to(source))] = sha256_of(path)
    if not files:
        raise TriremeError(f"{source} contains no files")
    return files


def _close_canary(repository: ModelRepository, variant: str) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Steps that move the traffic off a variant's canary, and steps that remove the canary; empty without a canary."""
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
        TriremeError: no route does.
    """
    routes = [route for route in find_routes(repository) if variant in [v.name for v in route.route().variants]]
    if not routes:
        raise TriremeError(f"no route sends requests to {variant}; a canary needs a route to shift traffic")
    return routes


def read_traffic(route: RouteFolder) -> Traffic:
    """The shares of its variants' requests that a route now sends to their canaries.

    Raises:
        ConfigError: its ``traffic.json`` is invalid.
    """
    if not route.traffic_path.exists():
        return Traffic()
    try:
        return read_json(route.traffic_path, Traffic)
    except FileError as error:
        raise ConfigError(error.path, error.detail) from None


def _shift(route: RouteFolder, variant: str, percent: float, why: str) -> ReplaceFile:
    before = route.traffic_path.read_text(encoding="utf-8") if route.traffic_path.exists() else None
    percents = {name: share for name, share in read_traffic(route).canary_percent.items() if name != variant}
    if percent:
        percents[variant] = percent
    after = json.dumps({"canary_percent": percents}, indent=2) + "\n" if percents else None
    return ReplaceFile(str(route.traffic_path.relative_to(route.folder.path.parent)), before, after, why)


def _before_last_promotion(journal: Journal, folder: ModelFolder) -> dict[str, int]:
    """The versions that callers of a model got before its last release that moved them; for an ensemble, its pins.

    Publishing moves them too if an ensemble pins the model.
    """
    movable = movable_pins(folder, "rollback") or {folder.name}
    for release in reversed(journal.releases()):
        if release.subject != folder.name or release.verb not in ("publish", "promote"):
            continue
        if release.outcome in (Outcome.DONE, Outcome.FAILED):
            for move in release.moves:
                before = {model: version for model, version in move.before.items() if version and model in movable}
                if move.name == folder.name and before:
                    return before
    raise TriremeError(f"{folder.name} was never promoted; name the version to roll back to with --to")


def _pinned_already(repository: ModelRepository, variant: str, pins: Mapping[str, int]) -> TriremeError:
    loaded = serving_by_files(repository).loaded
    for model, version in pins.items():
        newest = repository.model(model).versions()[-1]
        if newest > max(loaded[model]):
            return TriremeError(
                f"{variant} is already pinned to {model} version {version}, and version {newest} is not loaded; "
                f"run: trireme promote {model}"
            )
    return TriremeError(f"{variant} is already pinned to {_pin_list(pins)}; publish a new version first")


def _listed(versions: Sequence[int]) -> str:
    return f"version{'s' if len(versions) > 1 else ''} {', '.join(map(str, versions))}"


def _pin_list(pins: Mapping[str, int]) -> str:
    return ", ".join(f"{model} version {version}" for model, version in pins.items())
