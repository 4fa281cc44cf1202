"""Runs plans, and finishes or undoes those of killed commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trireme_client import ClientError

from trireme.errors import TriremeError
from trireme.release.callers import CallersError, Move, ServedVersions, verify_callers
from trireme.release.journal import Journal, Outcome, PlannedRelease, Release
from trireme.release.step import Step, World, from_json, to_json


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a command will do.

    Attributes:
        verb, subject: as in the journal.
        steps: in order.
        commit_index: a release interrupted at this step or later is finished; before it, undone. Equal to the number
            of steps if only a complete release counts.
        moves: callers that get another version.
        expected: the versions that callers get afterwards, by the model they call; empty if this is not verified.
        remarks: further facts for the user.
    """

    verb: str
    subject: str
    steps: tuple[Step, ...]
    commit_index: int
    moves: tuple[Move, ...] = ()
    expected: Mapping[str, ServedVersions] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def summary(self) -> str:
        """The moves and remarks as text."""
        moved = [f"  moves {move.describe()}" for move in self.moves] or ["  moves no caller to another version"]
        return "\n".join([f"{self.verb} {self.subject}:", *moved, *(f"  {remark}" for remark in self.remarks)])

    def describe(self) -> str:
        """The plan as printed by ``--dry-run``."""
        steps = (f"  {number}. {step.describe()}" for number, step in enumerate(self.steps, start=1))
        return "\n".join([self.summary(), *steps])

    def to_json(self) -> dict[str, Any]:
        """The plan as printed by ``--json``."""
        return {
            "verb": self.verb,
            "subject": self.subject,
            "moves": [asdict(move) for move in self.moves],
            "remarks": list(self.remarks),
            "steps": [step.describe() for step in self.steps],
        }


@dataclass(frozen=True, slots=True)
class ReleaseEngine:
    """Executes plans. The caller holds the release lock.

    Example:
        >>> with release_lock(lock_path, "publish"):
        ...     engine.recover()
        ...     engine.carry_out(plan, actor="ada", note="better negatives")
    """

    journal: Journal
    world: World
    progress: Callable[[str], None]

    def carry_out(self, plan: Plan, *, actor: str, note: str) -> str:
        """Run every step, journaled before it runs, verify the versions that callers get, and return the release's id.

        Raises:
            TriremeError: a step failed. It and the steps before it are undone, unless the plan was past its commit
                index: then the release stays open, and ``recover`` finishes it.
            CallersError: callers do not get the expected versions. The steps are undone if only a complete release
                counts.
        """
        self.progress(plan.summary())
        planned = PlannedRelease(
            verb=plan.verb, subject=plan.subject, actor=actor, note=note,
            steps=tuple(to_json(step) for step in plan.steps), commit_index=plan.commit_index,
            moves=plan.moves, expected=plan.expected, remarks=plan.remarks,
        )  # fmt: skip
        identity = self.journal.begin(planned)
        self._run_from(identity, plan, 0)
        return identity

    def recover(self) -> list[Release]:
        """Finish or undo every interrupted release, and return them as they ended. A second call finds none.

        Raises:
            TriremeError: a release can be neither finished nor undone now.
        """
        interrupted = {release.identity for release in self.journal.unfinished()}
        for release in self.journal.unfinished():
            steps = tuple(from_json(form) for form in release.steps)
            where = f"{release.verb} of {release.subject}, interrupted at step {release.reached + 1}"
            if release.reached >= release.commit_index:
                self.progress(f"finishing {where}")
                plan = Plan(release.verb, release.subject, steps, release.commit_index, expected=release.expected)
                try:
                    self._run_from(release.identity, plan, release.reached)
                except CallersError as error:
                    # The release has ended, and the next command may fix what callers get.
                    self.progress(str(error))
            else:
                self.progress(f"undoing {where}")
                self._undo(release.identity, steps[: release.reached + 1], "interrupted")
        return [release for release in self.journal.releases() if release.identity in interrupted]

    def _run_from(self, identity: str, plan: Plan, first: int) -> None:
        for index in range(first, len(plan.steps)):
            self.journal.step(identity, index)
            self.progress(plan.steps[index].describe())
            try:
                plan.steps[index].do(self.world)
            except (TriremeError, ClientError, OSError) as error:
                if index < plan.commit_index:
                    self._undo(identity, plan.steps[: index + 1], str(error))
                raise
        try:
            verified = verify_callers(self.world.replicas, plan.subject, plan.expected) if plan.expected else ""
        except CallersError as error:
            if plan.commit_index == len(plan.steps):
                self._undo(identity, plan.steps, str(error))
            else:
                self.journal.end(identity, Outcome.FAILED, str(error))
            raise
        if verified:
            self.progress(verified)
        self.journal.end(identity, Outcome.DONE, verified)

    def _undo(self, identity: str, steps: Sequence[Step], reason: str) -> None:
        for step in reversed(steps):
            step.undo(self.world)
        self.journal.end(identity, Outcome.UNDONE, reason)
