"""Watches the models of one running server with real inferences, and heals what Triton does not."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trireme.errors import NotFoundError, ServerError
from trireme.golden import GoldenSample
from trireme.readiness import prove
from trireme.repository import ModelRepository
from trireme.stubs import Stub
from trireme.triton_client import DeadlineError, TritonClient, UnreachableError

_LOG = logging.getLogger(__name__)

# Stopped stubs are known by the first look, ended by the second, and dead at the third.
_LOOKS_UNTIL_ENDED = 3
_LOOK_SECONDS = 0.1
# What requests get when a stub is gone; a stub is called <model>_<instance group>_<instance>.
_UNHEALTHY = re.compile(r"Stub process '(?P<model>.+?)(?:_\d+_\d+)?' is not healthy")


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How long to wait.

    Attributes:
        probe_deadline_seconds: for the answer to one golden sample. Two that are not answered, and nothing else that
            the model has answered in the meantime: it hangs.
        proof_deadline_seconds: for each golden sample of a model that was just loaded.
        load_deadline_seconds: for models to load.
        notice_seconds: what a load balancer needs to see that the replica is red.
    """

    probe_deadline_seconds: float = 5.0
    proof_deadline_seconds: float = 30.0
    load_deadline_seconds: float = 180.0
    notice_seconds: float = 2.5


@dataclass(frozen=True, slots=True)
class Fault:
    """What only a new server mends."""

    reason: str


class Observer(Protocol):
    """Counts what happens."""

    def probed(self, model: str, outcome: str, seconds: float) -> None:
        """``outcome``: right, wrong, error, timeout."""

    def healed(self, model: str, reason: str) -> None:
        """``reason``: process_died, unhealthy, silent."""


class HealthWatch:
    """Looks at one server.

    Attributes:
        problems: by model, what its last answers to golden samples had wrong.
        heals: how often a model was reloaded because its process was gone or hung.
        last_heal: why the last time.
    """

    def __init__(
        self,
        client: TritonClient,
        repository: ModelRepository,
        samples: Mapping[str, Sequence[GoldenSample]],
        policy: HealthPolicy,
        find_dead_stubs: Callable[[], Sequence[Stub]],
        *,
        required: Collection[str],
        observer: Observer,
        before_heal: Callable[[], None],
        only_canaries_ask: Callable[[str, Collection[int]], bool],
    ) -> None:
        """
        Args:
            samples: of the models that the server has loaded; those without samples are not asked.
            find_dead_stubs: those that have died since the last call, where the server's processes can be seen.
            required: models that are asked at every look, in turn, beside the turn of the others.
            before_heal: called when a model is about to be loaded anew: requests to it may hang until it is.
            only_canaries_ask: tells of versions of a model whether no caller needs them: those are healed quietly.
        """
        self.problems: dict[str, tuple[str, ...]] = {}
        self.heals = 0
        self.last_heal = ""
        self._client = client
        self._repository = repository
        self._samples = {model: list(found) for model, found in samples.items() if found}
        first, second = ([m for m in self._samples if (m in required) is wanted] for wanted in (True, False))
        self._turns = [itertools.cycle(sorted(turn)) for turn in (first, second) if turn]
        self._find_dead_stubs = find_dead_stubs
        self._policy = policy
        self._observer = observer
        self._before_heal = before_heal
        self._only_canaries_ask = only_canaries_ask

    def prove_all(self) -> None:
        """Ask every golden sample of every model; ``problems`` then holds what was wrong."""
        for model, samples in self._samples.items():
            self.problems[model] = prove(self._client, model, samples, self._policy.proof_deadline_seconds)

    def look(self) -> Fault | None:
        """Look once: at the server's stubs, and at the answers of the models whose turn it is.

        A model whose stub is gone or hangs is reloaded here. What is returned needs a new server.

        Raises:
            UnreachableError: the server has ended.
        """
        if fault := self._heal_dead(self._find_dead_stubs()):
            return fault
        for turn in self._turns:
            model = next(turn)
            if fault := self._probe(model, self._samples[model][0]):
                return fault
        return None

    def _heal_dead(self, stubs: Sequence[Stub]) -> Fault | None:
        for model in sorted({stub.model for stub in stubs}):
            why = f"a process of model {model} died"
            if not self._only_canaries_ask(model, {stub.version for stub in stubs if stub.model == model}):
                self._before_heal()
                if fault := self._heal(model, "process_died", why):
                    return fault
            elif fault := self._heal(model, "process_died", why):
                # A canary that cannot be healed is told of, and is the canary's own matter.
                self.problems[model] = (fault.reason,)
        return None

    def _probe(self, model: str, sample: GoldenSample) -> Fault | None:
        deadline = self._policy.probe_deadline_seconds
        answered_before: int | None = None
        for _ in range(2):
            started = time.monotonic()
            try:
                answer = self._client.infer(model, sample.inputs, deadline, sample.parameters)
            except UnreachableError:
                raise
            except DeadlineError:
                self._observer.probed(model, "timeout", time.monotonic() - started)
                if not self._client.is_live(deadline):
                    return Fault(f"tritonserver is frozen: it answered nothing for {2 * deadline:.0f} s")
                answered = self._answered(model)
                if answered == answered_before:
                    if stopped := self._end_stopped_stubs():
                        return self._heal_dead(stopped)
                    self._before_heal()
                    return self._heal(model, "silent", f"model {model} answered nothing for {2 * deadline:.0f} s")
                answered_before = answered
            except ServerError as error:
                self._observer.probed(model, "error", time.monotonic() - started)
                if unhealthy := _UNHEALTHY.search(str(error)):
                    self._before_heal()
                    return self._heal(self._known(unhealthy["model"]) or model, "unhealthy", str(error))
                self.problems[model] = (f"{sample.case}: {error}",)
                return None
            else:
                self.problems[model] = tuple(sample.differences(answer.outputs))
                outcome = "wrong" if self.problems[model] else "right"
                self._observer.probed(model, outcome, time.monotonic() - started)
                return None
        # Others were answered in the meantime: it is busy, and a restart would lose what waits.
        return None

    def _end_stopped_stubs(self) -> Sequence[Stub]:
        """A model that is silent may only be waiting for a stub that is stopped: that one's model is to be healed."""
        for _ in range(_LOOKS_UNTIL_ENDED):
            if dead := self._find_dead_stubs():
                return dead
            time.sleep(_LOOK_SECONDS)
        return ()

    def _known(self, model: str) -> str | None:
        with contextlib.suppress(NotFoundError):
            return self._repository.model(model).name
        return None

    def _answered(self, model: str) -> int:
        try:
            return sum(counts.succeeded for counts in self._client.counts(self._policy.probe_deadline_seconds, model))
        except ServerError:
            return 0

    def _heal(self, model: str, reason: str, why: str) -> Fault | None:
        """Have Triton load the model anew beside the broken instance; the other instances go on answering."""
        _LOG.warning("%s; loading the model anew", why, extra={"model": model})
        policy = self._policy
        try:
            if not self._touch(model):
                # The files are not ours to touch, in a container: the model goes, for a moment.
                time.sleep(policy.notice_seconds)
                self._client.unload(model, policy.load_deadline_seconds)
            self._client.load(model, policy.load_deadline_seconds)
        except UnreachableError:
            raise
        except ServerError as error:
            return Fault(f"{why}, and loading it anew failed: {error}")
        problems = prove(self._client, model, self._samples.get(model, ()), policy.proof_deadline_seconds)
        if problems:
            return Fault(f"{why}, and loading it anew did not help: {problems[0]}")
        if model in self._samples:
            self.problems[model] = ()
        self.heals += 1
        self.last_heal = why
        self._observer.healed(model, reason)
        _LOG.info("model %s answers again", model, extra={"model": model})
        return None

    def _touch(self, model: str) -> bool:
        """Triton reloads the versions whose files look changed; the time of the directory is enough for that."""
        folder = self._repository.model(model)
        try:
            for version in folder.versions():
                os.utime(folder.version_dir(version))
        except OSError:
            return False
        return True
