"""A command killed at any journal entry is finished or undone by the next command."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from trireme.errors import ConfigError, TriremeError
from trireme.release import callers
from trireme.release.callers import CallersError
from trireme.release.engine import Plan, ReleaseEngine
from trireme.release.journal import Journal, Outcome, PlannedRelease
from trireme.release.plans import plan_canary, plan_promote, plan_prune, plan_publish, plan_rollback, plan_shift
from trireme.release.step import Reconfigure, World, from_json, to_json
from trireme.release.workspace import RepositoryLockedError, release_lock

from tests.deadlines import scaled
from tests.unit.trireme.release.world import FileServer, carry_out, make_engine, make_source, make_world, tree

_FORK = multiprocessing.get_context("fork")
_KILLED = 9
_VERBS = ("publish", "canary", "shift", "promote", "rollback", "rollback --to", "prune")
_PLAIN_VERBS = ("publish plain, its first", "publish plain", "promote plain", "rollback plain")
PUBLISH = PlannedRelease(verb="publish", subject="m", actor="ada", note="", steps=(), commit_index=0)


class _DyingJournal(Journal):
    """Ends its process like kill -9 at entry number ``fatal``: before or after the entry is written."""

    def __init__(self, path: Path, fatal: int, *, written: bool) -> None:
        super().__init__(path)
        self._remaining, self._written = fatal, written

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self._remaining == 0 and not self._written:
            os._exit(_KILLED)
        super()._append(entry)
        if self._remaining == 0:
            os._exit(_KILLED)
        self._remaining -= 1


def _prepare(world: World, engine: ReleaseEngine, directory: Path, verb: str = "") -> None:
    """Publish and promote version 2 and open a canary of version 3; or set up a command for a plain model."""
    repository, source = world.repository, make_source(directory)
    if "plain" in verb:
        if "first" in verb:
            shutil.rmtree(world.folder("plain").version_dir(1))
        if "publish" not in verb:
            carry_out(engine, plan_publish(repository, "plain", source))
        if "rollback" in verb:
            carry_out(engine, plan_promote(repository, "plain", {"plain": 2}))
        return
    for _ in range(2):
        carry_out(engine, plan_publish(repository, "worker", source))
    carry_out(engine, plan_promote(repository, "standard", {"worker": 2}))
    carry_out(engine, plan_canary(repository, "standard", {"worker": 3}))
    carry_out(engine, plan_shift(repository, "standard", 5))
    if verb == "prune":
        # After the rollback, version 4 is the newest and 2 and 1 are pinned, so 3 can be pruned.
        carry_out(engine, plan_rollback(repository, engine.journal, "standard", None))
        carry_out(engine, plan_publish(repository, "worker", source))


def _plan(verb: str, world: World, engine: ReleaseEngine, directory: Path) -> Plan:
    repository = world.repository
    if "publish" in verb:
        return plan_publish(repository, "plain" if "plain" in verb else "worker", make_source(directory))
    if verb == "promote plain":
        return plan_promote(repository, "plain", {"plain": 2})
    if verb == "rollback plain":
        return plan_rollback(repository, engine.journal, "plain", None)
    if verb == "canary":
        return plan_canary(repository, "premium", {"worker": 3})
    if verb == "shift":
        return plan_shift(repository, "standard", 25)
    if verb == "promote":
        return plan_promote(repository, "standard", {"worker": 3})
    if verb == "prune":
        return plan_prune(repository, "worker", 1)
    return plan_rollback(repository, engine.journal, "standard", {"worker": 1} if "--to" in verb else None)


# Python 3.12 warns about a fork while other threads run, such as those of gRPC and pytest-xdist.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("written", [False, True], ids=["before the entry", "after the entry"])
@pytest.mark.parametrize("verb", [*_VERBS, *_PLAIN_VERBS])
def test_a_command_killed_at_any_entry_is_finished_or_undone(tmp_path: Path, verb: str, written: bool) -> None:
    directory, prepared = tmp_path / "now", tmp_path / "prepared"
    world = make_world(directory)
    engine = make_engine(world, directory)
    _prepare(world, engine, directory, verb)
    plan = _plan(verb, world, engine, directory)
    before = tree(world.repository.path)
    shutil.copytree(directory, prepared)
    carry_out(engine, plan)
    completed = tree(world.repository.path)

    ends = set()
    for fatal in itertools.count():
        shutil.rmtree(directory)
        shutil.copytree(prepared, directory)
        dying = make_engine(world, directory, _DyingJournal(directory / "journal.jsonl", fatal, written=written))
        child = _FORK.Process(target=carry_out, args=(dying, plan))
        child.start()
        child.join(scaled(30.0))
        if child.exitcode == 0:
            break
        assert child.exitcode == _KILLED

        engine = make_engine(world, directory)
        recovered = engine.recover()
        after = tree(world.repository.path)
        assert engine.recover() == [], "a second recover found an interrupted release"
        assert tree(world.repository.path) == after
        if recovered:
            outcome = engine.journal.releases()[-1].outcome
            ends.add(outcome)
            assert after == (before if outcome is Outcome.UNDONE else completed)
        assert engine.journal.unfinished() == []
    assert fatal == len(plan.steps) + 2, "killed at begin, every step and end"
    # A publication or a new canary is undone until its last step is journaled; a move of traffic is finished.
    assert ends == ({Outcome.UNDONE} if plan.commit_index else {Outcome.DONE, Outcome.UNDONE})


def test_a_step_that_fails_before_the_commit_is_undone_with_its_reason(tmp_path: Path) -> None:
    def reject(*_: object) -> None:
        raise TriremeError("golden sample failed")

    world = make_world(tmp_path)
    before = tree(world.repository.path)
    rejecting = World(world.repository, (), reject)
    engine = make_engine(rejecting, tmp_path)
    with pytest.raises(TriremeError, match="golden sample failed"):
        carry_out(engine, plan_publish(world.repository, "worker", make_source(tmp_path)))
    assert tree(world.repository.path) == before
    (release,) = engine.journal.releases()
    assert (release.outcome, release.reason) == (Outcome.UNDONE, "golden sample failed")


def test_every_step_round_trips_through_the_journal(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    engine = make_engine(world, tmp_path)
    _prepare(world, engine, tmp_path)
    _prepare(world, engine, tmp_path, "publish plain, its first")
    carry_out(engine, plan_rollback(world.repository, engine.journal, "standard", {"worker": 1}))
    carry_out(engine, plan_publish(world.repository, "plain", make_source(tmp_path)))
    steps = [from_json(form) for release in engine.journal.releases() for form in release.steps]
    assert len({type(step) for step in steps}) == 8
    for step in steps:
        assert from_json(to_json(step)) == step


def _served_world(directory: Path) -> tuple[World, FileServer]:
    made = make_world(directory)
    server = FileServer(made.repository)
    return World(made.repository, (server,), made.preflight), server


def test_a_release_reports_what_callers_get_and_the_journal_records_it(tmp_path: Path) -> None:
    world, _ = _served_world(tmp_path)
    lines: list[str] = []
    engine = ReleaseEngine(Journal(tmp_path / "journal.jsonl"), world, lines.append)
    carry_out(engine, plan_publish(world.repository, "worker", make_source(tmp_path)))
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    summary = "callers of standard get worker version 2, verified on 1 of 1 servers"
    assert lines[-1] == engine.journal.releases()[-1].reason == summary
    assert "moves callers of standard: worker version 1 -> version 2" in "\n".join(lines)


def test_a_rollback_that_moves_no_caller_on_the_servers_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "_LOOK_DEADLINE_SECONDS", 0.0)
    world, server = _served_world(tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_publish(world.repository, "worker", make_source(tmp_path)))
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    server.is_stuck = True
    rollback = plan_rollback(world.repository, engine.journal, "standard", None)
    with pytest.raises(CallersError, match="callers of standard get worker version 2, not worker version 1"):
        carry_out(engine, rollback)
    assert engine.journal.releases()[-1].outcome is Outcome.FAILED
    assert engine.recover() == [], "a failed release has ended"


def test_an_interrupted_rollback_is_verified_when_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "_LOOK_DEADLINE_SECONDS", 0.0)
    world, server = _served_world(tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_publish(world.repository, "worker", make_source(tmp_path)))
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    rollback = plan_rollback(world.repository, engine.journal, "standard", None)
    # Begin, the step, and no end.
    dying = make_engine(world, tmp_path, _DyingJournal(tmp_path / "journal.jsonl", 1, written=True))
    child = _FORK.Process(target=carry_out, args=(dying, rollback))
    child.start()
    child.join(scaled(30.0))
    server.is_stuck = True
    (recovered,) = engine.recover()
    assert (recovered.verb, recovered.outcome) == ("rollback", Outcome.FAILED)
    assert "callers of standard get worker version 2" in recovered.reason


def test_a_publication_that_servers_do_not_load_is_undone(tmp_path: Path) -> None:
    world, server = _served_world(tmp_path)
    before = tree(world.repository.path)
    server.is_stuck = True
    engine = make_engine(world, tmp_path)
    with pytest.raises(TriremeError, match="worker version 2 is not ready after its load"):
        carry_out(engine, plan_publish(world.repository, "worker", make_source(tmp_path)))
    assert tree(world.repository.path) == before


def test_the_first_version_loads_waiting_ensembles_and_its_undo_unloads_them(tmp_path: Path) -> None:
    world, server = _served_world(tmp_path)
    for model in ("follower", "plain"):
        server.unload(model, 0.0)
    shutil.rmtree(world.folder("plain").version_dir(1))
    engine = make_engine(world, tmp_path)
    plan = plan_publish(world.repository, "plain", make_source(tmp_path))
    carry_out(engine, plan)
    assert server.serving.versions_for("follower") == {"plain": 1}
    for step in reversed(plan.steps):
        step.undo(world)
    assert not {"plain", "follower"} & set(server.serving.loaded)


def test_the_journal_drops_a_torn_last_line_and_continues(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    first = journal.begin(PUBLISH)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"release": "x", "entry": "st')
    assert [release.identity for release in journal.unfinished()] == [first]
    journal.end(first, Outcome.DONE)
    assert journal.unfinished() == []


def test_a_broken_line_in_the_middle_of_the_journal_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).begin(PUBLISH)
    path.write_text("no json\n" + path.read_text())
    with pytest.raises(ConfigError, match=r"journal\.jsonl:1:\d+: not JSON"):
        Journal(path).releases()


def _hold(path: Path, held: Any, end: Any) -> None:
    with release_lock(path, "publish"):
        held.set()
        end.wait(scaled(30.0))


def test_the_lock_admits_one_writer_and_is_released_by_its_death(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held, end = _FORK.Event(), _FORK.Event()
    owner = _FORK.Process(target=_hold, args=(path, held, end))
    owner.start()
    assert held.wait(scaled(30.0))
    with (
        pytest.raises(RepositoryLockedError, match=rf"'trireme publish' by \S+ \(pid {owner.pid}\)"),
        release_lock(path, "prune"),
    ):
        pass
    owner.kill()
    owner.join(scaled(30.0))
    with release_lock(path, "prune"):
        pass


def test_a_waiting_writer_gets_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held, end = _FORK.Event(), _FORK.Event()
    owner = _FORK.Process(target=_hold, args=(path, held, end))
    owner.start()
    assert held.wait(scaled(30.0))
    end.set()
    with release_lock(path, "canary", wait_seconds=30.0):
        pass
    owner.join(scaled(30.0))


def test_a_step_with_the_former_name_of_waits_is_read() -> None:
    step = Reconfigure("m", "before", "after", (1,), "pin back", waits=True)
    old = {name: value for name, value in to_json(step).items() if name != "waits"}
    assert from_json({**old, "patient": False}) == from_json(to_json(step)) == step
