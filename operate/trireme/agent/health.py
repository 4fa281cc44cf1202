"""Checks the models of a running server with real inferences, and heals what Triton does not."""

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

# Stopped stubs are detected by the first check, killed by the second, and reported as dead by the third.
_CHECKS_UNTIL_ENDED = 3
_CHECK_SECONDS = 0.1
# The error of requests to a dead stub; a stub is named <model>_<instance group>_<instance>.
_UNHEALTHY = re.compile(r"Stub process '(?P<model>.+?)(?:_\d+_\d+)?' is not healthy")


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """Deadlines and backoffs.

    Attributes:
        probe_deadline_seconds: for the response to one golden sample.
        silent_seconds: a model that responds to no request for this long hangs.
        silent_stream_seconds: the same for a decoupled model; engines pause during the prefill of other long prompts.
        proof_deadline_seconds: for each golden sample of a model that was just loaded.
        load_deadline_seconds: for models to load.
        live_deadline_seconds: for the liveness of the server, when a model did not respond.
        first_backoff_seconds, max_backoff_seconds: between attempts to heal a model; doubles with each failure.
        notice_seconds: time for a load balancer to detect that the replica is not ready.
    """

    probe_deadline_seconds: float = 5.0
    silent_seconds: float = 10.0
    silent_stream_seconds: float = 60.0
    proof_deadline_seconds: float = 30.0
    load_deadline_seconds: float = 180.0
    live_deadline_seconds: float = 2.0
    first_backoff_seconds: float = 5.0
    max_backoff_seconds: float = 300.0
    notice_seconds: float = 2.5


class HealthObserver(Protocol):
    """Counts probes and heals."""

    def probed(self, model: str, outcome: str, seconds: float) -> None:
        """``outcome``: right, wrong, error, busy, timeout."""

    def healed(self, model: str, reason: str) -> None:
        """``reason``: process_died, unhealthy, silent."""


@dataclass(frozen=True, slots=True)
class _Silence:
    """A model that did not respond to a golden sample: since when, and its progress with other requests by then."""

    since: float
    progress: float


@dataclass(frozen=True, slots=True)
class _Retry:
    """The next attempt to heal a model."""

    at: float
    backoff_seconds: float
    reason: str
    why: str


class HealthWatch:
    """Health checks of one server.

    Attributes:
        problems: by model; empty if its last responses were correct.
        out: models out of service because their process died or hangs, until they are healed; with the reason.
        failing: models that responded with an error to their last golden sample, with the error. All others are
            healthy, busy, or respond incorrectly.
        heals: how often a model was reloaded because its process died or hung.
        last_heal: the reason for the last heal.
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
            find_dead_stubs: returns stubs that died since the last call; empty if the processes are not visible.
            generated: returns the progress of language models so far.
            out_changed: called before a model is healed; returns whether the replica became not ready.
            only_canaries_call: returns whether versions of a model are used by canaries only.
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
        """Set the models to check, and send new models all their golden samples.

        Raises:
            UnreachableError: the server exited.
            DeadlineError: the server no longer responds.
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
        """Check the server's stubs, and one golden sample of each model whose turn it is.

        A model whose process died or hangs is reloaded; if that fails, it stays out of service and is retried later.

        Raises:
            UnreachableError: the server exited.
            DeadlineError: the server no longer responds.
        """
        self._heal_dead(self._find_dead_stubs())
        for model, retry in list(self._due.items()):
            if time.monotonic() >= retry.at:
                self._heal(model, retry.reason, retry.why)
        for model in dict.fromkeys([*(next(turn) for turn in self._turns), *self._silent]):
            # Otherwise the response would depend on a model that is known to be broken.
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
            self._on_timeout(model, started)
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
        """Replay all samples of a model; return the first error or timeout, or "". Wrong responses do not count."""
        deadline_seconds = self._policy.proof_deadline_seconds
        results = [self._replay(model, sample, deadline_seconds) for sample in self._samples.of[model]]
        self.problems[model] = tuple(problem for _, problems in results for problem in problems)
        self.failing.pop(model, None)
        if failed := [problems[0] for outcome, problems in results if outcome == "error"]:
            self.failing[model] = failed[0]
        return next((problems[0] for outcome, problems in results if outcome in ("error", "timeout")), "")

    def _replay(self, model: str, sample: GoldenSample, deadline_seconds: float) -> tuple[str, tuple[str, ...]]:
        """Send a golden sample; return its outcome, see ``HealthObserver.probed``, and the problems."""
        started = time.monotonic()
        problems: tuple[str, ...]
        try:
            response = self._client.infer(model, sample.inputs, deadline_seconds, sample.parameters)
        except UnreachableError:
            raise
        except ClientError as error:
            kinds = ((DeadlineError, "timeout"), (UnavailableError, "busy"))
            outcome = next((name for kind, name in kinds if isinstance(error, kind)), "error")
            problems = (f"{sample.case}: {error}",)
            if outcome == "timeout":
                # Raises if the whole server is frozen.
                self._client.server_version(self._policy.live_deadline_seconds)
        else:
            problems = tuple(sample.differences(response.outputs))
            outcome = "wrong" if problems else "right"
        self._observer.probed(model, outcome, time.monotonic() - started)
        return outcome, problems

    def _on_timeout(self, model: str, sent_at: float) -> None:
        """Distinguish a model that hangs from a busy one, which makes progress with other requests."""
        policy, streams = self._policy, self._client.is_decoupled(model, self._policy.live_deadline_seconds)
        progress, before = self._progress(model, streams), self._silent.get(model)
        if before is None or progress != before.progress:
            self._silent[model] = _Silence(sent_at if before is None else time.monotonic(), progress)
            return
        silent_seconds = time.monotonic() - before.since
        if silent_seconds < (policy.silent_stream_seconds if streams else policy.silent_seconds):
            return
        del self._silent[model]
        if stopped := self._end_stopped_stubs():
            self._heal_dead(stopped)
            return
        # If an ensemble hangs, one of its steps does; steps with golden samples are checked in their own turn.
        hanging = self._samples.steps.get(model, {model}) - set(self._samples.of) or {model}
        for name in sorted(hanging - set(self._samples.steps)):
            self._heal(name, "silent", f"model {model} did not respond for {silent_seconds:.0f} s")

    def _progress(self, model: str, streams: bool) -> float:
        if streams:
            # Triton counts a stream as successful as soon as the model accepts it.
            return self._generated({model, *self._samples.steps.get(model, ())})
        try:
            return sum(count.succeeded for count in self._client.statistics(self._policy.live_deadline_seconds, model))
        except ClientError:
            return 0

    def _end_stopped_stubs(self) -> Sequence[Stub]:
        """Kill and return stopped stubs: a silent model may only be waiting for one, whose model must be healed."""
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
        """Reload a model. ``quiet``: no caller needs the failed versions, so the model stays in service."""
        due = self._due.pop(model, None)
        if due and time.monotonic() < due.at:
            self._due[model] = due
            return
        if not quiet:
            self.out[model] = why
        _LOG.warning("%s; reloading the model", why, extra={"model": model})
        turned_unready = self._out_changed()
        failure = self._healer.reload(model, gives_notice=turned_unready)
        if not failure:
            self.out.pop(model, None)
            self.problems[model] = ()
            failure = self._prove(model) if model in self._samples.of else ""
        if not failure:
            self.heals += 1
            self.last_heal = why
            self._observer.healed(model, reason)
            _LOG.info("model %s is healthy again", model, extra={"model": model})
            return
        sentence = f"{why}, and reloading it did not help: {failure}"
        _LOG.error("%s", sentence, extra={"model": model})
        self.problems[model] = (sentence,)
        if not quiet:
            self.out[model] = sentence
            policy = self._policy
            backoff = min(2 * due.backoff_seconds, policy.max_backoff_seconds) if due else policy.first_backoff_seconds
            self._due[model] = _Retry(time.monotonic() + backoff, backoff, reason, why)
