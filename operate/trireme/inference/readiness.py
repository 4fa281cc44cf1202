"""Ready means: right answers to the golden samples, not that a port is open."""

from __future__ import annotations

from collections.abc import Iterable

from trireme_client import ClientError, OperatorClient

from trireme.repository.golden import GoldenSample


def prove(
    client: OperatorClient, model: str, samples: Iterable[GoldenSample], deadline_seconds: float
) -> tuple[str, ...]:
    """Replay golden samples on a server; what is wrong with the answers, a sentence each.

    Args:
        deadline_seconds: for each sample.
    """
    problems: list[str] = []
    for sample in samples:
        try:
            answer = client.infer(model, sample.inputs, deadline_seconds, sample.parameters)
        except ClientError as error:
            problems.append(f"{sample.case}: {error}")
            continue
        problems += sample.differences(answer.outputs)
    return tuple(problems)
