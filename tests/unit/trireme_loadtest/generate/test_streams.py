from __future__ import annotations

import asyncio
import math

import pytest
from trireme_loadtest.generate.streams import Prompt, StreamRun, StreamTimes, closed_streams, mixed_prompts


def test_streams_without_a_token_count_with_the_time_they_waited() -> None:
    run = StreamRun(4.0, [StreamTimes(0.0, [1.0, 1.5, 2.5]), StreamTimes(1.0)])
    metrics = run.metrics()
    assert metrics["tokens_per_second"] == 0.75
    assert metrics["ttft_p50_ms"] == 2000
    assert metrics["inter_token_p50_ms"] == 750
    assert math.isnan(StreamRun(1.0, []).metrics()["ttft_p50_ms"])


def test_other_words_have_the_same_lengths() -> None:
    one, other = (mixed_prompts(20, 11, seed) for seed in (1, 2))
    assert [(len(p.text.split()), p.tokens) for p in one] == [(len(p.text.split()), p.tokens) for p in other]
    assert all(left.text != right.text for left, right in zip(one, other, strict=True))


def test_the_number_of_streams_is_constant_and_they_are_cancelled_at_the_end() -> None:
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
