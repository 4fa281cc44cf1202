"""vLLM in a real tritonserver. Models are loaded one at a time, each for the tests that need it."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton_grpc
from trireme.processes.server import ServerFlags, TritonServer
from trireme.settings import Settings
from trireme_client import GenerationChunk, TriremeClient
from trireme_export.exporter import Exporter

from tests.deadlines import scaled
from tests.servers import throw_away_server
from tests.vllm.tiny_adapter import write_adapter

CONTEXT_TOKENS = 1024
LOAD_DEADLINE_SECONDS = scaled(180.0)
DEADLINE_MS = round(scaled(120_000))

# 30 layers, 3 key-value heads of 64 numbers, bfloat16. In blocks of 128 tokens.
KV_CACHE_BYTES_PER_TOKEN = 2 * 30 * 3 * 64 * 2
ENGINE = {
    "dtype": "bfloat16",
    "max_model_len": CONTEXT_TOKENS,
    "max_num_seqs": 16,
    # Long prompts are computed in chunks, together with the tokens of other requests.
    "max_num_batched_tokens": 256,
    # Room for two full contexts, although 16 requests may run.
    "kv_cache_memory_bytes": 2 * CONTEXT_TOKENS * KV_CACHE_BYTES_PER_TOKEN,
    "enable_prefix_caching": True,
    "enforce_eager": True,
}
_MODELS: dict[str, dict[str, Any]] = {
    "chat": {},
    "adapters": {"enable_lora": "true", "max_lora_rank": 8},
    "int8": {"quantization": "int8_per_channel_weight_only"},
    "speculative": {
        "speculative_config": {
            "method": "ngram",
            "num_speculative_tokens": 5,
            "prompt_lookup_min": 2,
            "prompt_lookup_max": 4,
        }
    },
    "unknown_argument": {"max_tokens": 3},
    "missing_adapter": {"enable_lora": True},
}
CONFIG = 'backend: "vllm"\ninstance_group [{ kind: KIND_MODEL count: 1 }]\n'


@dataclass(frozen=True, slots=True)
class Generated:
    """A complete generation."""

    text: str
    finish_reason: str | None
    num_input_tokens: int
    num_output_tokens: int
    chunks: list[GenerationChunk] = field(repr=False)


@dataclass(slots=True)
class Stack:
    """The server and its clients."""

    server: TritonServer
    repository_dir: Path
    client: TriremeClient
    admin: triton_grpc.InferenceServerClient

    def load(self, model: str) -> None:
        self.admin.load_model(model, client_timeout=LOAD_DEADLINE_SECONDS)

    def unload(self, model: str) -> None:
        self.admin.unload_model(model, client_timeout=scaled(60.0))

    def generate(self, model: str, prompt: str | list[dict[str, str]], **sampling: Any) -> Generated:
        """Generate, with greedy sampling by default."""
        stream = sampling.pop("stream", True)
        given: dict[str, Any] = {"text": prompt} if isinstance(prompt, str) else {"messages": prompt}
        sampling = {"temperature": 0, "max_tokens": 24} | sampling
        chunks = list(
            self.client.generate(model, **given, sampling_parameters=sampling, stream=stream, deadline_ms=DEADLINE_MS)
        )
        return Generated(
            "".join(chunk.text for chunk in chunks),
            chunks[-1].finish_reason,
            chunks[-1].num_input_tokens or 0,
            sum(chunk.num_output_tokens or 0 for chunk in chunks),
            chunks,
        )

    def all_at_once(self, work: list[Callable[[], Generated]]) -> list[Generated]:
        """Run each in its own thread; returns the results in the order of ``work``."""
        results: list[Generated | None] = [None] * len(work)

        def run(number: int) -> None:
            results[number] = work[number]()

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_MS / 1000)
        assert all(results), "a request failed; see its thread's traceback"
        return [result for result in results if result]

    def metric(self, name: str, model: str) -> float:
        """The sum of a metric of a model over its other labels."""
        with urllib.request.urlopen(f"http://{self.server.metrics_address}/metrics", timeout=scaled(10)) as response:
            lines = response.read().decode().splitlines()
        found = [line for line in lines if line.startswith(f"{name}{{") and f'model="{model}"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.fixture(scope="session", autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use an empty cache: files of earlier loads could hide what the first load on a machine needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CACHE_ROOT", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary repository with the models of ``make vllm``, exported here."""
    settings = Settings.from_environment()
    own = replace(settings, repository_dir=tmp_path_factory.mktemp("vllm") / "repository")
    for name in ("generation_premium", "generation_premium_engine"):
        everything_but_versions = shutil.ignore_patterns("[0-9]*") if name.endswith("_engine") else None
        shutil.copytree(settings.repository_dir / name, own.repository_dir / name, ignore=everything_but_versions)
    Exporter(own, lambda _model, _step: None).export("generation_premium_engine")
    return own.repository_dir


@pytest.fixture(scope="session")
def weights(repository: Path) -> Path:
    """SmolLM2-135M-Instruct in bfloat16."""
    return repository / "generation_premium_engine/1"


@pytest.fixture(scope="session")
def stack(repository: Path, weights: Path) -> Iterator[Stack]:
    for name, arguments in _MODELS.items():
        write_model(repository, name, CONFIG, {"model": str(weights), **ENGINE, **arguments})
    write_adapter(repository / "adapters/1/contrary")
    (repository / "adapters/1/multi_lora.json").write_text(json.dumps({"contrary": "contrary"}))
    (repository / "missing_adapter/1/multi_lora.json").write_text(json.dumps({"brief": "nowhere"}))
    flags = ServerFlags(repository, load_models=(), exit_on_error=False)
    with (
        throw_away_server(flags) as server,
        TriremeClient(server.grpc_address) as client,
        contextlib.closing(triton_grpc.InferenceServerClient(server.grpc_address)) as admin,
    ):
        yield Stack(server, repository, client, admin)
        # A graceful exit takes 30 s after a stub was killed.
        server.kill()


def write_model(repository: Path, name: str, config: str, content: dict[str, Any]) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(config)
    (version / "model.json").write_text(json.dumps(content))
