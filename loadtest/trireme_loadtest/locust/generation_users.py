"""Locust users of language models: stream responses and time each token.

``locust -f loadtest/locustfile_generation.py --models text_generation``; or import it into your own locustfile.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from locust import User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from trireme_client import ClientError, Endpoint, TriremeClient

from trireme_loadtest.generate.streams import Prompt, mixed_prompts
from trireme_loadtest.locust.users import GrpcFailure, status_of

_PROMPTS = 256
_SEED = 20
_TOKENS_OF_OWN_PROMPTS = 64


def _set_defaults(parser: LocustArgumentParser) -> None:
    parser.set_defaults(models="text_generation")


events.init_command_line_parser.add_listener(_set_defaults)  # type: ignore[no-untyped-call]


class GenerationUser(User):
    """Streams from a language model or its route, one request after the other.

    ``--models`` lists them, with weights; ``--inputs`` is a file of prompts, one per line; default: mixed lengths.
    """

    wait_time = constant(0)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        weighted = [one.partition("=") for one in options.models.split(",")]
        self._models = [model for model, _, _ in weighted]
        self._weights = [float(weight or 1) for _, _, weight in weighted]
        self._prompts = _prompts(options.inputs)

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self._client = TriremeClient(
            Endpoint(options.grpc_address, direct=True), deadline_ms=options.request_deadline * 1000
        )

    def on_stop(self) -> None:
        self._client.close()

    @task
    def generate(self) -> None:
        (model,) = random.choices(self._models, self._weights)
        prompt = random.choice(self._prompts)
        began, failure = time.perf_counter(), None
        arrivals: list[tuple[float, int]] = []
        try:
            sampling = {"max_tokens": prompt.tokens}
            for chunk in self._client.generate(model, prompt.text, sampling_parameters=sampling):
                arrivals.append(
                    (time.perf_counter(), 1 if chunk.num_output_tokens is None else chunk.num_output_tokens)
                )
        except ClientError as error:
            failure = GrpcFailure(status_of(error))
        self.environment.events.request.fire(
            request_type="stream",
            name=model,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=sum(tokens for _, tokens in arrivals),
            exception=failure,
            context=_timed(began, arrivals),
        )


def _timed(began: float, arrivals: list[tuple[float, int]]) -> dict[str, list[float]]:
    """Milliseconds to the first token, and to each later one; tokens of one chunk share its time."""
    if not arrivals:
        return {}
    gaps, before = [], arrivals[0][0]
    for at, tokens in arrivals[1:]:
        if tokens:
            gaps += [(at - before) * 1000 / tokens] * tokens
            before = at
    return {"ttft_ms": [(arrivals[0][0] - began) * 1000], "inter_token_ms": gaps}


def _prompts(inputs: str) -> list[Prompt]:
    if not inputs:
        return mixed_prompts(_PROMPTS, _SEED, _SEED)
    lines = Path(inputs).read_text(encoding="utf-8").splitlines()
    return [Prompt(line, _TOKENS_OF_OWN_PROMPTS) for line in lines if line.strip()]
