"""Streams of language models: prompts of mixed lengths, a closed loop of streams, and the times of their tokens."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np

from trireme_loadtest.generate.loops import closed_loop

_WORDS = (
    *("ship", "oar", "sea", "harbour", "captain", "wind", "wave", "bronze", "timber", "sail", "coast", "storm"),
    *("island", "rower", "signal", "rope", "anchor", "mast", "keel", "deck", "crew", "drum", "rhythm", "morning"),
    *("night", "star", "shore", "market", "cargo", "olive", "wine", "letter", "stone", "bridge"),
)
_PROMPT_WORDS = (8, 24, 64, 160)
_TOKENS = (16, 32, 64, 128)

# Yields, for one prompt, the number of tokens of each chunk as it arrives.
Stream = Callable[["Prompt"], AsyncGenerator[int, None]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to continue with exactly ``tokens`` tokens."""

    text: str
    tokens: int


@dataclass(slots=True)
class StreamTimes:
    """One stream: when it was sent and when each token arrived, in seconds from the start of the run."""

    sent: float
    tokens: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StreamRun:
    """The streams of one run."""

    seconds: float
    streams: Sequence[StreamTimes]

    @property
    def tokens_per_second(self) -> float:
        return sum(len(stream.tokens) for stream in self.streams) / self.seconds

    def ttft_ms(self, percentile: float) -> float:
        """Time to the first token; for streams without one at the end, the time they had waited by then."""
        return _percentile(
            [(stream.tokens[0] if stream.tokens else self.seconds) - stream.sent for stream in self.streams], percentile
        )

    def inter_token_ms(self, percentile: float) -> float:
        """Time between two tokens of a stream."""
        gaps = [b - a for stream in self.streams for a, b in itertools.pairwise(stream.tokens)]
        return _percentile(gaps, percentile)

    def metrics(self) -> dict[str, float]:
        """The metrics under the names that benchmarks use."""
        return {
            "tokens_per_second": self.tokens_per_second,
            "ttft_p50_ms": self.ttft_ms(50),
            "ttft_p95_ms": self.ttft_ms(95),
            "inter_token_p50_ms": self.inter_token_ms(50),
            "inter_token_p95_ms": self.inter_token_ms(95),
        }


def mixed_prompts(count: int, lengths_seed: int, words_seed: int) -> list[Prompt]:
    """Prompts of 8 to 160 words to continue with 16 to 128 tokens; equal ``lengths_seed`` gives equal lengths."""
    lengths, words = random.Random(lengths_seed), random.Random(words_seed)
    return [
        Prompt(" ".join(words.choices(_WORDS, k=lengths.choice(_PROMPT_WORDS))), lengths.choice(_TOKENS))
        for _ in range(count)
    ]


def random_text(words: int, seed: int) -> str:
    """A text of which no part is cached."""
    return " ".join(random.Random(seed).choices(_WORDS, k=words))


async def closed_streams(stream: Stream, prompts: Sequence[Prompt], *, streams: int, seconds: float) -> StreamRun:
    """Keep ``streams`` of the prompts running; streams that still run at the end are cancelled."""
    began = time.monotonic()
    sent: list[StreamTimes] = []

    async def send(number: int) -> None:
        prompt, times = prompts[number % len(prompts)], StreamTimes(time.monotonic() - began)
        sent.append(times)
        async with aclosing(stream(prompt)) as chunks:
            async for count in chunks:
                times.tokens += [time.monotonic() - began] * count

    sending = asyncio.create_task(closed_loop(send, streams, lambda: True))
    await asyncio.wait([sending], timeout=seconds)
    elapsed = time.monotonic() - began
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    return StreamRun(elapsed, [StreamTimes(one.sent, [at for at in one.tokens if at <= elapsed]) for one in sent])


def _percentile(seconds: Sequence[float], percentile: float) -> float:
    return float(np.percentile(seconds, percentile)) * 1000 if len(seconds) else float("nan")
