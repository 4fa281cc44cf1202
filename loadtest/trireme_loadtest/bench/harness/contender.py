"""Contenders and their measurements."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import click


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the job, under one condition.

    Attributes:
        name: of what is measured ("embedding_premium").
        case: the condition ("concurrency 8").
        repeat: one repetition; returns metric values by name, the unit in the name ("p50_ms").
    """

    name: str
    case: str
    repeat: Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The repetitions of one contender.

    Attributes:
        values: by metric, one value per repetition, in order.
    """

    name: str
    case: str
    values: Mapping[str, tuple[float, ...]]

    def median(self, metric: str) -> float:
        return statistics.median(self.values[metric])

    def with_ratio(self, metric: str, *, to: Measurement, name: str) -> Measurement:
        """Add a metric, ``name``: this contender's ``metric`` divided by that of ``to``.

        The ratio is computed within each repetition, so that a drift of the machine cancels out.
        """
        ratios = tuple(own / base for own, base in zip(self.values[metric], to.values[metric], strict=True))
        return replace(self, values={**self.values, name: ratios})


def interleave(contenders: Sequence[Contender], repetitions: int) -> list[Measurement]:
    """Measure every contender once per round, so that a slow minute of the machine affects all of them.

    Every other round runs in reverse order: no contender always follows the same neighbour. Progress goes to stderr.
    An exception of a contender ends the benchmark: half a table is not a comparison.
    """
    measured: list[list[Mapping[str, float]]] = [[] for _ in contenders]
    for repetition in range(repetitions):
        order: Iterable[int] = range(len(contenders)) if repetition % 2 == 0 else reversed(range(len(contenders)))
        for index in order:
            contender = contenders[index]
            values = contender.repeat()
            measured[index].append(values)
            first, value = next(iter(values.items()))
            place = f"{contender.name}, {contender.case}" if contender.case else contender.name
            click.echo(f"  [{repetition + 1}/{repetitions}] {place}: {first} {value:.4g}", err=True)
    return [
        Measurement(
            contender.name,
            contender.case,
            {metric: tuple(values[metric] for values in rounds) for metric in rounds[0]},
        )
        for contender, rounds in zip(contenders, measured, strict=True)
    ]
