"""Carries plans out, and finishes or undoes what a killed command left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trireme.errors import TriremeError
from trireme.release.journal import Journal, Outcome, Release
from trireme.release.step import Step, World, from_json, to_json


@dataclass(frozen=True, slots=True)
class Plan:
    """What a verb will do, all of it.

    Attributes:
        verb, subject: as the journal keeps them.
        steps: in order.
        commit_index: a release that was cut off at this step or later is finished; before it, undone. Equal to the
            number of steps where only a whole release counts.
    """

    verb: str
    subject: str
    steps: tuple[Step, ...]
    commit_index: int

    def describe(self) -> str:
        """The plan as ``--dry-run`` prints it."""
        steps = (f"  {number}. {step.describe()}" for number, step in enumerate(self.steps, start=1))
        return "\n".join([f"{self.verb} {self.subject}:", *steps])


@dataclass(frozen=True, slots=True)
class Engine:
    """Does plans. The caller holds the release lock.

    Example:
        >>> with release_lock(lock_path, "publish"):
        ...     engine.recover()
        ...     engine.carry_out(plan, actor="ada", note="better negatives")
    """

    journal: Journal
    world: World
    progress: Callable[[str], None]

    def carry_out(self, plan: Plan, *, actor: str, note: str) -> str:
        """Do every step, each journaled before it is done; gives the release's identity.

        Raises:
            TriremeError: a step failed. The steps before it are undone, unless the plan was past its commit index:
                then it stays open, and ``recover`` finishes it.
        """
        identity = self.journal.begin(
            plan.verb, plan.subject, [to_json(step) for step in plan.steps],
            commit_index=plan.commit_index, actor=actor, note=note,
        )  # fmt: skip
        self._go_on(identity, plan.steps, 0, plan.commit_index)
        return identity

    def recover(self) -> list[Release]:
        """Finish or undo every release that was cut off; gives them. Nothing is left to do for a second call.

        Raises:
            TriremeError: a release can be neither finished nor undone now.
        """
        cut_off = self.journal.unfinished()
        for release in cut_off:
            steps = [from_json(form) for form in release.steps]
            if release.reached >= release.commit_index:
                self.progress(f"finishing {release.verb} of {release.subject}, cut off at step {release.reached + 1}")
                self._go_on(release.identity, steps, release.reached, release.commit_index)
            else:
                self.progress(f"undoing {release.verb} of {release.subject}, cut off at step {release.reached + 1}")
                self._undo(release.identity, steps[: release.reached + 1], "it was cut off")
        return cut_off

    def _go_on(self, identity: str, steps: Sequence[Step], first: int, commit_index: int) -> None:
        for index in range(first, len(steps)):
            self.journal.step(identity, index)
            self.progress(steps[index].describe())
            try:
                steps[index].do(self.world)
            except (TriremeError, OSError) as error:
                if index < commit_index:
                    self._undo(identity, steps[: index + 1], str(error))
                raise
        self.journal.end(identity, Outcome.DONE)

    def _undo(self, identity: str, steps: Sequence[Step], reason: str) -> None:
        for step in reversed(steps):
            step.undo(self.world)
        self.journal.end(identity, Outcome.UNDONE, reason)
