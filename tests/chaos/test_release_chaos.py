"""Releases with faults: kills at every step, dead servers, full disks. Callers must not notice any of them."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from trireme.processes.shared_memory import SHM_DIR

from tests.chaos.platform_stack import PlatformStack
from tests.deadlines import scaled
from tests.e2e.release_stack import ReleaseStack, WorkerCallers, kill_when
from tests.e2e.serving import wait_until

_KILLED = 9
CYCLES = int(os.environ.get("TRIREME_RELEASE_CYCLES", "20"))
# Runs a verb and dies like with kill -9 before or after it writes an entry of the journal. The check of a version is
# skipped, because it takes seconds and changes nothing.
_DYING_VERB = f"""
import os, sys
from trireme.cli import main
from trireme.release.journal import Journal
from trireme.release.preflight import Preflight

left, when, append = int(sys.argv[1]), sys.argv[2], Journal._append

def dying_append(journal, entry):
    global left
    if left == 0 and when == "before":
        os._exit({_KILLED})
    append(journal, entry)
    if left == 0:
        os._exit({_KILLED})
    left -= 1

Journal._append = dying_append
Preflight.check = lambda *_: None
sys.exit(main(sys.argv[3:]))
"""
# For a canary of one second, with limits that are decidable with few requests.
_CANARY = ("--steps=50", "--min-requests=120", "--window-seconds=0", "--max-error-excess=0.1", "--max-p95-ratio=20")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ReleaseStack]:
    """A new stack with version 1 only and no releases."""
    with ReleaseStack(tmp_path) as running:
        yield running


def _die(stack: ReleaseStack, entry: int, when: str, *verb: str) -> int:
    command = [sys.executable, "-c", _DYING_VERB, str(entry), when, *verb]
    done = subprocess.run(
        command, env=stack.environment(), capture_output=True, text=True, timeout=scaled(90.0), check=False
    )
    assert done.returncode in (0, _KILLED), done.stderr
    return done.returncode


def _run(stack: ReleaseStack, *verb: str) -> str:
    done = stack.verb(*verb)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _recover_twice(stack: ReleaseStack) -> None:
    _run(stack, "recover")
    assert _run(stack, "recover") == "nothing to recover\n"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_publish_killed_at_any_entry_leaves_the_old_version_serving(stack: ReleaseStack, when: str) -> None:
    source = str(stack.source("good"))
    with WorkerCallers(stack) as callers:
        for entry in itertools.count():
            code = _die(stack, entry, when, "publish", "echo_worker", source)
            _recover_twice(stack)
            assert stack.worker() == 1
            assert stack.worker("echo_worker") == stack.versions()[-1]
            if code == 0:
                break
            # The release is complete only after the last entry is written.
            assert stack.versions() == ([1, 2] if (entry, when) == (6, "after") else [1])
    assert entry == 7, "begin, five steps and end"
    assert callers.failures == []
    assert callers.workers_of("echo_standard") == {1}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_promote_rollback_and_prune_killed_at_any_entry_are_undone_or_done(stack: ReleaseStack, when: str) -> None:
    assert stack.publish().returncode == 0
    with WorkerCallers(stack) as callers:
        promote, rollback = ("promote", "echo_standard", "--to=2"), ("rollback", "echo_standard")
        for verb, back, old in ((promote, rollback, 1), (rollback, promote, 2)):
            for entry in itertools.count():
                code = _die(stack, entry, when, *verb)
                assert stack.worker() in (1, 2)
                _recover_twice(stack)
                ended = stack.worker()
                assert ended in (1, 2)
                if code == 0:
                    break
                if ended != old:
                    _run(stack, *back)
            assert entry == 3, "begin, one step and end"
        _run(stack, "promote", "echo_standard", "--to=2")
        for tier in ("economy", "premium"):
            _run(stack, "promote", f"echo_{tier}", "--to=2")
        for entry in itertools.count():
            code = _die(stack, entry, when, "prune", "echo_worker", "--keep=1")
            _recover_twice(stack)
            assert stack.worker() == 2
            assert stack.versions() in ([1, 2], [2])
            if code == 0 or stack.versions() == [2]:
                break
    assert stack.versions() == [2]
    assert callers.failures == []


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_canary_killed_at_any_entry_is_closed_or_promoted(stack: ReleaseStack, when: str) -> None:
    assert stack.publish().returncode == 0
    ends = set()
    with WorkerCallers(stack) as callers:
        for entry in itertools.count():
            code = _die(stack, entry, when, "canary", "echo_standard", *_CANARY)
            assert stack.worker() in (1, 2)
            _recover_twice(stack)
            ends.add(stack.worker())
            assert stack.traffic() is None
            assert not (stack.repository / "echo_standard__canary").exists()
            if stack.worker() == 2:
                _run(stack, "rollback", "echo_standard")
            if code == 0:
                break
    assert entry == 11, "three entries to open, three to shift, five to promote"
    assert ends == {1, 2}
    assert callers.failures == []


@pytest.mark.slow
def test_rollback_only_closes_the_canary_of_a_dead_controller(stack: ReleaseStack) -> None:
    for _ in range(2):
        assert stack.publish("good" if stack.versions() == [1] else "good_too").returncode == 0
    _run(stack, "promote", "echo_standard", "--to=2")
    with WorkerCallers(stack) as callers:
        canary = stack.start_verb("canary", "echo_standard", "--to=3", "--steps=25,100", "--window-seconds=60")
        kill_when(canary, lambda: stack.traffic() is not None)
        _run(stack, "rollback", "echo_standard")
        assert stack.worker() == 2
    assert stack.traffic() is None
    assert callers.failures == []
    assert callers.workers_of("echo_standard") == {2}


def test_rollback_stops_a_canary_with_a_live_controller(platform: PlatformStack) -> None:
    old = platform.worker()
    assert platform.publish("worse").returncode == 0
    with WorkerCallers(platform) as callers:
        canary = platform.start_verb("canary", "echo_standard", "--steps=25,100", "--window-seconds=60")
        wait_until(lambda: platform.traffic() is not None, "the canary has traffic")
        refused = platform.verb("canary", "echo_standard")
        assert refused.returncode == 1
        assert "'trireme canary echo_standard' by" in refused.stderr
        _run(platform, "rollback", "echo_standard")
        output = canary.communicate(timeout=scaled(60.0))[0]
    assert canary.returncode == 1
    assert "the canary of echo_standard was ended by another command" in output
    assert (platform.worker(), platform.traffic()) == (old, None)
    assert callers.failures == []


def test_publish_killed_during_a_load_is_undone(platform: PlatformStack) -> None:
    versions, worker = platform.versions(), platform.worker()
    loading = platform.repository / "echo_worker" / str(versions[-1] + 1)
    with WorkerCallers(platform) as callers:
        publish = platform.start_verb("publish", "echo_worker", str(platform.source("killed", load_seconds=1)))
        kill_when(publish, loading.exists)
        _recover_twice(platform)
        assert (platform.versions(), platform.worker()) == (versions, worker)
        assert platform.worker("echo_worker") == versions[-1]
        assert platform.publish("whole").returncode == 0
    assert callers.failures == []


@pytest.mark.slow
def test_a_server_killed_during_a_load_restarts_with_the_old_version(stack: ReleaseStack) -> None:
    publish = stack.start_verb("publish", "echo_worker", str(stack.source("late", load_seconds=1)))
    wait_until(lambda: (stack.repository / "echo_worker" / "2").exists(), "the load began")
    stack.server().kill()
    output = publish.communicate(timeout=scaled(120.0))[0]
    assert publish.returncode == 1, output
    assert "Traceback" not in output
    wait_until(lambda: stack.state()["phase"] == "serving", "the server serves again")
    assert stack.verb("recover").stdout == "nothing to recover\n"
    assert (stack.versions(), stack.worker()) == ([1], 1)
    assert stack.publish().returncode == 0
    _run(stack, "promote", "echo_standard", "--to=2")
    assert stack.worker() == 2


@pytest.mark.slow
def test_rollback_while_the_server_is_down_persists_after_its_restart(stack: ReleaseStack) -> None:
    assert stack.publish().returncode == 0
    _run(stack, "promote", "echo_standard", "--to=2")
    stack.server().kill()
    _run(stack, "rollback", "echo_standard")
    wait_until(lambda: stack.state()["phase"] == "serving", "the server serves again")
    assert stack.worker() == 1


def test_a_full_disk_while_staging_leaves_nothing(platform: PlatformStack) -> None:
    worker = platform.repository / "echo_worker"
    before = sorted(worker.iterdir())
    source = platform.source("large")
    (source / "weights.bin").write_bytes(bytes(8 * 1024**2))
    (source / "manifest.json").unlink()
    limit = 4 * 1024**2
    with WorkerCallers(platform) as callers:
        done = subprocess.run(
            [sys.executable, "-m", "trireme.cli", "publish", "echo_worker", str(source)],
            env=platform.environment(), capture_output=True, text=True, timeout=scaled(90.0), check=False,
            # Limits the file size, so that writes fail as on a full disk.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )  # fmt: skip
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(worker.iterdir()) == before
    assert platform.verb("recover").stdout == "nothing to recover\n"
    assert callers.failures == []


@pytest.mark.slow
def test_the_second_of_two_concurrent_publishers_must_wait(stack: ReleaseStack) -> None:
    sources = [str(stack.source(name)) for name in ("one", "two")]
    with WorkerCallers(stack) as callers:
        publishers = [stack.start_verb("publish", "echo_worker", source) for source in sources]
        output = [publisher.communicate(timeout=scaled(90.0))[0] for publisher in publishers]
    assert sorted(publisher.returncode for publisher in publishers) == [0, 1], output
    assert any("has been changing the repository for" in text for text in output)
    assert stack.versions() == [1, 2]
    assert callers.failures == []


@pytest.mark.slow
def test_release_cycles_leak_no_memory_processes_or_regions(stack: ReleaseStack) -> None:
    def cycle() -> None:
        # The check of a version runs in a separate server for seconds and leaves nothing in this one.
        assert _die(stack, 10**6, "before", "publish", "echo_worker", source) == 0
        newest = stack.versions()[-1]
        _run(stack, "promote", "echo_standard", f"--to={newest}")
        assert stack.worker() == newest
        _run(stack, "rollback", "echo_standard", "--to=1")
        # The first cycle prunes nothing: one version is pinned, the other is new.
        if len(stack.versions()) > 2:
            _run(stack, "prune", "echo_worker", "--keep=1")
        assert stack.versions() == [1, newest]

    def look() -> tuple[float, int, int]:
        server = stack.server()
        stubs = [child for child in server.children() if child.status() != psutil.STATUS_ZOMBIE]
        assert stack.process is not None
        regions = len(list(SHM_DIR.glob(f"trireme_{stack.process.pid}_*")))
        return server.memory_info().rss / 1024**2, len(stubs), regions

    def footprint() -> tuple[float, int, int]:
        # The stub of a pruned version exits shortly after the command.
        looks = []
        for _ in range(20):
            looks.append(look())
            time.sleep(0.25)
        rss_mib, stubs, regions = zip(*looks, strict=True)
        return min(rss_mib), min(stubs), min(regions)

    source = str(stack.source("good"))
    with WorkerCallers(stack) as callers:
        for _ in range(4):
            cycle()
        rss_before, *before = footprint()
        for _ in range(CYCLES):
            cycle()
        rss_after, *after = footprint()
    assert after == before
    # A leaked version would keep its stub; the server itself may grow while its caches fill.
    assert rss_after - rss_before < 20, f"{rss_before:.0f} to {rss_after:.0f} MiB"
    assert callers.failures == []
    assert json.loads(_run(stack, "history", "--json"))[-1]["outcome"] == "done"
