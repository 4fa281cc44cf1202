"""Asks every variant and every router what golden samples ask, and compares the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trireme.errors import ServerError
from trireme.golden import GoldenSample, load_golden
from trireme.questions import TextAnswer, describe, describe_outputs
from trireme.repository import ModelFolder, ModelRepository
from trireme.triton_client import TritonClient
from trireme.variants import Task

_DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One question and what became of it.

    Attributes:
        asked: the model asked, with the tier that a router was told.
        expected: the right answer in short.
        answer: None where there was none.
        problems: what is wrong; empty where the answer is right.
    """

    asked: str
    question: str
    expected: str
    answer: TextAnswer | None
    problems: Sequence[str]


def demonstrate(client: TritonClient, repository: ModelRepository, task: Task) -> Iterator[Demonstration]:
    """Ask each variant of ``task`` by its name, then its router, without a tier and with each."""
    golden = {variant.model: _texts_asked(repository.model(variant.model)) for variant in task.variants}
    for variant in task.variants:
        if not golden[variant.model]:
            yield Demonstration(variant.model, "", "", None, ("no golden sample of it asks one text",))
        for text in golden[variant.model]:
            yield _ask(client, variant.model, None, text, golden)
    if task.router:
        for tier in (None, *(variant.tier for variant in task.variants)):
            for text in golden[task.variants[0].model]:
                yield _ask(client, task.router, tier, text, golden)


def _texts_asked(folder: ModelFolder) -> dict[bytes, GoldenSample]:
    """The golden samples that ask a single text that is worth showing, by that text."""
    asked = {}
    for sample in load_golden(folder):
        texts = sample.inputs["TEXT"].reshape(-1)
        if len(texts) == 1 and texts[0]:
            asked[texts[0]] = sample
    return asked


def _ask(
    client: TritonClient,
    model: str,
    tier: str | None,
    text: bytes,
    golden: Mapping[str, Mapping[bytes, GoldenSample]],
) -> Demonstration:
    asked = f"{model}, {tier}" if tier else model
    question = text.decode(errors="replace")
    sample = golden[model][text] if model in golden else None
    inputs = (sample or next(iter(golden.values()))[text]).inputs
    try:
        answer = client.infer(model, inputs, _DEADLINE_SECONDS, {"tier": tier} if tier else {})
    except ServerError as error:
        return Demonstration(asked, question, describe_outputs(sample.outputs) if sample else "", None, (str(error),))
    told = describe(answer)
    # A router's answer is right if it is that of the variant that it names.
    sample = sample or golden.get(told.variant, {}).get(text)
    if sample is None:
        return Demonstration(
            asked, question, "", told, (f"it names {told.variant!r}, which is no variant of the task",)
        )
    return Demonstration(asked, question, describe_outputs(sample.outputs), told, sample.differences(answer.outputs))
