"""The benchmarks run to completion on the real server; their numbers are not asserted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trireme.processes.server import ServerFlags
from trireme.settings import Settings

from tests.deadlines import scaled
from tests.servers import throw_away_server

pytestmark = pytest.mark.slow
TRIREME = Path(sys.executable).with_name("trireme")
MODEL = "embedding_economy"
# A hang guard. With vLLM installed, its benchmark takes minutes.
GUARD_SECONDS = scaled(600)


def _bench(*arguments: object) -> dict[str, Any]:
    command = [str(TRIREME), "bench", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_serving_compares_a_variant_with_its_limit_and_the_peers(tmp_path: Path) -> None:
    report = _bench(
        "serving", "--model", MODEL, "--concurrency", 8, "--seconds", 1, "--repetitions", 1, "--output", tmp_path
    )

    assert [(one["name"], one["case"]) for one in report["results"]] == [
        (f"in-process limit of {MODEL}", ""),
        (MODEL, "concurrency 8"),
        ("FastAPI", "concurrency 8"),
        ("FastAPI, 1 thread per worker", "concurrency 8"),
    ]
    for one in report["results"]:
        assert one["median"]["sentences_per_second"] > 0
        assert one["median"]["server_cpu_ms"] > 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}


def test_sweep_finds_and_reports_a_rate(tmp_path: Path) -> None:
    slo = tmp_path / "slo.toml"
    slo.write_text(f"[tasks.{MODEL}]\np50_ms = 2000\n")
    flags = ServerFlags(Settings.from_environment().repository_dir, load_models=(MODEL,))
    with throw_away_server(flags) as server:
        report = _bench(
            "sweep", "--model", MODEL, "--url", server.grpc_address, "--slo", slo, "--from", 10, "--to", 40,
            "--within", 0.5, "--seconds", 2, "--repetitions", 1, "--output", tmp_path,
        )  # fmt: skip

    assert report["results"][0]["name"] == "10/s"
    assert re.search(r"/s (meets|does not meet) the SLO|SLO is [\d.]+/s", report["notes"][0])


def test_perf_analyzer_measures_the_same_server(tmp_path: Path) -> None:
    report = _bench(
        "perf_analyzer", "--model", MODEL, "--concurrency", 4, "--seconds", 3, "--repetitions", 1, "--output", tmp_path
    )

    ours, theirs = report["results"]
    assert (ours["name"], theirs["name"]) == ("trireme", "perf_analyzer")
    assert ours["median"]["share_of_rate"] > 0
    assert theirs["median"]["p50_ms"] > 0
    assert "At concurrency 4" in report["notes"][0]


def test_llm_compares_the_server_and_the_gateway_with_the_engine_alone(tmp_path: Path) -> None:
    report = _bench("llm", "--streams", 2, "--seconds", 4, "--repetitions", 1, "--output", tmp_path)

    by_name = {(one["name"], one["case"]): one["median"] for one in report["results"]}
    assert by_name["openvino_genai alone", "2 streams"]["tokens_per_second"] > 0
    for way in ("Triton", "gateway"):
        assert by_name[f"openvino_genai, {way}", "2 streams"]["of_alone"] > 0
    for case in ("new prefix", "cached prefix", "idle", "after 16 cancelled"):
        assert by_name["openvino_genai, Triton", case]["ttft_p50_ms"] > 0
    assert by_name["openvino_genai alone", "prompt lookup"]["tokens_per_second"] > 0
    # vLLM is measured if it is installed, and reported as skipped if not.
    assert ("vLLM, Triton", "2 streams") in by_name or any(
        "vLLM" in note for note in report["notes"] if "Skipped" in note
    )
    assert "<svg" in (tmp_path / "llm.svg").read_text()
