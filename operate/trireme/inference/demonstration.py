"""Sends the golden samples to every variant and router, and compares the responses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from trireme_client import ClientError, Endpoint, GenerationChunk, OperatorClient, TriremeClient

from trireme.inference.text_request import TextResponse, describe, describe_outputs
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.repository.golden import GoldenSample, load_golden
from trireme.repository.model_config import load_model_config
from trireme.repository.tasks import Task

_DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One request and its result.

    Attributes:
        target: the model called, and the tier for a router.
        text: the input.
        expected: the expected response in short.
        response: None if the call failed.
        problems: what is wrong; empty if the response is correct.
    """

    target: str
    text: str
    expected: str
    response: TextResponse | None
    problems: Sequence[str]


@dataclass(frozen=True, slots=True)
class Chat:
    """A request to a language model; ``expected`` is the complete response text."""

    model: str
    messages: Sequence[Mapping[str, str]]
    sampling_parameters: Mapping[str, Any]
    expected: str

    @property
    def text(self) -> str:
        return self.messages[-1]["content"]

    def stream(self, grpc_address: str) -> Iterator[GenerationChunk]:
        """Send the request, and yield the response by chunks.

        Raises:
            ClientError: the request failed.
        """
        with TriremeClient(Endpoint(grpc_address, direct=True), deadline_ms=_DEADLINE_SECONDS * 1000) as client:
            yield from client.generate(self.model, messages=self.messages, sampling_parameters=self.sampling_parameters)


def chats(repository: ModelRepository, task: Task) -> list[Chat]:
    """The golden samples of a task's language models, sent to its router if it has one; empty for other tasks."""
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
    """Send the golden samples to each variant of ``task``, then to its router, without a tier and with each.

    Yields nothing for a task of language models: see ``chats``.
    """
    if chats(repository, task):
        return
    golden = {variant.model: _samples_by_text(repository.model(variant.model)) for variant in task.variants}
    for variant in task.variants:
        if not golden[variant.model]:
            yield Demonstration(variant.model, "", "", None, ("no golden sample has a single text",))
        for text in golden[variant.model]:
            yield _demonstrate(client, variant.model, None, text, golden)
    if task.router:
        for tier in (None, *(variant.tier for variant in task.variants)):
            for text in golden[task.variants[0].model]:
                yield _demonstrate(client, task.router, tier, text, golden)


def _samples_by_text(folder: ModelFolder) -> dict[bytes, GoldenSample]:
    """The golden samples with a single, non-empty text, by that text."""
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
    shown_text = text.decode(errors="replace")
    sample = golden[model][text] if model in golden else None
    inputs = (sample or next(iter(golden.values()))[text]).inputs
    try:
        response = client.infer(model, inputs, _DEADLINE_SECONDS, {"tier": tier} if tier else {})
    except ClientError as error:
        expected = describe_outputs(sample.outputs) if sample else ""
        return Demonstration(target, shown_text, expected, None, (str(error),))
    described = describe(response)
    # A router's response is correct if it is that of the variant that it names.
    sample = sample or golden.get(described.variant, {}).get(text)
    if sample is None:
        problem = f"it names {described.variant!r}, which is not a variant of the task"
        return Demonstration(target, shown_text, "", described, (problem,))
    return Demonstration(
        target, shown_text, describe_outputs(sample.outputs), described, sample.differences(response.outputs)
    )
