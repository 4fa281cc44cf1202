"""Watches the models of one running server with real inferences, and heals what Triton does not."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trireme.errors import ServerError
from trireme.golden import GoldenSample
from trireme.readiness import prove
from trireme.repository import ModelRepository
from trireme.stubs import StubWatch
from trireme.triton_client import DeadlineError, TritonClient

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How often to look, and how long to wait for an answer.

    Attributes:
        interval_seconds: between two looks; each asks one model a golden sample, in turn.
        probe_deadline_seconds: for the answer to such a question. A server that leaves a question and then a call for
            its liveness unanswered is frozen.
        proof_deadline_seconds: for each golden sample of a model that was just loaded.
        load_deadline_seconds: for models to load.
    """

    interval_seconds: float = 1.0
    probe_deadline_seconds: float = 5.0
    proof_deadline_seconds: float = 30.0
    load_deadline_seconds: float = 180.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What only a new server mends."""

    reason: str


class HealthWatch:
    """Looks at one server.

    Attributes:
        problems: by model, what its last answers to golden samples had wrong.
        heals: how often a model was reloaded because its process was gone.
        last_heal: why the last time.
    """

    def __init__(
        self,
        client: TritonClient,
        repository: ModelRepository,
        samples: Mapping[str, Sequence[GoldenSample]],
        policy: HealthPolicy,
        stubs: StubWatch | None,
        required: Collection[str],
    ) -> None:
        """
        Args:
            samples: of the models that the server has loaded; those without samples are not asked.
            stubs: None where the server's processes cannot be seen from here.
            required: models that are asked at every look, in turn, beside the turn of the others.
        """
        self.problems: dict[str, tuple[str, ...]] = {}
        self.heals = 0
        self.last_heal = ""
        self._client = client
        self._repository = repository
        self._samples = {model: list(found) for model, found in samples.items() if found}
        self._turns = [itertools.cycle(sorted(turn)) for turn in self._split(required) if turn]
        self._stubs = stubs
        self._policy = policy

    def prove_all(self) -> None:
        """Ask every golden sample of every model; ``problems`` then holds what was wrong."""
        for model, samples in self._samples.items():
            self.problems[model] = prove(self._client, model, samples, self._policy.proof_deadline_seconds)

    def look(self) -> Fault | None:
        """Look once: at the server's stubs, and at the answers of the models whose turn it is.

        A model whose stub has died is reloaded here. What is returned needs a restart.
        """
        for model in sorted({stub.model for stub in self._stubs.find_dead()} if self._stubs else ()):
            if fault := self._heal(model, f"a process of model {model} died"):
                return fault
        for turn in self._turns:
            model = next(turn)
            if fault := self._probe(model, self._samples[model][0]):
                return fault
        return None

    def _split(self, required: Collection[str]) -> tuple[list[str], list[str]]:
        return [name for name in self._samples if name in required], [
            name for name in self._samples if name not in required
        ]

    def _probe(self, model: str, sample: GoldenSample) -> Fault | None:
        deadline = self._policy.probe_deadline_seconds
        answered_before: int | None = None
        for _ in range(2):
            try:
                answer = self._client.infer(model, sample.inputs, deadline, sample.parameters)
            except DeadlineError:
                if not self._client.is_live(deadline):
                    return Fault(f"tritonserver is frozen: it answered nothing for {2 * deadline:.0f} s")
                answered = self._answered(model)
                if answered == answered_before:
                    return self._heal(model, f"model {model} answered nothing for {2 * deadline:.0f} s")
                answered_before = answered
            except ServerError as error:
                if "is not healthy" in str(error):
                    return self._heal(model, str(error))
                # Said by the next look, if it is that the server has ended.
                self.problems[model] = (f"{sample.case}: {error}",)
                return None
            else:
                self.problems[model] = tuple(sample.differences(answer.outputs))
                return None
        # Others were answered in the meantime: it is busy, and a restart would lose what waits.
        return None

    def _answered(self, model: str) -> int:
        try:
            return sum(counts.succeeded for counts in self._client.counts(self._policy.probe_deadline_seconds, model))
        except ServerError:
            return 0

    def _heal(self, model: str, why: str) -> Fault | None:
        """Have Triton load the model anew beside the broken instance; the other instances go on answering."""
        _LOG.warning("%s; loading the model anew", why)
        policy = self._policy
        folder = self._repository.model(model)
        try:
            try:
                # Triton reloads the versions whose files look changed; the time of the directory is enough for that.
                for version in folder.versions():
                    os.utime(folder.version_dir(version))
            except OSError:
                # Not ours to touch, in a container: what cannot be replaced in place goes, for a moment.
                self._client.unload(model, policy.load_deadline_seconds)
            self._client.load(model, policy.load_deadline_seconds)
        except ServerError as error:
            return Fault(f"{why}, and loading it anew failed: {error}")
        problems = prove(self._client, model, self._samples.get(model, ()), policy.proof_deadline_seconds)
        if problems:
            return Fault(f"{why}, and loading it anew did not help: {problems[0]}")
        self.problems[model] = ()
        self.heals += 1
        self.last_heal = why
        _LOG.info("model %s answers again", model)
        return None
