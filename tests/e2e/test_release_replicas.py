"""Releases on several replicas, some of them unreachable."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psutil
import pytest
from trireme_client import ClientError, OperatorClient

from tests.e2e.release_stack import ReleaseStack
from tests.e2e.serving import wait_until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseStack]:
    running = ReleaseStack(tmp_path_factory.mktemp("releases"))
    running.options = ["--replicas=2"]
    with running:
        yield running


def versions(stack: ReleaseStack) -> dict[str, list[int]]:
    """The ready versions of the worker, by replica."""
    found = {}
    for replica in stack.state()["replicas"]:
        with OperatorClient(replica["grpc_address"], stack.admin_key()) as client:
            try:
                index = client.index(10.0)
            except ClientError:
                index = []
            found[replica["name"]] = sorted(
                int(entry.version) for entry in index if entry.model == "echo_worker" and entry.state == "READY"
            )
    return found


def all_serve(stack: ReleaseStack) -> bool:
    return all(replica["phase"] == "serving" for replica in stack.state()["replicas"])


def test_a_version_is_published_on_each_replica(stack: ReleaseStack) -> None:
    done = stack.publish("first")
    assert done.returncode == 0, done.stderr
    assert versions(stack) == {"r0": [1, 2], "r1": [1, 2]}


def test_a_canary_is_judged_by_the_counts_of_every_replica(stack: ReleaseStack) -> None:
    done = stack.verb(
        "canary", "echo_standard", "--steps=50", "--window-seconds=1", "--min-requests=100", "--max-p95-ratio=50"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {stack.worker() for _ in range(8)} == {2}


def test_an_unreachable_replica_is_skipped_and_catches_up(stack: ReleaseStack) -> None:
    # A frozen replica is unreachable for the seconds until it is detected and restarted.
    (frozen,) = (replica["server_pid"] for replica in stack.state()["replicas"] if replica["name"] == "r1")
    psutil.Process(frozen).suspend()
    done = stack.publish("second")
    assert done.returncode == 0, done.stdout + done.stderr
    assert 3 in versions(stack)["r0"]
    wait_until(lambda: all_serve(stack) and not psutil.pid_exists(frozen), "the frozen replica was back")
    found = versions(stack)
    assert found["r1"] == found["r0"]


def test_a_rollback_succeeds_while_a_replica_is_killed(stack: ReleaseStack) -> None:
    (killed,) = (replica["server_pid"] for replica in stack.state()["replicas"] if replica["name"] == "r0")
    psutil.Process(killed).kill()
    done = stack.verb("rollback", "echo_standard")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: all_serve(stack) and not psutil.pid_exists(killed), "the killed replica was back")
    assert {stack.worker() for _ in range(8)} == {1}
    assert json.loads(stack.verb("status", "--json").stdout)["serving"]


def test_a_release_with_every_replica_unreachable_is_carried_out_or_undone(stack: ReleaseStack) -> None:
    before = stack.versions()
    for replica in stack.state()["replicas"]:
        psutil.Process(replica["server_pid"]).suspend()
    done = stack.publish("third")
    wait_until(lambda: all_serve(stack), "both replicas were back")
    recovered = stack.verb("recover")
    assert recovered.returncode == 0, recovered.stderr
    assert done.returncode in (0, 1)
    # Undone, or carried out on replicas that returned in time; never in between.
    assert stack.versions() in (before, [*before, max(before) + 1])
    assert len(set(map(tuple, versions(stack).values()))) == 1
