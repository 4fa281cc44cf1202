"""The examples of docs/gateway.md, run unchanged on the real models."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadlines import scaled
from tests.e2e.gateway_process import GatewayProcess

PAGE = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text()
EXAMPLES = re.findall(r"^```(python|bash)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def real_gateway(repository_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with GatewayProcess(
        folder, triton=repository_server.grpc_address, triton_http=repository_server.http_address
    ) as running:
        yield running


@pytest.mark.parametrize(("kind", "text"), EXAMPLES, ids=[text[:30] for _, text in EXAMPLES])
def test_example_runs_as_it_stands(kind, text, real_gateway):
    text = text.replace("http://127.0.0.1:8080", real_gateway.url)
    command = [sys.executable, "-c", text] if kind == "python" else ["bash", "-euo", "pipefail", "-c", text]
    result = subprocess.run(command, capture_output=True, text=True, timeout=scaled(120), check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    # The word itself a language model may say.
    assert '"error"' not in result.stdout


def test_task_of_generation_is_routed_and_reports_it(real_gateway):
    request = {"model": "text_generation", "prompt": "The sea", "max_tokens": 4, "temperature": 0}
    whole = real_gateway.post("completions", request, **{"x-trireme-tier": "economy"})
    assert whole.status_code == 200, whole.text
    assert whole.headers["x-trireme-variant"] == "generation_economy"
    assert '"tier"' in whole.headers["x-trireme-reason"]
    assert whole.json()["usage"]["completion_tokens"] == 4
    assert real_gateway.post("completions", request, **{"x-trireme-tier": "golden"}).status_code == 400


def test_prompt_over_the_real_models_context_is_rejected_with_its_numbers(real_gateway):
    answer = real_gateway.post("completions", {"model": "text_generation", "prompt": "word " * 20_000})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "2000" in answer.json()["error"]["message"]
