"""Asks every variant and every router what golden samples ask, and compares the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from trireme_client import ClientError, Endpoint, GenerationChunk, OperatorClient, TriremeClient

from trireme.inference.text_request import TextAnswer, describe, describe_outputs
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.repository.golden import GoldenSample, load_golden
from trireme.repository.model_config import load_model_config
from trireme.repository.tasks import Task

_DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One question and what became of it.

    Attributes:
        target: the model called, with the tier that a router was given.
        expected: the right answer in short.
        answer: None where there was none.
        problems: what is wrong; empty where the answer is right.
    """

    target: str
    question: str
    expected: str
    answer: TextAnswer | None
    problems: Sequence[str]


@dataclass(frozen=True, slots=True)
class Chat:
    """A question to a language model. ``expected``: the whole of the right answer."""

    model: str
    messages: Sequence[Mapping[str, str]]
    sampling_parameters: Mapping[str, Any]
    expected: str

    @property
    def question(self) -> str:
        return self.messages[-1]["content"]

    def stream(self, grpc_address: str) -> Iterator[GenerationChunk]:
        """Ask it, and yield the answer piece by piece.

        Raises:
            ClientError: it did not answer.
        """
        with TriremeClient(Endpoint(grpc_address, direct=True), deadline_ms=_DEADLINE_SECONDS * 1000) as client:
            yield from client.generate(self.model, messages=self.messages, sampling_parameters=self.sampling_parameters)


def chats(repository: ModelRepository, task: Task) -> list[Chat]:
    """What the golden samples of a task's language models ask, of its router where it has one; none for other tasks."""
    found = []
    for variant in task.variants:
        folder = repository.model(variant.model)
        if not load_model_config(folder.config_path).is_decoupled:
            continue
        for sample in load_golden(folder):
            if "messages" in sample.inputs:
                messages, sampling = (json.loads(sample.inputs[n][0]) for n in ("messages", "sampling_parameters"))
                expected = sample.outputs["text_output"][0].decode()
                found.append(Chat(task.router or variant.model, messages, sampling, expected))
    return found


def demonstrate(client: OperatorClient, repository: ModelRepository, task: Task) -> Iterator[Demonstration]:
    """Ask each variant of ``task`` by its name, then its router, without a tier and with each.

    A task of language models is asked nothing: see ``chats``.
    """
    if chats(repository, task):
        return
    golden = {variant.model: _samples_by_text(repository.model(variant.model)) for variant in task.variants}
    for variant in task.variants:
        if not golden[variant.model]:
            yield Demonstration(variant.model, "", "", None, ("no golden sample of it asks one text",))
        for text in golden[variant.model]:
            yield _demonstrate(client, variant.model, None, text, golden)
    if task.router:
        for tier in (None, *(variant.tier for variant in task.variants)):
            for text in golden[task.variants[0].model]:
                yield _demonstrate(client, task.router, tier, text, golden)


def _samples_by_text(folder: ModelFolder) -> dict[bytes, GoldenSample]:
    """The golden samples that ask a single text that is worth showing, by that text."""
    samples = {}
    for sample in load_golden(folder):
        texts = sample.inputs.get("TEXT", np.array([])).reshape(-1)
        if len(texts) == 1 and texts[0]:
            samples[texts[0]] = sample
    return samples


def _demonstrate(
    client: OperatorClient,
    model: str,
    tier: str | None,
    text: bytes,
    golden: Mapping[str, Mapping[bytes, GoldenSample]],
) -> Demonstration:
    target = f"{model}, {tier}" if tier else model
    question = text.decode(errors="replace")
    sample = golden[model][text] if model in golden else None
    inputs = (sample or next(iter(golden.values()))[text]).inputs
    try:
        answer = client.infer(model, inputs, _DEADLINE_SECONDS, {"tier": tier} if tier else {})
    except ClientError as error:
        return Demonstration(target, question, describe_outputs(sample.outputs) if sample else "", None, (str(error),))
    text_answer = describe(answer)
    # A router's answer is right if it is that of the variant that it names.
    sample = sample or golden.get(text_answer.variant, {}).get(text)
    if sample is None:
        return Demonstration(
            target, question, "", text_answer, (f"it names {text_answer.variant!r}, which is no variant of the task",)
        )
    return Demonstration(
        target, question, describe_outputs(sample.outputs), text_answer, sample.differences(answer.outputs)
    )
