"""vLLM's own OpenAI server, reached through the ``openai_engine`` backend."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from trireme.processes.ports import free_ports
from trireme.settings import Settings
from trireme_client import InvalidRequestError
from tritonclient.utils import InferenceServerException

from tests.deadlines import scaled
from tests.e2e.serving import wait_until
from tests.vllm.conftest import ENGINE, Stack, write_model

KEY = "a-key-for-the-test"
PROMPT = "The capital of France is"
_CONFIG = 'backend: "openai_engine"\ninstance_group [{ kind: KIND_CPU count: 1 }]\n'


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running server of vLLM."""

    url: str

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=scaled(10)) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


@pytest.fixture(scope="module")
def upstream(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    folder, (port,) = tmp_path_factory.mktemp("upstream"), free_ports(1)
    python = Settings.from_environment().vllm_dir / "bin/python"
    flags = ["--model", str(weights), "--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port)]
    for name, value in ENGINE.items():
        flag = "--" + name.replace("_", "-")
        flags += [flag] if value is True else [flag, str(value)]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("TRIREME_")},
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_API_KEY": KEY,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(python), "-m", "vllm.entrypoints.openai.api_server", *flags],
            env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_healthy(process, url, folder / "log"), "the server was healthy")
        yield Upstream(url)
    finally:
        # Its engine is a separate process that would outlive it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(scaled(30))


def is_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text(errors="replace")[-2000:]
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=scaled(5)) as response:
        return bool(response.status == 200)
    return False


@pytest.fixture(scope="module")
def elsewhere(stack: Stack, upstream: Upstream) -> Iterator[Stack]:
    content = {"dialect": "vllm", "base_url": f"{upstream.url}/v1", "model": "smollm2", "api_key_file": "key"}
    write_model(stack.repository_dir, "elsewhere", _CONFIG, content)
    (stack.repository_dir / "elsewhere/1/key").write_text(KEY)
    stack.load("elsewhere")
    yield stack
    stack.unload("elsewhere")


def test_a_stream_equals_the_unstreamed_response(elsewhere: Stack) -> None:
    streamed = elsewhere.generate("elsewhere", PROMPT)
    unstreamed = elsewhere.generate("elsewhere", PROMPT, stream=False)
    assert streamed.text == unstreamed.text
    assert streamed.text.startswith(" Paris")
    assert streamed.num_output_tokens == unstreamed.num_output_tokens == 24
    assert streamed.num_input_tokens == unstreamed.num_input_tokens == 5
    assert streamed.finish_reason == "length"
    assert len(streamed.chunks) > 5


def test_messages_go_through_the_chat_endpoint(elsewhere: Stack) -> None:
    generated = elsewhere.generate(
        "elsewhere", [{"role": "user", "content": "What is the capital of France?"}], max_tokens=48
    )
    assert "Paris" in generated.text
    assert generated.finish_reason == "stop"
    assert generated.num_input_tokens > 20


def test_sampling_parameters_reach_the_engine(elsewhere: Stack) -> None:
    stopped = elsewhere.generate("elsewhere", "Count: 1, 2, 3, 4,", stop=[" 8"])
    assert stopped.text.strip().startswith("5")
    assert "8" not in stopped.text
    first, again = (elsewhere.generate("elsewhere", "Once", temperature=1.5, seed=7, top_k=50).text for _ in range(2))
    assert first == again
    choice = elsewhere.generate("elsewhere", "Answer:", structured_outputs={"choice": ["red", "green"]})
    assert choice.text in ("red", "green")


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ("word " * 2000, {}, r"context_length_exceeded \(prompt\): the prompt has 2001 tokens.* 1024 tokens"),
        ("a", {"structured_outputs": {"regex": "["}}, "invalid_request.*regex"),
        ("a", {"lora_name": "brief"}, "invalid_request.*brief"),
        ("a", {"logprobs": 1}, r"unsupported \(logprobs\)"),
    ],
    ids=["long prompt", "bad regex", "no adapter", "log probabilities"],
)
def test_an_engine_error_becomes_the_contract_s_error(
    elsewhere: Stack, prompt: str, sampling: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        elsewhere.generate("elsewhere", prompt, **sampling)


def test_a_disconnected_caller_frees_the_upstream_engine(elsewhere: Stack, upstream: Upstream) -> None:
    stream = elsewhere.client.generate(
        "elsewhere", text="A story:", sampling_parameters={"temperature": 0, "max_tokens": 1000, "ignore_eos": True}
    )
    for _ in range(5):
        next(stream)
    assert upstream.metric("vllm:num_requests_running") == 1
    stream.close()
    wait_until(lambda: upstream.metric("vllm:num_requests_running") == 0, "the request has ended")
    assert upstream.metric("vllm:generation_tokens_total") < 700


def test_a_wrong_key_fails_at_load(elsewhere: Stack, upstream: Upstream) -> None:
    content = {"dialect": "vllm", "base_url": f"{upstream.url}/v1", "model": "smollm2"}
    write_model(elsewhere.repository_dir, "keyless", _CONFIG, content)
    with pytest.raises(InferenceServerException, match="rejected the API key"):
        elsewhere.load("keyless")
