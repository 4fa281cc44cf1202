"""``trireme load run`` against the real server: every exit code, a frozen server, streams, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trireme.processes.server import ServerFlags, TritonServer, free_ports
from trireme.settings import Settings
from trireme_loadtest.record import LoadRecord

from tests.deadlines import scaled
from tests.servers import throw_away_server

MODELS = Path(__file__).parent / "load_models"
TRIREME = Path(sys.executable).with_name("trireme")
MODEL = "embedding_economy"
GUARD_SECONDS = scaled(90)


@pytest.fixture(scope="module")
def economy() -> Iterator[TritonServer]:
    """A separate server: one test freezes it."""
    flags = ServerFlags(Settings.from_environment().repository_dir, load_models=(MODEL,))
    with throw_away_server(flags) as running:
        yield running


def _load(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(TRIREME), "load", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=GUARD_SECONDS, check=False)


def _slo(folder: Path, text: str) -> Path:
    path = folder / "slo.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def half_second() -> Iterator[TritonServer]:
    with throw_away_server(ServerFlags(MODELS, load_models=("half_second",))) as running:
        yield running


def test_objectives_that_are_met_exit_0_and_write_every_report(half_second: TritonServer, tmp_path: Path) -> None:
    slo = _slo(tmp_path, "[all]\nerror_rate = 0.1\nminimum_rate = 5\n[tasks.half_second]\np50_ms = 20000\n")
    output = tmp_path / "report"

    done = _load(
        "run", "--model", "half_second", "--url", half_second.grpc_address, "--arrivals", "constant:10", "--seconds", 4,
        "--inputs", _texts(tmp_path), "--slo", slo, "--output", output, "--workers", 2,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SLO: met" in done.stdout
    assert {path.name for path in output.iterdir()} == {"run.json", "report.txt", "report.html", "junit.xml"}
    record = LoadRecord.read(output / "run.json")
    assert record.task("half_second").asked == 40
    assert record.generator.workers == 2


def test_objectives_that_no_run_can_meet_exit_1_and_report_by_how_much(
    half_second: TritonServer, tmp_path: Path
) -> None:
    slo = _slo(tmp_path, "[tasks.half_second]\np50_ms = 0.01\n")

    done = _load(
        "run", "--model", "half_second", "--url", half_second.http_address, "--protocol", "http",
        "--arrivals", "poisson:10", "--seconds", 3, "--inputs", _texts(tmp_path), "--slo", slo,
        "--output", tmp_path / "report", "--json",
    )  # fmt: skip

    assert done.returncode == 1, done.stdout + done.stderr
    (objective,) = json.loads(done.stdout)["verdict"]["objectives"]
    assert "no run can meet it on this machine: even the fastest request took" in objective["reason"]


def test_a_record_has_the_server_times_of_an_ensemble_and_its_step(economy: TritonServer, tmp_path: Path) -> None:
    _load(
        "run", "--model", MODEL, "--url", economy.grpc_address, "--arrivals", "constant:20", "--seconds", 2,
        "--output", tmp_path / "report",
    )  # fmt: skip

    record = LoadRecord.read(tmp_path / "report" / "run.json")
    assert {share.model for share in record.server} == {MODEL, f"{MODEL}_encoder"}
    assert all(share.requests >= 40 and share.compute_infer_ms > 0 for share in record.server)


def test_too_few_samples_exit_3(economy: TritonServer, tmp_path: Path) -> None:
    slo = _slo(tmp_path, f"[tasks.{MODEL}]\np99_ms = 9000\n")

    done = _load(
        "run", "--model", MODEL, "--url", economy.grpc_address, "--arrivals", "constant:20", "--seconds", 1,
        "--slo", slo, "--output", tmp_path / "report",
    )  # fmt: skip

    assert done.returncode == 3, done.stdout + done.stderr
    assert "too few samples: 20" in done.stdout


def test_a_rate_beyond_the_generator_exits_3_and_is_invalid(economy: TritonServer, tmp_path: Path) -> None:
    slo = _slo(tmp_path, f"[tasks.{MODEL}]\np50_ms = 1\n")

    done = _load(
        "run", "--model", MODEL, "--url", economy.grpc_address, "--arrivals", "constant:30000", "--seconds", 1,
        "--slo", slo, "--output", tmp_path / "report", "--deadline", 1,
    )  # fmt: skip

    assert done.returncode == 3, done.stdout + done.stderr
    assert "SLO: inconclusive (invalid: " in done.stdout


def test_a_server_that_freezes_for_three_seconds_breaks_the_verdict(economy: TritonServer, tmp_path: Path) -> None:
    slo = _slo(tmp_path, f"[tasks.{MODEL}]\np95_ms = 1000\n")

    def freeze() -> None:
        os.kill(economy.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(economy.pid, signal.SIGCONT)

    done = _disturbed_load(
        freeze, "run", "--model", MODEL, "--url", economy.grpc_address, "--arrivals", "poisson:30", "--seconds", 9,
        "--slo", slo, "--output", tmp_path / "report",
    )  # fmt: skip

    assert done.returncode == 1, done.stdout
    summary = LoadRecord.read(tmp_path / "report" / "run.json").task(MODEL)
    # A closed loop would have seen one slow request per caller; an open loop sees those of two seconds.
    assert summary.failed == 0
    assert summary.latency.share_above(1000) > 0.15


def test_a_server_that_ends_during_the_run_is_counted_by_code(tmp_path: Path) -> None:
    slo = _slo(tmp_path, "[all]\nerror_rate = 0.01\n")
    with throw_away_server(ServerFlags(MODELS, load_models=("counting",))) as server:
        done = _disturbed_load(
            server.process.kill, "run", "--model", "counting", "--url", server.grpc_address, "--arrivals", "constant:5",
            "--seconds", 4, "--inputs", _texts(tmp_path), "--slo", slo, "--output", tmp_path / "report",
            "--deadline", 3,
        )  # fmt: skip

    # The statistics of a dead server cannot be read, but the failed requests can be counted. On a machine too busy for
    # a punctual generator the verdict is inconclusive, and only then.
    assert done.returncode == (3 if "INVALID: " in done.stdout else 1), done.stdout + done.stderr
    assert "broken       all: error_rate" in done.stdout
    assert "UNAVAILABLE" in done.stdout


def _disturbed_load(disturb: Callable[[], None], *arguments: object) -> subprocess.CompletedProcess[str]:
    """A load run that is disturbed once its first line of progress shows that it has started."""
    command = [str(TRIREME), "load", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline()
        disturb()
        output, errors = process.communicate(timeout=GUARD_SECONDS)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _texts(folder: Path) -> Path:
    path = folder / "texts.txt"
    path.write_text("one\n")
    return path


def test_streams_are_judged_by_time_to_first_response_and_gaps(tmp_path: Path) -> None:
    slo = _slo(tmp_path, "[tasks.counting]\nttft_p50_ms = 5000\ninter_token_p50_ms = 10\n")
    with throw_away_server(ServerFlags(MODELS, load_models=("counting",))) as server:
        done = _load(
            "run", "--model", "counting", "--url", server.grpc_address, "--arrivals", "constant:8", "--seconds", 2,
            "--inputs", _texts(tmp_path), "--slo", slo, "--output", tmp_path / "report",
        )  # fmt: skip

    assert "met          counting: ttft_p50_ms" in done.stdout, done.stderr
    assert "broken       counting: inter_token_p50_ms" in done.stdout
    summary = LoadRecord.read(tmp_path / "report" / "run.json").task("counting")
    assert summary.first_response.count == 16
    assert summary.between_responses.count == 16 * 4
    # The model pauses 20 ms between two responses.
    assert summary.between_responses.percentile_ms(50) >= 19
    assert summary.first_response.percentile_ms(50) < summary.latency.percentile_ms(50)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--arrivals", "poisson:0"], "must be above zero"),
        (["--arrivals", "poisson:1e7"], "exceeds the limit of 100000 per second"),
        (["--arrivals", "constant:1", "--seconds", "0.1"], "send no request"),
        (["--model", f"{MODEL}=-1"], "must be a number of at least zero"),
        (["--model", f"{MODEL}=2"], "given twice"),
        (["--slo", "pyproject.toml"], "unknown key 'project'"),
    ],
)
def test_invalid_arguments_are_rejected_in_one_sentence(
    economy: TritonServer, tmp_path: Path, arguments: list[str], problem: str
) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    given: list[Any] = ["run", "--model", MODEL, "--url", economy.grpc_address, "--output", tmp_path, *arguments]
    done = subprocess.run(
        [str(TRIREME), "load", *map(str, given)],
        capture_output=True, text=True, timeout=GUARD_SECONDS, check=False, cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 1
    assert problem in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unreachable_server_is_distinguished_from_a_missing_model(economy: TritonServer) -> None:
    (port,) = free_ports(1)
    for protocol in ("grpc", "http"):
        done = _load("run", "--model", MODEL, "--protocol", protocol, "--url", f"127.0.0.1:{port}")
        assert done.returncode == 1
        assert f"no server responds at 127.0.0.1:{port}" in done.stderr
        address = economy.grpc_address if protocol == "grpc" else economy.http_address
        done = _load("run", "--model", "embedding_premium", "--protocol", protocol, "--url", address)
        assert done.returncode == 1
        assert "does not serve 'embedding_premium'" in done.stderr
