"""The conformance tests of every engine, with vLLM."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from trireme.processes.server import ServerFlags, TritonServer

import tests.e2e.test_generation_conformance as conformance
from tests.e2e.test_generation_conformance import *  # noqa: F403
from tests.servers import throw_away_server
from tests.vllm.conftest import CONFIG, KV_CACHE_BYTES_PER_TOKEN, write_model

# vLLM does not guarantee that greedy text is independent of other requests in the batch and of speculation.
del (  # type: ignore[name-defined]
    test_answers_are_the_same_alone_and_among_others,  # noqa: F821
    test_more_than_the_cache_holds_is_answered_all_the_same,  # noqa: F821
    test_speculation_takes_fewer_steps_for_the_same_text,  # noqa: F821
)


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("repository")
    content = {
        "model": str(weights),
        "dtype": "bfloat16",
        "max_model_len": conformance.CONTEXT_TOKENS,
        "max_num_seqs": 8,
        "max_num_batched_tokens": conformance.STEP_TOKENS,
        "kv_cache_memory_bytes": conformance.CACHE_TOKENS * KV_CACHE_BYTES_PER_TOKEN,
        "enable_prefix_caching": True,
        "enforce_eager": True,
    }
    write_model(repository, "plain", CONFIG, content)
    shutil.copytree(conformance.BYSTANDER, repository / conformance.BYSTANDER.name)
    with throw_away_server(ServerFlags(repository)) as server:
        yield server
        # A graceful exit takes 30 s after a stub was killed.
        server.kill()
