"""Ready means: right answers to the golden samples, not that a port is open."""

from __future__ import annotations

from collections.abc import Iterable

from trireme.errors import ServerError
from trireme.golden import GoldenSample
from trireme.triton_client import TritonClient


def prove(
    client: TritonClient, model: str, samples: Iterable[GoldenSample], deadline_seconds: float
) -> tuple[str, ...]:
    """Replay golden samples on a server; what is wrong with the answers, a sentence each.

    Args:
        deadline_seconds: for each sample.
    """
    problems: list[str] = []
    for sample in samples:
        try:
            answer = client.infer(model, sample.inputs, deadline_seconds, sample.parameters)
        except ServerError as error:
            problems.append(f"{sample.case}: {error}")
            continue
        problems += sample.differences(answer.outputs)
    return tuple(problems)
