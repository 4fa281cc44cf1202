"""Locust against the real server: many users at once, failures by code, a verdict, workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from trireme.processes.server import ServerFlags, TritonServer, free_ports
from trireme_loadtest.record import LoadRecord

from tests.deadlines import scaled
from tests.servers import throw_away_server

PROJECT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "load_models"
LOCUSTFILE = PROJECT / "loadtest" / "locustfile.py"
GENERATION_LOCUSTFILE = PROJECT / "loadtest" / "locustfile_generation.py"
LOCUST = Path(sys.executable).with_name("locust")
GUARD_SECONDS = scaled(90)


@pytest.fixture(scope="module")
def slow_server() -> Iterator[TritonServer]:
    with throw_away_server(ServerFlags(MODELS, load_models=("slow",))) as running:
        yield running


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("a text\nanother one\n")
    return path


def _locust(server: TritonServer, *arguments: str | Path, file: Path = LOCUSTFILE) -> list[str]:
    addresses = ["--grpc-address", server.grpc_address, "--http-address", server.http_address]
    return [str(LOCUST), "-f", str(file), *addresses, *map(str, arguments)]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=GUARD_SECONDS, check=False, cwd=PROJECT)


def test_twenty_users_of_a_slow_model_wait_concurrently_over_every_protocol(
    slow_server: TritonServer, texts: Path, tmp_path: Path
) -> None:
    for user in ("TritonGrpcUser", "TriremeClientUser", "KserveHttpUser"):
        options = ["--headless", "-u", "20", "-r", "20", "-t", "4s", "--models", "slow", "--inputs", texts]
        done = _run(_locust(slow_server, user, *options, "--report", tmp_path / user))

        assert done.returncode == 0, done.stdout + done.stderr
        summary = LoadRecord.read(tmp_path / user / "run.json").task("slow")
        assert summary.failed == 0
        # Little's law, at any speed of the machine: 1 if users wait for each other, near 20 if they run concurrently.
        concurrency = summary.answered_rate * summary.latency.mean_ms / 1000
        assert concurrency > 5, f"{user}: {concurrency}"


def test_failures_are_counted_by_grpc_code(slow_server: TritonServer, texts: Path, tmp_path: Path) -> None:
    options = ["--headless", "-u", "20", "-r", "20", "-t", "3s", "--models", "slow", "--inputs", texts]
    file = MODELS / "locustfile_with_failures.py"
    done = _run(_locust(slow_server, *options, "--report", tmp_path / "report", file=file))

    assert done.returncode == 1, done.stdout + done.stderr
    summary = LoadRecord.read(tmp_path / "report" / "run.json").task("slow")
    assert list(summary.errors) == ["UNAVAILABLE"]
    assert 0 < summary.failed < summary.asked / 10
    assert "UNAVAILABLE" in done.stdout


@pytest.mark.parametrize(("limit_ms", "code"), [(10_000, 0), (50, 1)])
def test_the_verdict_is_the_exit_code_also_with_workers(
    slow_server: TritonServer, texts: Path, tmp_path: Path, limit_ms: int, code: int
) -> None:
    slo = tmp_path / "slo.toml"
    slo.write_text(f"[tasks.slow]\np95_ms = {limit_ms}\n")
    master = _locust(slow_server, "TritonGrpcUser", "--headless", "-u", "10", "-r", "10", "-t", "3s")
    master += ["--models", "slow", "--inputs", str(texts), "--slo", str(slo), "--report", str(tmp_path / "report")]
    (port,) = free_ports(1)

    done = _run([*master, "--processes", "2", "--master-bind-port", str(port), "--master-port", str(port)])

    assert done.returncode == code, done.stdout + done.stderr
    record = LoadRecord.read(tmp_path / "report" / "run.json")
    assert record.generator.workers == 2
    # Both count what Locust adds up from its workers.
    (aggregated,) = re.findall(r"^ *Aggregated +(\d+) +\d+\(", done.stdout + done.stderr, re.MULTILINE)[-1:]
    assert record.task("slow").asked == int(aggregated)
    assert f"SLO: {'met' if code == 0 else 'broken'}" in done.stdout


def test_it_does_not_start_without_gevent_patching() -> None:
    environment = {**os.environ, "LOCUST_SKIP_MONKEY_PATCH": "1"}
    done = subprocess.run(
        [str(LOCUST), "-f", str(LOCUSTFILE), "--headless", "-t", "1s"],
        capture_output=True, text=True, timeout=GUARD_SECONDS, check=False, env=environment, cwd=PROJECT,
    )  # fmt: skip

    assert done.returncode == 1
    assert "gevent has not patched the standard library" in done.stderr
    assert "Traceback" not in done.stderr


def test_invalid_options_are_reported_in_one_sentence() -> None:
    done = _run([str(LOCUST), "-f", str(LOCUSTFILE), "--headless", "-t", "1s", "--models", "nope"])

    assert done.returncode == 1
    assert "no model named 'nope'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_web_page_is_served_on_loopback_and_starts_a_run(slow_server: TritonServer, texts: Path) -> None:
    (port,) = free_ports(1)
    command = _locust(slow_server, "TritonGrpcUser", "--models", "slow", "--inputs", texts, "--web-port", str(port))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=PROJECT)
    try:
        page = f"http://127.0.0.1:{port}"
        _wait_for(page)
        options = b"user_count=4&spawn_rate=4&models=slow&inputs=" + str(texts).encode()
        urllib.request.urlopen(f"{page}/swarm", data=options, timeout=scaled(10)).close()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"{page}/stats/requests", timeout=scaled(10)) as answer:
                stats = json.load(answer)
            if stats["stats"] and stats["stats"][0]["num_requests"] > 20:
                break
            time.sleep(0.3)
        assert stats["stats"][0]["name"] == "slow"
        assert stats["stats"][0]["num_failures"] == 0
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(page: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(page, timeout=scaled(5)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def test_streaming_users_count_tokens_and_are_judged_by_them(tmp_path: Path) -> None:
    slo = tmp_path / "slo.toml"
    slo.write_text("[all]\nttft_p50_ms = 5000\ninter_token_p50_ms = 5000\nminimum_token_rate = 1\n")
    models = Path(__file__).parent / "generation_models"
    flags = ServerFlags(models, load_models=("text_generation", "generation_economy", "generation_premium"))
    with throw_away_server(flags) as server:
        command = _locust(server, "--headless", "-u", "4", "-r", "4", "-t", "3s", file=GENERATION_LOCUSTFILE)
        done = _run([*command, "--slo", str(slo), "--report", str(tmp_path / "report")])

    assert done.returncode == 0, done.stdout + done.stderr
    assert "tokens/s" in done.stdout
    summary = LoadRecord.read(tmp_path / "report" / "run.json").task("text_generation")
    assert summary.failed == 0
    # The engine repeats each word of its prompt in a separate chunk: at least eight.
    assert summary.first_response.count == summary.asked
    assert summary.between_responses.count >= 7 * summary.asked
