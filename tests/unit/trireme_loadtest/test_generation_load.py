"""Load of streams, and where ``bench llm`` finds the weights that a model is served from."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest
from trireme.repository.folders import ModelRepository
from trireme_loadtest.bench.llm import find_served
from trireme_loadtest.generation_load import Prompt, StreamRun, StreamTimes, closed_streams, mixed_prompts

REPOSITORY = Path(__file__).parents[3] / "model_repository"


def test_streams_without_a_token_count_with_the_time_they_waited() -> None:
    run = StreamRun(4.0, [StreamTimes(0.0, [1.0, 1.5, 2.5]), StreamTimes(1.0)])
    told = run.metrics()
    assert told["tokens_per_second"] == 0.75
    assert told["ttft_p50_ms"] == 2000
    assert told["inter_token_p50_ms"] == 750
    assert math.isnan(StreamRun(1.0, []).metrics()["ttft_p50_ms"])


def test_other_words_of_the_same_lengths() -> None:
    one, other = (mixed_prompts(20, 11, seed) for seed in (1, 2))
    assert [(len(p.text.split()), p.tokens) for p in one] == [(len(p.text.split()), p.tokens) for p in other]
    assert all(left.text != right.text for left, right in zip(one, other, strict=True))


def test_so_many_streams_are_kept_going_and_cancelled_at_the_end() -> None:
    now, most, ended = 0, 0, 0

    async def stream(prompt: Prompt):  # type: ignore[no-untyped-def]
        nonlocal now, most, ended
        now += 1
        most = max(most, now)
        try:
            for _ in range(prompt.tokens):
                await asyncio.sleep(0.001)
                yield 1
        finally:
            now -= 1
            ended += 1

    run = asyncio.run(closed_streams(stream, [Prompt("a", 5), Prompt("b", 10_000)], streams=3, seconds=0.3))
    assert (most, now) == (3, 0)
    assert ended == len(run.streams) > 3
    assert max(at for one in run.streams for at in one.tokens) <= run.seconds


def test_a_stream_that_fails_ends_the_run_with_its_error() -> None:
    async def stream(_: Prompt):  # type: ignore[no-untyped-def]
        yield 1
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(closed_streams(stream, [Prompt("a", 2)], streams=2, seconds=5.0))


@pytest.mark.parametrize(
    ("name", "model", "weights"),
    [
        # As NVIDIA's vLLM backend reads it: below the repository.
        ("generation_premium_engine", "generation_premium_engine/1", "generation_premium_engine/1"),
        ("generation_economy_engine", "model.gguf", "generation_economy_engine/1/model.gguf"),
    ],
)
def test_the_engine_alone_loads_what_the_server_loads(tmp_path: Path, name: str, model: str, weights: str) -> None:
    folder = tmp_path / name
    (folder / "1").mkdir(parents=True)
    config = (REPOSITORY / name / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(config)
    (folder / "1" / "model.json").write_text(json.dumps({"model": model}))
    (folder / "1" / "model.gguf").touch()
    (served,), skipped = find_served(ModelRepository(tmp_path))
    assert skipped == []
    assert served.weights == (tmp_path / weights).resolve()
