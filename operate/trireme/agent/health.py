"""Watches the models of one running server with real inferences, and heals what Triton does not."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from trireme_client import ClientError, DeadlineError, OperatorClient, UnavailableError, UnreachableError

from trireme.agent.healer import Healer
from trireme.agent.samples import ProbeSamples
from trireme.errors import NotFoundError
from trireme.processes.stubs import Stub
from trireme.repository.folders import ModelRepository
from trireme.repository.golden import GoldenSample

_LOG = logging.getLogger(__name__)

# Stopped stubs are known by the first look, ended by the second, and dead at the third.
_CHECKS_UNTIL_ENDED = 3
_CHECK_SECONDS = 0.1
# What requests get when a stub is gone; a stub is called <model>_<instance group>_<instance>.
_UNHEALTHY = re.compile(r"Stub process '(?P<model>.+?)(?:_\d+_\d+)?' is not healthy")


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How long to wait.

    Attributes:
        probe_deadline_seconds: for the answer to one golden sample.
        silent_seconds: a model that answers nobody for so long hangs.
        silent_stream_seconds: the same of a decoupled model: engines pause while they take in long prompts of others.
        proof_deadline_seconds: for each golden sample of a model that was just loaded.
        load_deadline_seconds: for models to load.
        live_deadline_seconds: for the server's word that it lives, when a model was silent.
        first_pause_seconds, most_pause_seconds: between two tries to heal a model; doubles with each that fails.
        notice_seconds: what a load balancer needs to see that the replica is not ready.
    """

    probe_deadline_seconds: float = 5.0
    silent_seconds: float = 10.0
    silent_stream_seconds: float = 60.0
    proof_deadline_seconds: float = 30.0
    load_deadline_seconds: float = 180.0
    live_deadline_seconds: float = 2.0
    first_pause_seconds: float = 5.0
    most_pause_seconds: float = 300.0
    notice_seconds: float = 2.5


class HealthObserver(Protocol):
    """Counts what happens."""

    def probed(self, model: str, outcome: str, seconds: float) -> None:
        """``outcome``: right, wrong, error, busy, timeout."""

    def healed(self, model: str, reason: str) -> None:
        """``reason``: process_died, unhealthy, silent."""


@dataclass(frozen=True, slots=True)
class _Silence:
    """A model that did not answer a golden sample: since when, and what it had answered to others by then."""

    since: float
    progress: float


@dataclass(frozen=True, slots=True)
class _Retry:
    """When a model that could not be healed is tried again."""

    at: float
    pause_seconds: float
    reason: str
    why: str


class HealthWatch:
    """Looks at one server.

    Attributes:
        problems: by model, what is wrong with it; empty where its last answers were right.
        out: models whose process is gone or hangs, while they are healed and where that did not help, with the reason.
        failing: models that answered an error to their last golden sample. All others are well, or busy, or answer
            wrongly.
        heals: how often a model was loaded again because its process was gone or hung.
        last_heal: why the last time.
    """

    def __init__(
        self,
        client: OperatorClient,
        repository: ModelRepository,
        policy: HealthPolicy,
        find_dead_stubs: Callable[[], Sequence[Stub]],
        *,
        observer: HealthObserver,
        generated: Callable[[Collection[str]], float],
        out_changed: Callable[[], bool],
        only_canaries_call: Callable[[str, Collection[int]], bool],
    ) -> None:
        """
        Args:
            find_dead_stubs: those that have died since the last call, where the server's processes can be seen.
            generated: what language models have computed so far.
            out_changed: called when a model is out and about to be healed; whether that makes the replica not ready.
            only_canaries_call: tells of versions of a model whether no caller needs them.
        """
        self.problems: dict[str, tuple[str, ...]] = {}
        self.out: dict[str, str] = {}
        self.failing: dict[str, str] = {}
        self.heals = 0
        self.last_heal = ""
        self._client = client
        self._repository = repository
        self._samples = ProbeSamples()
        self._turns: list[Iterator[str]] = []
        self._silent: dict[str, _Silence] = {}
        self._find_dead_stubs = find_dead_stubs
        self._policy = policy
        self._observer = observer
        self._generated = generated
        self._out_changed = out_changed
        self._only_canaries_call = only_canaries_call
        self._healer = Healer(client, repository, policy.load_deadline_seconds, policy.notice_seconds)
        self._due: dict[str, _Retry] = {}

    def use_samples(self, samples: ProbeSamples) -> None:
        """From now on watch these models; those that are new are asked all their golden samples at once.

        Raises:
            UnreachableError: the server has ended.
            DeadlineError: the server does not answer any more.
        """
        self._samples = samples
        gone = {*self.problems, *self.out, *self.failing, *self._silent, *self._due} - samples.loaded
        for model in gone:
            self.problems.pop(model, None)
            self.failing.pop(model, None)
            self._silent.pop(model, None)
            if model not in samples.missing:
                self.out.pop(model, None)
                self._due.pop(model, None)
        for model in sorted(set(samples.of) - set(self.problems)):
            self._prove(model)
        self.problems |= {model: (sentence,) for model, sentence in samples.broken.items()}
        routes, others = ([m for m in samples.of if (m in samples.routes) is wanted] for wanted in (True, False))
        self._turns = [itertools.cycle(sorted(turn)) for turn in (routes, others) if turn]

    def check(self) -> None:
        """Look once: at the server's stubs, and at the answers of the models whose turn it is.

        A model whose process is gone or hangs is loaded again here; where that does not help it stays out, and is tried
        again later.

        Raises:
            UnreachableError: the server has ended.
            DeadlineError: the server does not answer any more.
        """
        self._heal_dead(self._find_dead_stubs())
        for model, retry in list(self._due.items()):
            if time.monotonic() >= retry.at:
                self._heal(model, retry.reason, retry.why)
        for model in dict.fromkeys([*(next(turn) for turn in self._turns), *self._silent]):
            # Its answer would be about those.
            if not self._samples.calls(model) & {*self.out, *self._silent}:
                self._probe(model)

    def _heal_dead(self, stubs: Sequence[Stub]) -> None:
        for model in sorted({stub.model for stub in stubs}):
            quiet = self._only_canaries_call(model, {stub.version for stub in stubs if stub.model == model})
            self._heal(model, "process_died", f"a process of model {model} died", quiet=quiet)

    def _probe(self, model: str) -> None:
        sample = self._samples.of[model][0]
        started = time.monotonic()
        outcome, problems = self._replay(model, sample, self._policy.probe_deadline_seconds)
        if outcome == "timeout":
            self._unanswered(model, started)
            return
        self._silent.pop(model, None)
        if outcome == "busy":
            return
        self.problems[model] = problems
        if outcome != "error":
            self.out.pop(model, None)
            self.failing.pop(model, None)
            self._due.pop(model, None)
        elif unhealthy := _UNHEALTHY.search(problems[0]):
            self._heal(self._known(unhealthy["model"]) or model, "unhealthy", problems[0])
        else:
            self.failing[model] = problems[0]

    def _prove(self, model: str) -> str:
        """Ask every sample of a model; why it does not answer, or empty where it does, be it wrongly."""
        asked = [self._replay(model, sample, self._policy.proof_deadline_seconds) for sample in self._samples.of[model]]
        self.problems[model] = tuple(problem for _, problems in asked for problem in problems)
        self.failing.pop(model, None)
        if failed := [problems[0] for outcome, problems in asked if outcome == "error"]:
            self.failing[model] = failed[0]
        return next((problems[0] for outcome, problems in asked if outcome in ("error", "timeout")), "")

    def _replay(self, model: str, sample: GoldenSample, deadline_seconds: float) -> tuple[str, tuple[str, ...]]:
        """What came of one golden sample, as ``HealthObserver`` calls it, and what is wrong with the answer."""
        started = time.monotonic()
        problems: tuple[str, ...]
        try:
            answer = self._client.infer(model, sample.inputs, deadline_seconds, sample.parameters)
        except UnreachableError:
            raise
        except ClientError as error:
            kinds = ((DeadlineError, "timeout"), (UnavailableError, "busy"))
            outcome = next((name for kind, name in kinds if isinstance(error, kind)), "error")
            problems = (f"{sample.case}: {error}",)
            if outcome == "timeout":
                # From a server that is frozen nothing more is to be learned.
                self._client.server_version(self._policy.live_deadline_seconds)
        else:
            problems = tuple(sample.differences(answer.outputs))
            outcome = "wrong" if problems else "right"
        self._observer.probed(model, outcome, time.monotonic() - started)
        return outcome, problems

    def _unanswered(self, model: str, asked_at: float) -> None:
        """Tell a model that hangs from one that is busy: that one makes progress, with the requests of others."""
        policy, streams = self._policy, self._client.is_decoupled(model, self._policy.live_deadline_seconds)
        progress, before = self._progress(model, streams), self._silent.get(model)
        if before is None or progress != before.progress:
            self._silent[model] = _Silence(asked_at if before is None else time.monotonic(), progress)
            return
        silent_seconds = time.monotonic() - before.since
        if silent_seconds < (policy.silent_stream_seconds if streams else policy.silent_seconds):
            return
        del self._silent[model]
        if stopped := self._end_stopped_stubs():
            self._heal_dead(stopped)
            return
        # Of an ensemble one of its steps hangs; those that have golden samples have a turn of their own.
        hanging = self._samples.steps.get(model, {model}) - set(self._samples.of) or {model}
        for name in sorted(hanging - set(self._samples.steps)):
            self._heal(name, "silent", f"model {model} answered nothing for {silent_seconds:.0f} s")

    def _progress(self, model: str, streams: bool) -> float:
        if streams:
            # Triton counts a stream as answered when the model has taken it.
            return self._generated({model, *self._samples.steps.get(model, ())})
        try:
            return sum(count.succeeded for count in self._client.statistics(self._policy.live_deadline_seconds, model))
        except ClientError:
            return 0

    def _end_stopped_stubs(self) -> Sequence[Stub]:
        """A model that is silent may only be waiting for a stub that is stopped: that one's model is to be healed."""
        for _ in range(_CHECKS_UNTIL_ENDED):
            if dead := self._find_dead_stubs():
                return dead
            time.sleep(_CHECK_SECONDS)
        return ()

    def _known(self, model: str) -> str | None:
        with contextlib.suppress(NotFoundError):
            return self._repository.model(model).name
        return None

    def _heal(self, model: str, reason: str, why: str, *, quiet: bool = False) -> None:
        """Load a model again. ``quiet``: no caller needs what failed, so the model is not out for it."""
        due = self._due.pop(model, None)
        if due and time.monotonic() < due.at:
            self._due[model] = due
            return
        if not quiet:
            self.out[model] = why
        _LOG.warning("%s; loading the model again", why, extra={"model": model})
        turned_unready = self._out_changed()
        failure = self._healer.load_again(model, gives_notice=turned_unready)
        if not failure:
            self.out.pop(model, None)
            self.problems[model] = ()
            failure = self._prove(model) if model in self._samples.of else ""
        if not failure:
            self.heals += 1
            self.last_heal = why
            self._observer.healed(model, reason)
            _LOG.info("model %s answers again", model, extra={"model": model})
            return
        sentence = f"{why}, and loading it again did not help: {failure}"
        _LOG.error("%s", sentence, extra={"model": model})
        self.problems[model] = (sentence,)
        if not quiet:
            self.out[model] = sentence
            pause = (
                min(2 * due.pause_seconds, self._policy.most_pause_seconds) if due else self._policy.first_pause_seconds
            )
            self._due[model] = _Retry(time.monotonic() + pause, pause, reason, why)
