"""A served stack under Prometheus: rules and dashboards name existing metrics, logs name requests, `top` works."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from trireme.processes.ports import free_ports
from trireme.settings import Settings
from trireme_backends.generation import metrics as generation_metrics
from trireme_client import TriremeClient
from trireme_gateway.metrics import Metrics as GatewayMetrics

from tests.deadlines import scaled
from tests.e2e.serving import DEADLINE_SECONDS, TRIREME, Serve, wait_until
from tests.observability import PROMETHEUS, metrics_in, panel_expressions, prometheus_programs

TEXT = {"TEXT": np.array([[b"The food was great."]], dtype=np.object_)}
MODELS = ["text_embedding", *(f"embedding_{tier}{part}" for tier in ("economy", "standard", "premium")
                              for part in ("", "_encoder"))]  # fmt: skip


class Watched(Serve):
    """``trireme serve`` with a Prometheus beside it, which a caller of its router keeps busy."""

    def __init__(self, directory: Path) -> None:
        chosen = directory / "chosen"
        chosen.mkdir()
        for model in MODELS:
            (chosen / model).symlink_to(Settings.from_environment().repository_dir / model)
        (self.prometheus_port,) = free_ports(1)
        super().__init__(directory, chosen, [f"--prometheus-port={self.prometheus_port}", "--zones=a,b"])
        self._programs = prometheus_programs()

    def environment(self) -> dict[str, str]:
        environment = super().environment()
        return {**environment, "PATH": os.pathsep.join((str(self._programs), environment["PATH"]))}

    def prometheus_is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.prometheus_port}/-/ready", timeout=scaled(30)):
                return True
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers now; an error of the expression is one of the test."""
        answer = self._api("query", query=expression)
        result: list[dict[str, Any]] = answer["result"]
        return result

    def targets_up(self) -> set[tuple[str, str, str]]:
        """Job, replica and zone of each target that answers."""
        labels = [target["labels"] for target in self._api("targets")["activeTargets"] if target["health"] == "up"]
        return {(found["job"], found.get("replica", ""), found.get("zone", "")) for found in labels}

    def exposed_metrics(self) -> set[str]:
        """Names of all metrics that the parts of the stack expose, before Prometheus chooses among them."""
        state = self.state()
        addresses = [f"{state['envoy_admin_address']}/stats/prometheus"]
        for replica in state["replicas"]:
            addresses += [f"{replica['metrics_address']}/metrics", f"{replica['agent_address']}/metrics"]
        names: set[str] = set()
        for address in addresses:
            with urllib.request.urlopen(f"http://{address}", timeout=scaled(30)) as answer:
                names |= names_of(answer.read().decode())
        return names

    def _api(self, what: str, **parameters: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=scaled(30)) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data


def names_of(page: str) -> set[str]:
    """Metrics of a page in Prometheus' format, those among them that have no sample yet."""
    names = set(re.findall(r"^([a-z_0-9]+)[ {]", page, re.MULTILINE))
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)", page, re.MULTILINE):
        names |= {name} if kind != "histogram" else {f"{name}_{part}" for part in ("bucket", "count", "sum")}
    return names


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    serve = Watched(tmp_path_factory.mktemp("watched"))
    stop = threading.Event()

    def call() -> None:
        with TriremeClient(f"127.0.0.1:{serve.grpc_port}") as client:
            while not stop.wait(0.05):
                for tier in ("economy", "standard", "premium"):
                    client.infer("text_embedding", TEXT, parameters={"tier": tier})
                client.infer("embedding_economy", TEXT)

    caller = threading.Thread(target=call)
    try:
        serve.start()
        caller.start()
        wait_until(serve.prometheus_is_ready, "Prometheus was ready")
        yield serve
        stop.set()
        caller.join()
        serve.stop()
    finally:
        stop.set()
        serve.kill()


def test_every_replica_is_watched_and_one_that_comes_or_goes_is_noticed(watched: Watched) -> None:
    one = {("triton", "r0", "a"), ("agent", "r0", "a"), ("envoy", "", "")}
    wait_until(lambda: watched.targets_up() >= one, "Prometheus reached every part")
    assert watched.verb("scale", "2").returncode == 0
    two = {("triton", "r1", "b"), ("agent", "r1", "b")}
    wait_until(lambda: watched.targets_up() >= one | two, "Prometheus reached the new replica")
    assert watched.verb("scale", "1").returncode == 0
    wait_until(lambda: not watched.targets_up() & two, "Prometheus let go of it")


def test_every_metric_of_rules_and_dashboards_is_told_by_the_real_stack(watched: Watched) -> None:
    rules = "\n".join(path.read_text() for path in (PROMETHEUS / "rules").glob("*.yml"))
    recorded = set(re.findall(r"record: (\S+)", rules))
    expressions = re.findall(r"expr: (.*(?:\n {10,}.*)*)", rules) + [found.text for found in panel_expressions()]
    named: set[str] = set().union(*map(metrics_in, expressions))
    assert len(named) > 40
    exposed = watched.exposed_metrics() | names_of(GatewayMetrics().text().decode()) | recorded | {"up", "ALERTS"}
    # No language model is served here: their metrics are named in the backend's module.
    exposed |= {*generation_metrics._COUNTERS, *generation_metrics._GAUGES}
    exposed |= {f"{name}_bucket" for name in generation_metrics._HISTOGRAMS}
    # A label made of a name by prometheus.yml.
    assert any(re.fullmatch(r"envoy_cluster_grpc_\d+", name) for name in exposed)
    exposed.add("envoy_cluster_grpc_status")
    assert named - exposed == set()


def test_the_overview_shows_the_stack_and_every_other_panel_can_be_drawn(watched: Watched) -> None:
    # Rates need two looks, and the rules a third.
    wait_until(lambda: bool(watched.query("front:error_budget:remaining_7d > 0.99")), "rules were evaluated")
    wait_until(lambda: bool(watched.query("task:trireme_router_latency_seconds:p99_1m > 0")), "latencies were")
    places = {found.place for found in panel_expressions()}
    empty = places - {found.place for found in panel_expressions() if watched.query(found.text)}
    assert {place for place in empty if place.startswith("Trireme overview:")} == {"Trireme overview: Alerts"}
    shares = watched.query("task_variant_version:trireme_router_answers:share1m")
    assert {found["metric"]["variant"] for found in shares} == {
        "embedding_economy", "embedding_standard", "embedding_premium"
    }  # fmt: skip


def test_a_request_is_found_in_envoys_log_by_the_id_its_caller_gave(watched: Watched) -> None:
    with TriremeClient(f"127.0.0.1:{watched.grpc_port}") as client:
        assert client.infer("embedding_economy", TEXT, request_id="find-me").request_id == "find-me"

    def found() -> list[dict[str, Any]]:
        text = (watched.state_dir / "run" / "envoy" / "access.log").read_text()
        lines = [json.loads(line) for line in text.splitlines() if "find-me" in line]
        return [line for line in lines if line["message"].endswith("/ModelInfer")]

    wait_until(lambda: len(found()) == 1, "Envoy wrote its log")
    (line,) = found()
    assert line.keys() >= {"time", "level", "logger", "message", "request_id", "grpc_status", "upstream"}
    assert line["grpc_status"] == "OK"


def test_an_answer_tells_its_request_id_also_where_the_caller_gave_none(watched: Watched) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{watched.http_port}/v2/health/ready", timeout=scaled(30)) as answer:
        assert answer.headers["x-request-id"]


def test_log_lines_are_json_and_tell_the_replica(watched: Watched) -> None:
    run = watched.state_dir / "run"
    for path in (run / "serve.log", run / "replicas" / "r0" / "agent.log"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines
        assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
        assert any((line.get("replica"), line.get("zone")) == ("r0", "a") for line in lines), path


def test_top_prints_one_frame_for_pipes(watched: Watched) -> None:
    result = watched.verb("top", "--once", "--interval=2")
    assert result.returncode == 0, result.stderr
    assert "1 of 1 replicas ready" in result.stdout
    for row in (
        r"r0 +a +serving +\d+\.\d +\d",
        r"embedding_economy +1 +3\d\.\d% +\d",
        r"embedding_premium +1 +3\d\.\d%",
    ):
        assert re.search(row, result.stdout), result.stdout
    assert re.search(r"without a router\s+embedding_economy +1 +\d+\.\d", result.stdout), result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


class Terminal:
    """A program in a terminal of 80 columns."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        # A session of its own, so that the terminal is its own and Ctrl-C reaches it.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command],
            env={**environment, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._seen = ""

    def read_until(self, pattern: str) -> str:
        """All it has shown so far, once that holds ``pattern``; what was read is not looked at again."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (found := re.search(pattern, self._seen)):
            assert time.monotonic() < deadline, f"{pattern} is not in {self._seen[-3000:]}"
            if select.select([self._ours], [], [], 1.0)[0]:
                try:
                    self._seen += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"it ended before {pattern}: {self._seen[-3000:]}") from None
        before, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return before

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=DEADLINE_SECONDS)
        os.close(self._ours)


@pytest.mark.parametrize("end", [b"q", b"\x03"], ids=["q", "ctrl-c"])
def test_top_lives_in_a_terminal_until_it_is_ended(watched: Watched, end: bytes) -> None:
    with contextlib.closing(Terminal([str(TRIREME), "top", "--interval=1"], watched.environment())) as terminal:
        terminal.read_until(r"1 of 1 replicas ready")
        # The second frame has rates.
        terminal.read_until(r"[1-9]\d*\.\d requests/s")
        terminal.press(end)
        # The screen is as it was before.
        terminal.read_until(r"\x1b\[\?1049l")
        assert terminal.process.wait(timeout=DEADLINE_SECONDS) == 0


def test_top_asks_for_a_terminal(watched: Watched) -> None:
    result = watched.verb("top")
    assert result.returncode == 2
    assert "--once" in result.stderr


def test_top_says_that_nothing_is_served(tmp_path: Path) -> None:
    environment = {**os.environ, "TRIREME_STATE_DIR": str(tmp_path)}
    result = subprocess.run(
        [TRIREME, "top", "--once"], env=environment, capture_output=True, text=True, timeout=scaled(60), check=False
    )
    assert result.returncode == 1
    assert result.stderr == "trireme: nothing is being served; start it with: trireme serve\n"


def test_the_end_of_prometheus_is_told_and_touches_no_request(watched: Watched) -> None:
    run = watched.state_dir / "run"
    flag = f"--storage.tsdb.path={run / 'prometheus' / 'data'}"
    for process in psutil.process_iter(["cmdline"]):
        if flag in (process.info["cmdline"] or ()):
            process.kill()
    wait_until(lambda: "prometheus exited" in (run / "serve.log").read_text(), "its end was logged")
    with TriremeClient(f"127.0.0.1:{watched.grpc_port}") as client:
        assert client.infer("embedding_economy", TEXT).model == "embedding_economy"
