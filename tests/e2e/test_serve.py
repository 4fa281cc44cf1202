"""``trireme serve`` and related commands with the real tritonserver."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from trireme.processes.shared_memory import SHM_DIR
from trireme.processes.stubs import stub_processes
from trireme_client import ClientError, OperatorClient

from tests.e2e.serving import Serve, assert_nothing_is_left, processes_of, wait_until
from tests.e2e.test_router.conftest import EchoRepository


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A running one, for tests that leave it serving."""
    with Serve(tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Serve]:
    """One that is not started yet."""
    made = Serve(tmp_path)
    yield made
    made.kill()


def test_ask_by_model_name(serve: Serve) -> None:
    done = serve.verb("ask", "echo", "hello", "Grüße 😀", "--json")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [answer["outputs"]["ANSWER"] for answer in answers] == ["hello", "Grüße 😀"]
    assert {(answer["variant"], answer["version"]) for answer in answers} == {("echo", "1")}


def test_ask_rejects_text_that_is_not_utf8(serve: Serve) -> None:
    done = serve.verb("ask", "echo", "fine", b"caf\xe9")
    assert done.returncode == 2
    assert "text 2 is not UTF-8: byte 0xe9 at position 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_ask_with_an_unknown_name_lists_the_known_names(serve: Serve) -> None:
    done = serve.verb("ask", "ecko", "hello")
    assert done.returncode == 1
    assert "no task or model named 'ecko'; available: echo" in done.stderr


def test_status_reports_models_requests_and_memory(serve: Serve) -> None:
    serve.ask(b"counted")
    done = serve.verb("status", "--json")
    assert done.returncode == 0, done.stdout
    status = json.loads(done.stdout)
    (replica,) = status["replicas"]
    (echo,) = replica["models"]
    assert (echo["name"], echo["versions"], echo["ready"], echo["failed"]) == ("echo", ["1"], True, 0)
    assert echo["succeeded"] > 0
    assert status["memory"]["stub_count"] == 1
    assert status["memory"]["servers_mib"] > 10


def test_control_apis_require_the_admin_key(serve: Serve) -> None:
    address = serve.replica()["grpc_address"]
    with OperatorClient(address) as stranger, pytest.raises(ClientError, match="restricted"):
        stranger.load("echo", 10.0)
    with OperatorClient(address, serve.admin_key()) as admin:
        admin.load("echo", 30.0)


def test_control_apis_are_not_available_through_envoy(serve: Serve) -> None:
    with OperatorClient(f"127.0.0.1:{serve.grpc_port}", serve.admin_key()) as admin:
        with pytest.raises(ClientError, match="only inference, metadata, health and statistics are served here"):
            admin.load("echo", 10.0)
        with pytest.raises(ClientError, match="only inference, metadata, health and statistics are served here"):
            admin.index(10.0)


def test_admin_key_is_for_this_user_only_and_in_no_process_list_or_log(serve: Serve) -> None:
    key, run_dir = serve.admin_key(), serve.state_dir / "run"
    assert stat.S_IMODE((run_dir / "admin.key").stat().st_mode) == 0o600
    assert all(key not in argument for process in psutil.process_iter() for argument in _arguments(process))
    for path in (serve.output_path, *(path for path in run_dir.rglob("*") if path.suffix in (".log", ".json"))):
        assert key not in path.read_text()


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_a_second_serve_exits_and_names_the_first(serve: Serve) -> None:
    assert serve.process is not None
    done = serve.run_to_its_end()
    assert done.returncode == 1
    assert f"is already running, pid {serve.process.pid}" in done.stderr


def test_a_killed_stub_is_replaced(serve: Serve) -> None:
    heals = serve.replica()["heals"]
    server_pid = serve.server().pid
    # After a recent load, the replaced stub may still be running.
    wait_until(lambda: len(stub_processes(server_pid)) == 1, "only one stub is running")
    stub_processes(server_pid)[0].kill()
    wait_until(lambda: serve.replica()["heals"] > heals, "the model is reloaded")
    assert serve.ask(b"after the stub") == b"after the stub"
    assert serve.replica()["restarts"] == 0


def test_a_killed_server_is_restarted(serve: Serve) -> None:
    restarts = serve.replica()["restarts"]
    serve.server().kill()
    wait_until(
        lambda: serve.replica()["restarts"] > restarts and serve.replica()["phase"] == "serving", "it serves again"
    )
    assert serve.ask(b"after the kill") == b"after the kill"
    assert "killed by SIGKILL" in serve.replica()["last_fault"]


def test_a_frozen_server_is_restarted(serve: Serve) -> None:
    restarts = serve.replica()["restarts"]
    serve.server().suspend()
    wait_until(
        lambda: serve.replica()["restarts"] > restarts and serve.replica()["phase"] == "serving", "it serves again"
    )
    assert serve.ask(b"after the freeze") == b"after the freeze"
    assert "frozen" in serve.replica()["last_fault"]


def test_a_request_in_flight_at_sigterm_completes(fresh: Serve, tmp_path: Path) -> None:
    fresh.start()
    held = tmp_path / "held"
    question = f"hold:{held}".encode()
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(fresh.ask(question)))
    asking.start()
    wait_until(held.exists, "the model executes the request")
    fresh.stop()
    asking.join()
    assert answers == [question]


def test_status_without_a_server_fails(fresh: Serve) -> None:
    done = fresh.verb("status")
    assert done.returncode == 1
    assert "trireme serve" in done.stderr


def test_a_port_in_use_names_the_process(fresh: Serve) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", fresh.http_port))
        holder.listen()
        done = fresh.run_to_its_end()
    assert done.returncode == 1
    assert f"port {fresh.http_port} is in use by pid {os.getpid()}" in done.stderr
    assert "--http-port" in done.stderr


def test_a_model_that_is_not_exported_is_skipped_with_the_command_that_fixes_it(fresh: Serve) -> None:
    shutil.copytree(fresh.repository / "echo", fresh.repository / "unexported")
    (fresh.repository / "unexported" / "export.toml").touch()
    fresh.start()
    assert "run: trireme export unexported" in fresh.output()
    assert fresh.ask(b"the others are served") == b"the others are served"
    fresh.stop()


def test_a_route_is_served_without_a_skipped_variant(tmp_path: Path) -> None:
    models = tmp_path / "made"
    models.mkdir()
    EchoRepository(models)
    (models / "small_worker" / "1" / "model.py").unlink()
    _add_golden_sample_of_economy(models / "echo")
    served = Serve(tmp_path, models)
    try:
        served.start()
        assert "skipped: small_worker:" in served.output()
        assert "skipped: small:" in served.output()
        log = served.state_dir / "run" / "replicas" / "r0" / "agent.log"
        assert "golden samples of echo are skipped: not loaded: small" in log.read_text()
        assert served.ask(b"standard") == b"medium:standard"
        status = json.loads(served.verb("status", "--json").stdout)
        assert {model["name"]: model["ready"] for model in status["replicas"][0]["models"]}["echo"]
        served.stop()
    finally:
        served.kill()


def _add_golden_sample_of_economy(route: Path) -> None:
    text = {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["hello"]}
    document = {
        "request": {"parameters": {"tier": "economy"}, "inputs": [text]},
        "response": {"outputs": [{**text, "name": "VARIANT", "data": ["small"]}]},
    }
    (route / "golden").mkdir()
    (route / "golden" / "economy.json").write_text(json.dumps(document))


def test_skipped_models_are_reported_before_the_start_fails(fresh: Serve) -> None:
    shutil.copytree(fresh.repository / "echo", fresh.repository / "unexported")
    (fresh.repository / "unexported" / "export.toml").touch()
    (fresh.repository / "echo" / "1" / "model.py").write_text("import no_such_library\n")
    done = fresh.run_to_its_end()
    assert done.returncode == 1
    assert "skipped: unexported:" in done.stderr


def test_one_port_for_two_options_is_a_usage_error(fresh: Serve) -> None:
    fresh.metrics_port = fresh.grpc_port
    done = fresh.run_to_its_end()
    assert done.returncode == 2
    assert f"--grpc-port and --metrics-port are both {fresh.grpc_port}" in done.stderr


def test_a_broken_model_aborts_the_start_with_its_name_and_reason(fresh: Serve) -> None:
    (fresh.repository / "echo" / "1" / "model.py").write_text("import no_such_library\n")
    done = fresh.run_to_its_end()
    assert done.returncode == 1
    assert "echo: not loaded" in done.stderr
    assert "no_such_library" in done.stderr
    assert "model.py(1)" not in done.stderr
    assert processes_of(fresh) == []


def test_a_model_that_responds_incorrectly_aborts_the_start(fresh: Serve) -> None:
    golden = fresh.repository / "echo" / "golden" / "hello.json"
    golden.write_text(golden.read_text().replace('"data": ["hello"]}]}\n}', '"data": ["goodbye"]}]}\n}'))
    done = fresh.run_to_its_end()
    assert done.returncode == 1
    assert "echo: hello: output ANSWER" in done.stderr
    assert processes_of(fresh) == []


def test_an_invalid_golden_sample_aborts_the_start_with_its_file_and_field(fresh: Serve) -> None:
    golden = fresh.repository / "echo" / "golden" / "hello.json"
    golden.write_text(golden.read_text().replace('"shape": [1, 1]', '"shape": [2, 1]'))
    done = fresh.run_to_its_end()
    assert done.returncode == 1
    assert f"echo: {golden}: request.inputs[0]: data of TEXT has 1 values" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_exits_with_a_killed_serve(fresh: Serve) -> None:
    fresh.start()
    fresh.kill()
    wait_until(lambda: processes_of(fresh) == [], "the server exited")
    assert_nothing_is_left(fresh)


def test_the_next_serve_cleans_up_after_a_killed_one(fresh: Serve) -> None:
    fresh.start()
    assert fresh.process is not None
    killed, left = fresh.process.pid, fresh.server()
    left.suspend()
    fresh.kill()
    assert left.is_running()
    assert list(SHM_DIR.glob(f"trireme_{killed}_*"))
    fresh.start()
    assert fresh.ask(b"taken over") == b"taken over"
    assert not left.is_running()
    assert list(SHM_DIR.glob(f"trireme_{killed}_*")) == []
    fresh.stop()
