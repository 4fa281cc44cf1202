"""A canary: a new version beside the stable one that gets a growing share of its traffic while it is as good.

The controller holds the release lock only during changes, so `trireme rollback` can abort a canary at any time, even
if its controller is dead. While it runs it also holds the canary's lock, by which other commands detect it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trireme_backends.routing.route import CANARY_SUFFIX
from trireme_client import OperatorClient

from trireme.errors import TriremeError
from trireme.release.plans import (
    canary_folder,
    plan_canary,
    plan_promote,
    plan_rollback,
    plan_shift,
    read_traffic,
    routes_to,
)
from trireme.release.shadow import Counts, GenerationCounts, RequestCounts, Shadow, comparison_requests
from trireme.release.statistics import CanaryLimits, CanaryVerdict, Judgement, judge
from trireme.release.workspace import Workspace, canary_lock_path, open_workspace, release_lock, replica_clients
from trireme.repository.folders import ModelRepository
from trireme.repository.model_config import load_model_config
from trireme.serving.run_state import RunDirectory, ServingState
from trireme.settings import Settings

_REQUEST_DEADLINE_SECONDS = 30.0
# Longer than the preflight of a concurrent publish.
_LOCK_WAIT_SECONDS = 180.0


class CanaryRejectedError(TriremeError):
    """A canary was not as good as its variant and was reverted."""


class CanaryEndedError(TriremeError):
    """Another command ended the canary."""

    def __init__(self, variant: str) -> None:
        super().__init__(f"the canary of {variant} was ended by another command; see: trireme history {variant}")


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """The steps of a canary and the evidence that each needs.

    Attributes:
        percents: shares of the route's requests to the variant, ascending.
        min_seconds: minimum duration of a step.
        min_pairs: requests sent to both versions before a step is judged.
        max_pairs: a step that is still undecided after this many is rejected as inconclusive.
    """

    percents: Sequence[float] = (1, 5, 25, 50, 100)
    min_seconds: float = 5.0
    min_pairs: int = 300
    max_pairs: int = 1500
    limits: CanaryLimits = field(default_factory=CanaryLimits)


class Canary:
    """The controller of one canary.

    Example:
        >>> pins = {"embedding_economy_encoder": 2}
        >>> Canary(settings, "embedding_economy", pins, CanaryPolicy(), print).run("ada", "better negatives")
    """

    def __init__(
        self,
        settings: Settings,
        variant: str,
        pins: Mapping[str, int],
        policy: CanaryPolicy,
        progress: Callable[[str], None],
        texts: Sequence[str] = (),
    ) -> None:
        """``texts`` are sent to both versions; without them, texts are composed of words of the golden samples."""
        self._settings = settings
        self._variant = variant
        self._pins = pins
        self._policy = policy
        self._progress = progress
        self._repository = ModelRepository(settings.repository_dir)
        self._requests = comparison_requests(self._repository, variant, texts)
        self._routes = routes_to(self._repository, variant)
        self._percent = 0.0

    def run(self, actor: str | None, note: str) -> str:
        """Shift the traffic step by step, promote, and return the summary of the last step.

        Raises:
            CanaryRejectedError: the canary was worse or inconclusive; it is reverted.
            CanaryEndedError: another command aborted or promoted it.
            RepositoryLockedError: the variant has a canary with a running controller.
            ServerError: nothing is being served.
        """
        directory = RunDirectory(self._settings.run_dir)
        with (
            release_lock(canary_lock_path(self._settings, self._variant), f"canary {self._variant}"),
            OperatorClient(directory.running().grpc_address) as client,
            contextlib.ExitStack() as stack,
        ):
            counts = self._counts(directory.running(), stack)
            with self._lock() as workspace:
                plan = plan_canary(self._repository, self._variant, self._pins)
                workspace.carry_out(plan, actor=actor, note=note or "opened")
            try:
                judgement = Judgement(CanaryVerdict.PASS, "opened")
                for percent in self._policy.percents:
                    self._shift(percent, actor, judgement.summary)
                    judgement = self._judge(client, counts)
                    if judgement.verdict is not CanaryVerdict.PASS:
                        self._reject(actor, judgement)
                with self._lock_while_open() as workspace:
                    plan = plan_promote(self._repository, self._variant, self._pins)
                    workspace.carry_out(plan, actor=actor, note=f"canary passed: {judgement.summary}")
            except (CanaryRejectedError, CanaryEndedError):
                raise
            except BaseException as error:
                # Ctrl-C or a lost server: the canary would be unattended from here on.
                self._close(actor, f"canary aborted: {error or type(error).__name__}")
                raise
        return judgement.summary

    def _shift(self, percent: float, actor: str | None, summary: str) -> None:
        with self._lock_while_open() as workspace:
            plan = plan_shift(self._repository, self._variant, percent)
            workspace.carry_out(plan, actor=actor, note=f"{percent:g} % after: {summary}")
        self._percent = percent

    def _counts(self, state: ServingState, stack: contextlib.ExitStack) -> Counts:
        if load_model_config(self._repository.model(self._variant).config_path).is_decoupled:
            addresses = [replica.metrics_address for replica in state.replicas]
            return GenerationCounts(addresses, self._repository, _REQUEST_DEADLINE_SECONDS)
        replicas = [stack.enter_context(replica) for replica in replica_clients(self._settings)]
        return RequestCounts(replicas, _REQUEST_DEADLINE_SECONDS)

    def _judge(self, client: OperatorClient, counts: Counts) -> Judgement:
        policy = self._policy
        canary = f"{self._variant}{CANARY_SUFFIX}"
        shadow = Shadow(client, counts, self._variant, canary, self._requests, _REQUEST_DEADLINE_SECONDS)
        earliest_end, sent = time.monotonic() + policy.min_seconds, 0
        while True:
            shadow.compare(policy.min_pairs, each=self._check_open)
            sent += policy.min_pairs
            judgement = judge(shadow.window(), policy.limits)
            self._progress(f"{self._percent:g} %: {judgement.verdict.value}: {judgement.summary}")
            if judgement.verdict is CanaryVerdict.FAIL:
                return judgement
            if judgement.verdict is CanaryVerdict.PASS and time.monotonic() >= earliest_end:
                return judgement
            if judgement.verdict is CanaryVerdict.UNDECIDED and sent >= policy.max_pairs:
                return Judgement(CanaryVerdict.UNDECIDED, f"inconclusive after {sent} requests: {judgement.summary}")

    def _reject(self, actor: str | None, judgement: Judgement) -> None:
        summary = f"canary rejected at {self._percent:g} %: {judgement.summary}"
        self._close(actor, summary)
        raise CanaryRejectedError(f"{self._variant}: {summary}; all traffic goes to the stable version again")

    def _close(self, actor: str | None, note: str) -> None:
        with self._lock() as workspace:
            # If another command has closed it, a rollback would revert the last promotion.
            if self._is_open():
                plan = plan_rollback(self._repository, workspace.journal, self._variant, None)
                workspace.carry_out(plan, actor=actor, note=note)

    def _check_open(self) -> None:
        """Raise CanaryEndedError if another command has changed the traffic or removed the canary."""
        shares = [read_traffic(route).canary_percent.get(self._variant, 0.0) for route in self._routes]
        if not self._is_open() or any(share != self._percent for share in shares):
            raise CanaryEndedError(self._variant)

    def _is_open(self) -> bool:
        return canary_folder(self._repository, self._variant).config_path.is_file()

    @contextlib.contextmanager
    def _lock(self) -> Iterator[Workspace]:
        """Hold the release lock, waiting while another command holds it."""
        with open_workspace(
            self._settings, f"canary {self._variant}", self._progress, wait_seconds=_LOCK_WAIT_SECONDS
        ) as workspace:
            yield workspace

    @contextlib.contextmanager
    def _lock_while_open(self) -> Iterator[Workspace]:
        """Hold the release lock, with the canary unchanged by other commands."""
        with self._lock() as workspace:
            self._check_open()
            yield workspace
