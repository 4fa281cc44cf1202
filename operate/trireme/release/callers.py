"""The versions that callers get, according to the files or to a running server, and who moves when they change."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from trireme_client import ClientError, OperatorClient

from trireme.errors import TriremeError
from trireme.release.step import is_unreachable
from trireme.repository.folders import ModelRepository
from trireme.repository.model_config import load_model_config

# Versions by model; None if no version is loaded.
ServedVersions = Mapping[str, int | None]

_CALL_DEADLINE_SECONDS = 10.0
# A server that was unreachable during the release applies the change right after its start.
_LOOK_DEADLINE_SECONDS = 20.0


class CallersError(TriremeError):
    """A release was carried out, but callers do not get the expected versions."""


@dataclass(frozen=True, slots=True)
class Move:
    """Callers that get another version than before.

    Attributes:
        name: the model or ensemble that they call.
        callers: a description of them.
    """

    name: str
    callers: str
    before: ServedVersions
    after: ServedVersions

    def describe(self) -> str:
        changed = [model for model in self.after if self.before.get(model) != self.after[model]]
        return f"{self.callers}: " + ", ".join(
            f"{model} {_number(self.before.get(model))} -> {_number(self.after[model])}" for model in changed
        )


@dataclass(frozen=True, slots=True)
class Serving:
    """The versions in service.

    Attributes:
        loaded: by model, ascending.
        steps: by ensemble, the version of each model that it calls; -1 for the newest loaded one.
    """

    loaded: Mapping[str, Sequence[int]]
    steps: Mapping[str, Mapping[str, int]]

    def versions_for(self, name: str) -> ServedVersions:
        """The versions that callers of ``name`` without a version get; for an ensemble, those of its steps."""
        if name not in self.steps:
            return {name: self._newest(name)}
        is_loaded = bool(self.loaded.get(name))
        return {
            model: self._newest(model) if version < 0 else version if version in self.loaded.get(model, ()) else None
            for model, version in self.steps[name].items()
            if is_loaded
        }

    def pins(self, model: str) -> dict[str, int]:
        """The pinned version of ``model`` by ensemble."""
        return {name: steps[model] for name, steps in self.steps.items() if steps.get(model, -1) > 0}

    def with_loaded(self, model: str, versions: Iterable[int]) -> Serving:
        return replace(self, loaded={**self.loaded, model: sorted(versions)})

    def with_pins(self, ensemble: str, pins: Mapping[str, int]) -> Serving:
        return replace(self, steps={**self.steps, ensemble: {**self.steps[ensemble], **pins}})

    def moves(self, after: Serving) -> tuple[Move, ...]:
        """The callers that get another version in ``after``."""
        found = []
        for name in sorted(after.loaded):
            old, new = self.versions_for(name), after.versions_for(name)
            if old != new:
                found.append(Move(name, self._callers_of(name, [m for m in new if old.get(m) != new[m]]), old, new))
        return tuple(found)

    def _callers_of(self, name: str, changed: Iterable[str]) -> str:
        if name not in self.steps:
            return f"callers of {name} without a version"
        follows = all(self.steps[name].get(model) == -1 for model in changed)
        return f"callers of {name} (model_version: -1)" if follows else f"callers of {name}"

    def _newest(self, model: str) -> int | None:
        return max(self.loaded.get(model, ()), default=None)


def serving_by_files(repository: ModelRepository) -> Serving:
    """The versions that a server would serve that reads the repository now."""
    loaded, steps = {}, {}
    for folder in repository.models():
        config = load_model_config(folder.config_path)
        loaded[folder.name] = config.version_policy.selects(folder.versions())
        if config.is_ensemble:
            steps[folder.name] = {step.model: step.version for step in config.steps}
    return Serving(loaded, steps)


def serving_on(server: OperatorClient, names: Iterable[str]) -> Serving:
    """The versions that a server serves; with the steps of the ensembles among ``names``."""
    loaded: dict[str, list[int]] = {}
    for entry in server.index(_CALL_DEADLINE_SECONDS):
        if entry.state == "READY":
            loaded.setdefault(entry.model, []).append(int(entry.version))
    steps = {name: server.ensemble_steps(name, _CALL_DEADLINE_SECONDS) for name in names if name in loaded}
    return Serving(loaded, {name: found for name, found in steps.items() if found})


def verify_callers(servers: Sequence[OperatorClient], subject: str, expected: Mapping[str, ServedVersions]) -> str:
    """Check the versions that callers get on each reachable server, and return a summary.

    Args:
        subject: must be served; the other models in ``expected`` are compared if they are.

    Raises:
        CallersError: callers of a server get other versions, or it does not report them.
    """
    verified = sum(_is_as_expected(server, subject, expected) for server in servers)
    if not verified:
        return "no server responds, so no version was verified"
    return f"callers of {subject} get {_listed(expected[subject])}, verified on {verified} of {len(servers)} servers"


def _is_as_expected(server: OperatorClient, subject: str, expected: Mapping[str, ServedVersions]) -> bool:
    """False if the server is unreachable. Raises CallersError if it is reachable and its callers get other versions."""
    deadline = time.monotonic() + _LOOK_DEADLINE_SECONDS
    while not is_unreachable(server):
        difference = _difference(server, subject, expected)
        if difference is None:
            return True
        if time.monotonic() > deadline:
            raise CallersError(f"{server.address}: {difference}; see: trireme status, trireme history {subject}")
        time.sleep(0.2)
    return False


def _difference(server: OperatorClient, subject: str, expected: Mapping[str, ServedVersions]) -> str | None:
    try:
        serving = serving_on(server, expected)
    except ClientError as error:
        return f"cannot read the versions that callers of {subject} get: {error}"
    for name, versions in expected.items():
        found = serving.versions_for(name)
        if found != versions and (name == subject or serving.loaded.get(name)):
            return f"callers of {name} get {_listed(found)}, not {_listed(versions)}"
    return None


def _listed(versions: ServedVersions) -> str:
    return ", ".join(f"{model} {_number(version)}" for model, version in versions.items()) or "no version"


def _number(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
