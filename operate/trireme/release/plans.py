"""What each verb will do, worked out from the files before anything is touched."""

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

# Stands beside the files of a version while they are being dropped in; no part of it.
DONE_MARKER = ".done"


def plan_publish(repository: ModelRepository, model: str, source: Path, version: str | None = None) -> Plan:
    """A new version of ``model`` out of the files of ``source``.

    Where an ensemble pins the model, or nothing of it serves yet, it is loaded beside the versions that serve. Else its
    callers get its newest loaded version, so it stays unloaded until it is promoted.

    Raises:
        NotFoundError: there is no such model.
        TriremeError: ``source`` or ``version`` cannot be published; the sentence says why.
    """
    folder = repository.model(model)
    serving = serving_by_files(repository)
    pins = serving.pins(model)
    number = _new_version(folder, version, pins.values())
    files = _hash_files(source)
    text = folder.config_path.read_text(encoding="utf-8")
    held = sorted({*serving.loaded[model], *pins.values()} & set(folder.versions()))
    held_text = keep_versions(text, held, folder.config_path) if held else text
    # A policy such as "the latest one" would swap versions, under the ensembles that pin the old one, as soon as the
    # new folder is there: while a release is on its way, and when it is undone.
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
    """``<variant>__canary``: the variant with the steps of ``pins`` at those versions, loaded, without traffic yet.

    Raises:
        NotFoundError: there is no such variant.
        TriremeError: it is no ensemble with pins, a version to pin is not loaded or is pinned already, or a canary is
            under way.
    """
    folder = repository.model(variant)
    movable_pins(folder, "canary")
    if canary_folder(repository, variant).path.exists():
        raise TriremeError(f"{variant} has a canary already; promote it, or roll it back, first")
    check_loaded(repository, pins)
    text = folder.config_path.read_text(encoding="utf-8")
    pinned = pin_steps(text, pins, folder.config_path)
    if pinned == text:
        raise _pinned_already(repository, variant, pins)
    serving = serving_by_files(repository)
    step = AddModel(canary_folder(repository, variant).name, pinned)
    return _plan("canary", variant, (step,), 1, serving, serving)


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
    steps = tuple(_shift(route, variant, percent, why) for route in routes)
    serving = serving_by_files(repository)
    who = f"{percent:g} % of what {', '.join(route.name for route in routes)} sends to {variant}"
    move = Move(variant, who, serving.versions_for(variant), serving.versions_for(canary.name))
    return Plan("canary", variant, steps, commit_index=0, moves=(move,))


def plan_promote(repository: ModelRepository, subject: str, pins: Mapping[str, int]) -> Plan:
    """An ensemble pinned to ``pins``, its canary, if it has one, closed; or the callers of a model moved to a version.

    Raises:
        NotFoundError: there is no such model or version.
        TriremeError: a version to pin is not loaded, or callers get it already.
    """
    folder = repository.model(subject)
    if not load_model_config(folder.config_path).is_ensemble:
        plan = _plan_model("promote", repository, folder, pins)
        # A version that does not load on each server is let go again.
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
    """An ensemble's traffic off its canary, and its pins back to ``pins``, or to those before its last promotion.

    Of a plain model the callers are moved back. Needs no load of a version: the one it goes back to is still loaded.

    Raises:
        NotFoundError: there is no such model or version.
        TriremeError: no caller would be moved.
    """
    folder = repository.model(subject)
    is_ensemble = load_model_config(folder.config_path).is_ensemble
    off, removal = _close_canary(repository, subject)
    if pins is None:
        # With a canary under way, going back means closing it: the variant itself was never moved.
        pins = {} if off or removal else _before_last_promotion(journal, folder)
    check_loaded(repository, pins)
    if not is_ensemble:
        return _plan_model("rollback", repository, folder, pins, waits=True)
    before = folder.config_path.read_text(encoding="utf-8")
    after = pin_steps(before, pins, folder.config_path)
    back = (Reconfigure(subject, before, after, (1,), "pin back", waits=True),) if after != before else ()
    serving = serving_by_files(repository)
    plan = _plan("rollback", subject, (*off, *back, *removal), 0, serving, serving.with_pins(subject, pins))
    if off:
        canary = f"{subject}{CANARY_SUFFIX}"
        who = f"requests that routes send to {canary}"
        closed = Move(canary, who, serving.versions_for(canary), plan.expected[subject])
        plan = replace(plan, moves=(closed, *plan.moves))
    if not plan.moves and not removal:
        raise TriremeError(
            f"{subject} is there already: {_pin_list(pins)}; nothing to roll back; name a version with --to"
        )
    return plan


def plan_prune(repository: ModelRepository, model: str, keep: int) -> Plan:
    """All versions of ``model`` removed but the newest ``keep``, those that an ensemble pins, and the one callers get.

    Raises:
        NotFoundError: there is no such model.
        TriremeError: nothing is left to remove.
    """
    folder = repository.model(model)
    versions = folder.versions()
    serving = serving_by_files(repository)
    answering = serving.loaded[model][-1:]
    needed = {*versions[max(0, len(versions) - keep) :], *serving.pins(model).values(), *answering}
    kept = [version for version in versions if version in needed]
    gone = [version for version in versions if version not in kept]
    if not gone:
        raise TriremeError(f"{model} has no version to prune: {', '.join(map(str, kept))} are new, pinned or serve")
    text = folder.config_path.read_text(encoding="utf-8")
    loaded = tuple(version for version in serving.loaded[model] if version in kept)
    let_go = Reconfigure(
        model, text, keep_versions(text, loaded, folder.config_path), loaded, f"let {', '.join(map(str, gone))} go"
    )
    steps = (*((let_go,) if loaded else ()), *(RemoveVersion(model, version) for version in gone))
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
    """The callers of a model who ask for no version moved to one: they get the newest that is loaded."""
    model = folder.name
    if model not in wanted:
        raise TriremeError(f"{model} has no version; publish one first: trireme publish {model} PATH")
    version, serving = wanted[model], serving_by_files(repository)
    if version not in folder.versions():
        raise NotFoundError(f"version of {model}", str(version), map(str, folder.versions()))
    if serving.versions_for(model) == wanted:
        fix = "name a version with --to" if verb == "rollback" else "publish a new version first"
        raise TriremeError(f"callers of {model} get version {version} already; {fix}")
    pins = serving.pins(model)
    if above := sorted(name for name, pinned in pins.items() if pinned > version):
        raise TriremeError(
            f"callers of {model} get its newest loaded version, and a newer one than {version} is pinned by "
            f"{', '.join(above)}; first: {' and '.join(f'trireme rollback {name}' for name in above)}"
        )
    held = {*serving.loaded[model], *pins.values()} & set(folder.versions())
    kept = sorted({held_version for held_version in held if held_version < version} | {version})
    gone = sorted(set(serving.loaded[model]) - set(kept))
    text = folder.config_path.read_text(encoding="utf-8")
    step = Reconfigure(
        model, text, keep_versions(text, kept, folder.config_path), (version,), f"keep {_listed(kept)} loaded", waits
    )
    remarks = [f"{_listed(gone)} of {model} is unloaded: callers that name it get an error"] if gone else []
    return _plan(verb, model, (step,), 0, serving, serving.with_loaded(model, kept), remarks)


def _load_waiting(repository: ModelRepository, serving: Serving, model: str, version: int) -> tuple[Step, ...]:
    """A step that loads the ensembles that could not be loaded until ``model`` had that version."""
    waiting = [name for name, steps in serving.steps.items() if steps.get(model) in (-1, version)]
    for caller in waiting:
        waiting += [name for name, steps in serving.steps.items() if caller in steps and name not in waiting]
    left_out = plan_loading(repository).left_out
    found = tuple(name for name in waiting if name in left_out)
    return (LoadModels(found),) if found else ()


def canary_folder(repository: ModelRepository, variant: str) -> ModelFolder:
    """Where the variant's canary stands while there is one."""
    return ModelFolder(repository.path / f"{variant}{CANARY_SUFFIX}")


def _new_version(folder: ModelFolder, version: str | None, pinned: Iterable[int]) -> int:
    existing = folder.versions()
    if version is None:
        # The first one is what an ensemble waits for, where one does.
        return max(existing) + 1 if existing else min(pinned, default=1)
    if not is_version(version):
        raise TriremeError(
            f"version {version!r} is not a version number; give one from 1, of up to 18 digits, without leading zeros"
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
    """What callers of a model got before a release of it moved them the last time; of an ensemble, where it pins that.

    Publishing moves them too, where an ensemble pins the model.
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
    raise TriremeError(f"{folder.name} was never promoted, so there is nothing to go back to; name a version with --to")


def _pinned_already(repository: ModelRepository, variant: str, pins: Mapping[str, int]) -> TriremeError:
    loaded = serving_by_files(repository).loaded
    for model, version in pins.items():
        newest = repository.model(model).versions()[-1]
        if newest > max(loaded[model]):
            return TriremeError(
                f"{variant} is pinned to {model} version {version} already, and version {newest} is not loaded; "
                f"load it with: trireme promote {model}"
            )
    return TriremeError(f"{variant} is pinned to {_pin_list(pins)} already; publish a new version first")


def _listed(versions: Sequence[int]) -> str:
    return f"version{'s' if len(versions) > 1 else ''} {', '.join(map(str, versions))}"


def _pin_list(pins: Mapping[str, int]) -> str:
    return ", ".join(f"{model} to version {version}" for model, version in pins.items())
