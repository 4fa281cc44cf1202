"""Generation: the tensors of Triton's LLM contract (the vLLM backend's, and ``messages``), and what a route says.

A route is asked which variant to stream from, told afterwards how that went, and asked again where the variant failed
before its first token.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trireme_client.errors import (
    ClientError,
    DeadlineError,
    InvalidInputError,
    InvalidRequestError,
    LateError,
    ModelDiedError,
    ModelNotFoundError,
    OverloadedError,
    ServerFaultError,
    UnavailableError,
    UnsupportedError,
)
from trireme_client.request import Parameter
from trireme_client.results import InferResult
from trireme_client.spec import ModelSpec, Pin

if TYPE_CHECKING:
    from trireme_client.call import Call
    from trireme_client.client import AsyncTriremeClient

# Requests that begin alike go to the replica that has the beginning in its cache. Longer, and prompts that differ
# behind a common system prompt would part; shorter, and all of an application would crowd on one replica.
PREFIX_CHARACTERS = 256
_REPORT_DEADLINE_MS = 1000.0

log = logging.getLogger("trireme_client")
_ALWAYS_WANTED = (
    "exclude_input_in_output",
    "return_finish_reason",
    "return_num_input_tokens",
    "return_num_output_tokens",
)


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of a generated text.

    Attributes:
        text: what this piece adds.
        finish_reason: on the last piece why it is the last ("stop", "length", ...); None before, and where the model
            does not tell.
        num_input_tokens: of the prompt; None where the model does not tell.
        num_output_tokens: of this piece; None where the model does not tell.
        logprobs: of this piece's tokens, as the engine gives them; None unless ``sampling_parameters`` asks for them.
        model, version: which answers: of a route the variant it chose.
        reason: why the route chose it, JSON; "called by name" without a route.
    """

    text: str
    finish_reason: str | None
    num_input_tokens: int | None
    num_output_tokens: int | None
    logprobs: Any
    model: str
    version: str
    request_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be continued: a text, or the messages of a chat that the engine's own template makes a text of.

    Attributes:
        sampling_parameters: by vLLM's names, e.g. ``{"max_tokens": 64, "temperature": 0}``.
        stream: piece by piece, or all of it in one.
    """

    text: str | None
    messages: Sequence[Mapping[str, Any]] | None
    sampling_parameters: Mapping[str, Any]
    stream: bool

    def __post_init__(self) -> None:
        if (self.text is None) == (self.messages is None):
            raise InvalidRequestError("generate needs either text or messages")
        if self.text is not None and not isinstance(self.text, str):
            raise InvalidInputError("text_input", f"is {self.text!r}; expected str")

    @property
    def written(self) -> str:
        """The prompt as one text, before any template."""
        return self.text if self.text is not None else _json("messages", self.messages)

    def prefix_key(self) -> str:
        """The same for prompts that begin alike."""
        beginning = self.written[:PREFIX_CHARACTERS].encode(errors="surrogatepass")
        return hashlib.blake2b(beginning, digest_size=8).hexdigest()

    def inputs(self, spec: ModelSpec) -> dict[str, object]:
        """The tensors, as far as the model has them.

        Raises:
            InvalidInputError: it takes no messages, or no sampling parameters.
        """
        inputs: dict[str, object] = {"text_input" if self.messages is None else "messages": self.written}
        if self.sampling_parameters:
            inputs["sampling_parameters"] = _json("sampling_parameters", self.sampling_parameters)
        wanted = {name: np.bool_(True) for name in _ALWAYS_WANTED}
        wanted["stream"] = np.bool_(self.stream)
        wanted["return_logprobs"] = np.bool_(self.sampling_parameters.get("logprobs") is not None)
        return inputs | {name: value for name, value in wanted.items() if name in spec.inputs}


def _json(name: str, value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(name, f"cannot be written as JSON: {error}") from None


def _read_chunk(result: InferResult, model: str, version: str, reason: str) -> GenerationChunk:
    """Read one answer of a model of the contract."""
    finish_reason = _text(result, "finish_reason")
    logprobs = _text(result, "logprobs")
    return GenerationChunk(
        text=_text(result, "text_output"),
        # The vLLM backend writes Python's None while there is none.
        finish_reason=None if finish_reason in ("", "None") else finish_reason,
        num_input_tokens=_number(result, "num_input_tokens"),
        num_output_tokens=_number(result, "num_output_tokens"),
        logprobs=json.loads(logprobs) if logprobs else None,
        model=model,
        version=version,
        request_id=result.request_id,
        reason=reason,
    )


def _text(result: InferResult, output: str) -> str:
    if output not in result.outputs:
        return ""
    return b"".join(result[output].reshape(-1).tolist()).decode(errors="replace")


def _number(result: InferResult, output: str) -> int | None:
    return int(result[output].sum()) if output in result.outputs else None


class GenerationCall:
    """One call of ``generate``: streams from the model, or from the variant that a route names."""

    def __init__(
        self,
        client: AsyncTriremeClient,
        call: Call,
        prompt: Prompt,
        parameters: Mapping[str, Parameter],
        headers: Mapping[str, str] | None,
    ) -> None:
        self._client, self._call, self._prompt = client, call, prompt
        self._parameters, self._headers = parameters, headers
        self._tried: dict[str, str] = {}
        self._error: ClientError | None = None

    async def chunks(self) -> AsyncGenerator[GenerationChunk, None]:
        """All pieces. Raises ``ClientError``."""
        call = self._call
        spec = await self._client.spec(call.model, version=call.version, deadline_ms=self._left_ms())
        if not _is_route(spec):
            async with aclosing(self._results(call.model, call.version, self._parameters)) as results:
                async for result in results:
                    yield _read_chunk(result, call.model, result.version, "called by name")
            return
        while True:
            decision, pace = await self._decide(), Pace()
            try:
                async with aclosing(self._stream(decision, pace)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except ClientError as error:
                pace.fault = _fault_of(error)
                if not self._may_leave(decision.variant, error, pace):
                    raise
            finally:
                # Of a variant that was left the next question tells.
                if decision.variant not in self._tried:
                    await self._report(decision.variant, pace)

    async def _stream(self, decision: Decision, pace: Pace) -> AsyncGenerator[GenerationChunk, None]:
        asked_at = time.monotonic()
        streamed = self._results(
            decision.variant, "", {}, stream_from=decision.stream_from, first_within_ms=decision.leave_after_ms
        )
        async with aclosing(streamed) as results:
            async for result in results:
                chunk = _read_chunk(result, decision.variant, decision.version, decision.reason)
                pace.came(chunk, time.monotonic() - asked_at)
                yield chunk
                asked_at = time.monotonic()

    async def _results(
        self,
        model: str,
        version: str,
        parameters: Mapping[str, Parameter],
        *,
        stream_from: Pin | None = None,
        first_within_ms: float | None = None,
    ) -> AsyncGenerator[InferResult, None]:
        """Answers of a model; of an ensemble that is pinned to an engine those of the engine itself.

        Tritonserver does not hand a cancellation on to the steps of an ensemble: the engine would write to the end for
        nobody. Where the route did not name the engine (``stream_from``), the pin is read from the server's
        configuration each time, as a release may move it at any time.
        """
        spec = None
        if stream_from is None:
            spec = await self._spec(model, version, current=True)
            stream_from = spec.pin
        places = [(stream_from.model, stream_from.version)] if stream_from else []
        for place, place_version in [*places, (model, version)]:
            begun = False
            try:
                inputs = self._prompt.inputs(spec or await self._spec(place, place_version))
                results = self._client.stream(
                    place, inputs, version=place_version, parameters=parameters, deadline_ms=self._left_ms(),
                    headers=self._headers, request_id=self._call.request_id, affinity_key=self._call.affinity_key,
                    first_within_ms=first_within_ms,
                )  # fmt: skip
                async with aclosing(results):
                    async for result in results:
                        begun = True
                        yield result
                return
            except ModelNotFoundError:
                # During a release the replica that was asked may have another pin than the one that answers.
                if begun or place == model:
                    raise

    async def _spec(self, model: str, version: str, *, current: bool = False) -> ModelSpec:
        return await self._client.spec(
            model, version=version, deadline_ms=self._left_ms(), affinity_key=self._call.affinity_key, current=current
        )

    async def _decide(self) -> Decision:
        tried = ",".join(f"{variant}:{fault}" for variant, fault in self._tried.items())
        try:
            result = await self._ask_route({**self._parameters, **({"tried": tried} if tried else {})}, self._left_ms())
        except (UnavailableError, InvalidRequestError, ServerFaultError) as error:
            # That there is no other variant, or none within the limits, explains less than why the first one failed.
            raise self._error or error from None
        variant, version, reason = (_text(result, output) for output in ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON"))
        details = json.loads(reason)
        stream_from = Pin(**details["stream_from"]) if "stream_from" in details else None
        return Decision(variant, version, reason, stream_from, details.get("leave_after_ms"))

    def _may_leave(self, variant: str, error: ClientError, pace: Pace) -> bool:
        """Whether another variant may do what this one failed on before its first token."""
        # A deadline is over for every variant.
        if pace.ttft_s is not None or not pace.fault or variant in self._tried or isinstance(error, DeadlineError):
            return False
        self._tried[variant] = pace.fault
        if isinstance(error, ModelNotFoundError):
            # The caller named the route, and it is there.
            error = UnavailableError(f"the variant {variant} is not loaded", error.facts)
        # Why the variant failed that was chosen first explains more than what came of falling back.
        self._error = self._error or error
        return True

    async def _report(self, variant: str, pace: Pace) -> None:
        """Tell the route what was seen of a stream; that it cannot be told does no harm."""
        try:
            await self._ask_route({"report": json.dumps({"variant": variant, **pace.told()})}, _REPORT_DEADLINE_MS)
        except ClientError as error:
            log.debug("the route was not told: %s", error)

    async def _ask_route(self, parameters: Mapping[str, Parameter], deadline_ms: float) -> InferResult:
        call = self._call
        return await self._client.infer(
            call.model, {"PROMPT_CHARACTERS": [len(self._prompt.written)]}, version=call.version,
            parameters=parameters, deadline_ms=deadline_ms, headers=self._headers, request_id=call.request_id,
            affinity_key=call.affinity_key,
        )  # fmt: skip

    def _left_ms(self) -> float:
        if (left_ms := self._call.remaining_s() * 1000) < 1:
            raise self._call.deadline_error()
        return left_ms


@dataclass(frozen=True, slots=True)
class Decision:
    """Where to stream from.

    Attributes:
        version: that the variant is pinned to. reason: the route's, JSON.
        stream_from: the model to ask in place of the variant; None where the route names none.
        leave_after_ms: without a token by then another variant is asked; None: there is no other.
    """

    variant: str
    version: str
    reason: str
    stream_from: Pin | None
    leave_after_ms: float | None


def _is_route(spec: ModelSpec) -> bool:
    return not spec.decoupled and "VARIANT" in spec.outputs


def _fault_of(error: ClientError) -> str:
    """A failure in the route's words; "": the request would fail anywhere."""
    return next((fault for kind, fault in _FAULTS if isinstance(error, kind)), "")


# The first that fits.
_FAULTS = (
    (DeadlineError, "late"), (LateError, "late"), (OverloadedError, "overloaded"), (UnavailableError, "unhealthy"),
    (ModelNotFoundError, "not_ready"), (UnsupportedError, "unsupported"), (ModelDiedError, "unhealthy"),
    (ServerFaultError, "error"),
)  # fmt: skip


@dataclass(slots=True)
class Pace:
    """How fast a stream came. Time that the reader took for itself is not counted.

    Attributes:
        waited_s: from the request to the first piece; then between the pieces.
    """

    ttft_s: float | None = None
    waited_s: float = 0.0
    tokens: int = 0
    fault: str = ""

    def came(self, chunk: GenerationChunk, waited_s: float) -> None:
        if self.ttft_s is None:
            self.ttft_s = waited_s
        else:
            self.waited_s += waited_s
            self.tokens += 1 if chunk.num_output_tokens is None else chunk.num_output_tokens

    def told(self) -> dict[str, object]:
        """What of it goes into a report."""
        told: dict[str, object] = {}
        if self.ttft_s is not None:
            told["ttft_ms"] = round(self.ttft_s * 1000, 2)
        if self.tokens:
            told["ms_per_token"] = round(self.waited_s * 1000 / self.tokens, 2)
        if self.fault:
            told["fault"] = self.fault
        return told
