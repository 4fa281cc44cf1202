"""Releases on the real server under continuous traffic."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from trireme.errors import ServerError
from trireme.processes.runtime import EmbeddedRuntime
from trireme.release.preflight import Preflight
from trireme.repository.folders import ModelRepository
from trireme.settings import Settings

from tests.e2e.release_stack import ReleaseStack, WorkerCallers, write_version

# Limits that few requests can prove on a busy machine.
_CANARY = ("--steps=5,100", "--min-requests=150", "--window-seconds=1", "--max-error-excess=0.1", "--max-p95-ratio=3")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseStack]:
    made = ReleaseStack(tmp_path_factory.mktemp("release"))
    try:
        made.start()
        yield made
        made.stop()
    finally:
        made.kill()


@pytest.fixture
def callers(stack: ReleaseStack) -> Iterator[WorkerCallers]:
    """They must see no failure, whatever the test does."""
    with WorkerCallers(stack) as callers:
        yield callers
    assert callers.failures == []
    assert {model for _, model, _ in callers.answers} == {"echo", "echo_standard", "echo_worker"}


def _newest(stack: ReleaseStack) -> int:
    return stack.versions()[-1]


def test_dry_run_prints_the_plan_and_changes_nothing(stack: ReleaseStack) -> None:
    before = sorted(stack.repository.rglob("*"))
    done = stack.verb("publish", "echo_worker", str(stack.source("planned")), "--dry-run")
    assert done.returncode == 0
    number = _newest(stack) + 1
    assert f"rename it to echo_worker/{number}" in done.stdout
    assert sorted(stack.repository.rglob("*")) == before


@pytest.mark.usefixtures("callers")
@pytest.mark.parametrize(
    ("name", "behaviour", "message"),
    [
        ("failing", {"load": "fails"}, "scripted failure"),
        ("crashing", {"load": "crashes"}, "is not healthy"),
        ("wrong", {"wrong_above": 1}, "the new version fails its golden samples: hello: output ANSWER"),
    ],
)
def test_a_bad_version_is_rejected_and_the_old_one_serves(
    stack: ReleaseStack, name: str, behaviour: dict[str, str], message: str
) -> None:
    versions = stack.versions()
    done = stack.publish(name, **behaviour)
    assert done.returncode == 1
    assert "echo_worker: the new version" in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (stack.versions(), stack.worker()) == (versions, 1)


@pytest.mark.usefixtures("callers")
def test_a_syntax_error_is_rejected_and_the_next_good_version_loads_without_a_restart(stack: ReleaseStack) -> None:
    source = stack.source("syntax")
    (source / "manifest.json").unlink()
    (source / "model.py").write_text("class TritonPythonModel\n")
    server = stack.server().pid
    done = stack.verb("publish", "echo_worker", str(source))
    assert done.returncode == 1
    assert "SyntaxError" in done.stderr
    assert stack.publish("after_syntax").returncode == 0
    assert stack.worker("echo_worker") == _newest(stack)
    assert stack.server().pid == server


def test_a_load_that_hangs_ends_with_the_temporary_server(stack: ReleaseStack, tmp_path: Path) -> None:
    write_version(tmp_path / "hanging", load="hangs")
    preflight = Preflight(EmbeddedRuntime.find(Settings.from_environment()), stall_seconds=10.0)
    folder = ModelRepository(stack.repository).model("echo_worker")
    with pytest.raises(
        ServerError,
        match=r"echo_worker: the new version does not load .* no progress for 10 s while loading echo_worker",
    ):
        preflight.check(folder, tmp_path / "hanging", 99)


def test_lint_rejects_before_any_server_is_started(stack: ReleaseStack) -> None:
    config = stack.repository / "echo_worker" / "config.pbtxt"
    good = config.read_text()
    warmup = (
        'model_warmup [ { name: "first" batch_size: 1'
        ' inputs { key: "TXT" value { data_type: TYPE_STRING dims: [ 1 ] zero_data: true } } } ]'
    )
    config.write_text(f"{good}{warmup}\n")
    try:
        done = stack.publish("warmed_up")
    finally:
        config.write_text(good)
    assert done.returncode == 1
    assert "lint rejects the new version" in done.stderr
    assert "first" in done.stderr
    assert "TXT" in done.stderr


@pytest.mark.usefixtures("callers")
def test_a_slowly_copied_version_is_published_when_it_is_complete(stack: ReleaseStack, tmp_path: Path) -> None:
    versions = stack.versions()
    drop = tmp_path / "echo_worker"
    write_version(drop)
    (drop / "manifest.json").unlink()
    with (drop / "weights.bin").open("wb") as weights:
        for _ in range(4):
            weights.write(bytes(16 * 1024**2))
            weights.flush()
            done = stack.verb("watch", str(tmp_path), "--once", "--interval-seconds=0.1")
            assert (done.returncode, stack.versions()) == (0, versions)
    (drop / ".done").touch()
    done = stack.verb("watch", str(tmp_path), "--once", "--interval-seconds=0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stack.versions() == [*versions, versions[-1] + 1]
    assert not (stack.repository / "echo_worker" / str(_newest(stack)) / ".done").exists()
    assert stack.history()[-1]["note"] == f"dropped into {tmp_path}"


def test_a_canary_that_is_as_good_is_promoted_and_rolled_back(stack: ReleaseStack, callers: WorkerCallers) -> None:
    assert stack.publish("promoted").returncode == 0
    newest = _newest(stack)
    done = stack.verb("canary", "echo_standard", *_CANARY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stack.worker() == newest
    assert not (stack.repository / "echo_standard__canary").exists()
    assert stack.traffic() is None
    rolled_back_at = time.monotonic()
    assert stack.verb("rollback", "echo_standard").returncode == 0
    back_at = time.monotonic()
    time.sleep(0.5)
    assert stack.worker() == 1
    late = {version for at, model, version in callers.answers if model != "echo_worker" and at > back_at + 0.1}
    assert late == {1}
    early = {version for at, model, version in callers.answers if model == "echo" and at < rolled_back_at}
    assert newest in early


@pytest.mark.usefixtures("callers")
@pytest.mark.parametrize(
    ("name", "behaviour", "message"),
    [
        ("slower", {"seconds": 0.06}, "p95"),
        ("other_answers", {"wrong_above": 60}, "agreement"),
        ("errors", {"fails_above": 60}, "errors"),
    ],
)
def test_a_worse_canary_is_reverted(stack: ReleaseStack, name: str, behaviour: dict[str, float], message: str) -> None:
    assert stack.publish(name, **behaviour).returncode == 0
    done = stack.verb("canary", "echo_standard", *_CANARY)
    assert done.returncode == 1
    assert "canary rejected at 5 %" in done.stderr
    assert message in done.stderr
    assert (stack.worker(), stack.traffic()) == (1, None)
    assert not (stack.repository / "echo_standard__canary").exists()
    assert stack.history()[-1]["verb"] == "rollback"


def test_promote_and_rollback_move_the_callers_of_an_unpinned_model(stack: ReleaseStack) -> None:
    """An ensemble at -1 moves with the model."""

    def answers() -> set[int]:
        return {stack.worker(model) for model in ("alone", "alone_follower")}

    with WorkerCallers(stack, ["alone", "alone_follower"]) as callers:
        published = stack.publish("for_alone", model="alone")
        assert published.returncode == 0, published.stdout + published.stderr
        assert "moves no caller to another version" in published.stdout
        assert "stays unloaded until: trireme promote alone" in published.stdout
        assert "not proven: no golden samples" in published.stdout
        assert published.stdout.endswith("callers of alone get alone version 1, verified on 1 of 1 servers\n")
        assert answers() == {1}
        promoted = stack.verb("promote", "alone")
        assert promoted.returncode == 0, promoted.stdout + promoted.stderr
        assert "moves callers of alone_follower (model_version: -1): alone version 1 -> version 2" in promoted.stdout
        assert answers() == {2}
        rejected = stack.verb("rollback", "alone_follower")
        assert rejected.returncode == 1
        assert "alone_follower calls alone at model_version: -1" in rejected.stderr
        assert "run: trireme rollback alone" in rejected.stderr
        rolled_back = stack.verb("rollback", "alone")
        assert rolled_back.returncode == 0, rolled_back.stdout + rolled_back.stderr
        assert rolled_back.stdout.endswith("callers of alone get alone version 1, verified on 1 of 1 servers\n")
        assert answers() == {1}
    assert callers.failures == []
    for model in ("alone", "alone_follower"):
        assert callers.workers_of(model) == {1, 2}


def test_the_first_version_of_a_model_loads_the_ensemble_that_pins_it(stack: ReleaseStack) -> None:
    done = stack.publish("for_later", model="later")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "moves callers of later_caller: later no version -> version 1" in done.stdout
    assert stack.worker("later_caller") == 1


def test_serving_and_pinned_versions_cannot_be_pruned(stack: ReleaseStack) -> None:
    stack.verb("prune", "echo_worker", "--keep=1")
    assert stack.versions()[0] == 1
    assert stack.worker() == 1
    again = stack.verb("prune", "echo_worker", "--keep=1")
    assert again.returncode == 1
    assert "has no version to prune" in again.stderr


def test_a_new_version_of_a_route_is_tested_with_its_variants(stack: ReleaseStack, tmp_path: Path) -> None:
    rules = json.loads((stack.repository / "echo" / "1" / "route.json").read_text())
    rules["variants"][0]["name"] = "echo_absent"
    (tmp_path / "route.json").write_text(json.dumps(rules))
    done = stack.verb("publish", "echo", str(tmp_path))
    assert done.returncode == 1
    assert "echo_absent" in done.stderr
    rules["variants"][0]["name"] = "echo_economy"
    (tmp_path / "route.json").write_text(json.dumps(rules))
    done = stack.verb("publish", "echo", str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_file_changed_in_place_is_detected(stack: ReleaseStack) -> None:
    assert stack.verb("verify", "echo_worker").returncode == 0
    behaviour = stack.repository / "echo_worker" / str(_newest(stack)) / "behaviour.json"
    good = behaviour.read_text()
    behaviour.write_text(good + " ")
    done = stack.verb("verify", "--json")
    behaviour.write_text(good)
    assert done.returncode == 1
    (problem,) = [check["problem"] for check in json.loads(done.stdout)["versions"] if check["problem"]]
    assert problem.startswith(str(behaviour))
