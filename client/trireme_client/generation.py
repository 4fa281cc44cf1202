"""Generation: the tensors of Triton's LLM contract (the vLLM backend's, and ``messages``), and calls through routes.

A route chooses the variant to stream from, receives a report of the stream, and chooses again if the variant failed
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
from typing import Any

import numpy as np

from trireme_client.call import Call
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
from trireme_client.request import NO_PARAMETERS, Parameter
from trireme_client.results import InferResult
from trireme_client.session import Session
from trireme_client.spec import ModelSpec, Pin

# Requests with the same beginning go to the replica that has it in its cache. A longer key would separate prompts that
# differ after a common system prompt; a shorter one would send all requests of an application to one replica.
PREFIX_CHARACTERS = 256
_REPORT_DEADLINE_MS = 1000.0

log = logging.getLogger("trireme_client")
_ALWAYS_SET = (
    "exclude_input_in_output",
    "return_finish_reason",
    "return_num_input_tokens",
    "return_num_output_tokens",
)


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A chunk of generated text.

    Attributes:
        text: the text that this chunk adds.
        finish_reason: on the last chunk, why generation ended ("stop", "length", ...); None on earlier chunks, and if
            the model does not report it.
        num_input_tokens: of the prompt; None if the model does not report it.
        num_output_tokens: of this chunk; None if the model does not report it.
        logprobs: of this chunk's tokens, as the engine returns them; None unless ``sampling_parameters`` requests them.
        model, version: through a route, the variant it chose.
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
    """A text to continue, or the messages of a chat, to which the engine applies its own template.

    Attributes:
        sampling_parameters: by vLLM's names, e.g. ``{"max_tokens": 64, "temperature": 0}``.
        stream: chunk by chunk, or the whole text in one chunk.
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
    def raw_text(self) -> str:
        """The prompt as one string, before the template."""
        return self.text if self.text is not None else _json("messages", self.messages)

    def prefix_key(self) -> str:
        """A key that is equal for prompts with the same beginning."""
        beginning = self.raw_text[:PREFIX_CHARACTERS].encode(errors="surrogatepass")
        return hashlib.blake2b(beginning, digest_size=8).hexdigest()

    def inputs(self, spec: ModelSpec) -> dict[str, object]:
        """The tensors, limited to those the model has.

        Raises:
            InvalidInputError: a value is not JSON.
        """
        inputs: dict[str, object] = {"text_input" if self.messages is None else "messages": self.raw_text}
        if self.sampling_parameters:
            inputs["sampling_parameters"] = _json("sampling_parameters", self.sampling_parameters)
        flags = {name: np.bool_(True) for name in _ALWAYS_SET}
        flags["stream"] = np.bool_(self.stream)
        flags["return_logprobs"] = np.bool_(self.sampling_parameters.get("logprobs") is not None)
        return inputs | {name: value for name, value in flags.items() if name in spec.inputs}


def _json(name: str, value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(name, f"cannot be written as JSON: {error}") from None


def _read_chunk(result: InferResult, model: str, version: str, reason: str) -> GenerationChunk:
    """Read one result of a model that follows the contract."""
    finish_reason = _text(result, "finish_reason")
    logprobs = _text(result, "logprobs")
    return GenerationChunk(
        text=_text(result, "text_output"),
        # The vLLM backend writes Python's None if there is none.  language: allow
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
    """One call of ``generate``: streams from the model, or from the variant that a route chooses."""

    def __init__(
        self,
        session: Session,
        call: Call,
        prompt: Prompt,
        parameters: Mapping[str, Parameter],
        headers: Mapping[str, str] | None,
    ) -> None:
        self._session, self._call, self._prompt = session, call, prompt
        self._parameters, self._headers = parameters, headers
        self._tried: dict[str, str] = {}
        self._first_error: ClientError | None = None

    async def chunks(self) -> AsyncGenerator[GenerationChunk, None]:
        """All chunks. Raises ``ClientError``."""
        call = self._call
        spec = await self._session.spec(self._start_call(call.model, call.version))
        if not _is_route(spec):
            async with aclosing(self._results(call.model, call.version, self._parameters)) as results:
                async for result in results:
                    yield _read_chunk(result, call.model, result.version, "called by name")
            return
        while True:
            decision, metrics = await self._decide(), StreamMetrics()
            try:
                async with aclosing(self._stream(decision, metrics)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except ClientError as error:
                metrics.fault = _fault_of(error)
                if not self._fall_back(decision.variant, error, metrics):
                    raise
            finally:
                # The request for the next decision lists the variants already tried.
                if decision.variant not in self._tried:
                    await self._report(decision.variant, metrics)

    async def _stream(self, decision: RouteDecision, metrics: StreamMetrics) -> AsyncGenerator[GenerationChunk, None]:
        waiting_since = time.monotonic()
        results = self._results(
            decision.variant, "", NO_PARAMETERS, stream_from=decision.stream_from,
            first_within_ms=decision.fallback_after_ms,
        )  # fmt: skip
        async with aclosing(results):
            async for result in results:
                chunk = _read_chunk(result, decision.variant, decision.version, decision.reason)
                metrics.record(chunk, time.monotonic() - waiting_since)
                yield chunk
                waiting_since = time.monotonic()

    async def _results(
        self,
        model: str,
        version: str,
        parameters: Mapping[str, Parameter],
        *,
        stream_from: Pin | None = None,
        first_within_ms: float | None = None,
    ) -> AsyncGenerator[InferResult, None]:
        """Results of a model; for an ensemble that is pinned to an engine, those of the engine.

        Tritonserver does not forward a cancellation to the steps of an ensemble: the engine would generate to the end
        for nobody. If the route did not name the engine (``stream_from``), the pin is read from the server's
        configuration each time, since a release may move it at any time.
        """
        spec = None
        if stream_from is None:
            spec = await self._session.spec(self._start_call(model, version), refresh=True)
            stream_from = spec.pin
        targets = [(stream_from.model, stream_from.version)] if stream_from else []
        for target, target_version in [*targets, (model, version)]:
            started = False
            try:
                inputs = self._prompt.inputs(spec or await self._session.spec(self._start_call(target, target_version)))
                call = self._start_call(target, target_version)
                results = self._session.stream(call, inputs, parameters=parameters, first_within_ms=first_within_ms)
                async with aclosing(results):
                    async for result in results:
                        started = True
                        yield result
                return
            except ModelNotFoundError:
                # During a release the replica of this call may have another pin than the one that was read.
                if started or target == model:
                    raise

    async def _decide(self) -> RouteDecision:
        tried = ",".join(f"{variant}:{fault}" for variant, fault in self._tried.items())
        try:
            result = await self._call_route({**self._parameters, **({"tried": tried} if tried else {})})
        except (UnavailableError, InvalidRequestError, ServerFaultError) as error:
            # The first failure explains more than the lack of another variant, or of one within the limits.
            raise self._first_error or error from None
        variant, version, reason = (_text(result, output) for output in ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON"))
        details = json.loads(reason)
        stream_from = Pin(**details["stream_from"]) if "stream_from" in details else None
        return RouteDecision(variant, version, reason, stream_from, details.get("leave_after_ms"))

    def _fall_back(self, variant: str, error: ClientError, metrics: StreamMetrics) -> bool:
        """Mark a variant as failed; False: the error is final, as it is after the first token."""
        # Once the deadline has passed, no variant is left to try.
        if (
            metrics.ttft_s is not None
            or not metrics.fault
            or variant in self._tried
            or isinstance(error, DeadlineError)
        ):
            return False
        self._tried[variant] = metrics.fault
        if isinstance(error, ModelNotFoundError):
            # The caller named the route, and the route exists.
            error = UnavailableError(f"the variant {variant} is not loaded", error.facts)
        # The first variant's failure explains more than those of its fallbacks.
        self._first_error = self._first_error or error
        return True

    async def _report(self, variant: str, metrics: StreamMetrics) -> None:
        """Report a stream to the route; a lost report does no harm."""
        try:
            report = json.dumps({"variant": variant, **metrics.report()})
            await self._call_route({"report": report}, _REPORT_DEADLINE_MS)
        except ClientError as error:
            log.debug("the report did not reach the route: %s", error)

    async def _call_route(self, parameters: Mapping[str, Parameter], deadline_ms: float | None = None) -> InferResult:
        call = self._start_call(self._call.model, self._call.version, deadline_ms)
        inputs = {"PROMPT_CHARACTERS": [len(self._prompt.raw_text)]}
        return await self._session.infer(call, inputs, parameters=parameters)

    def _start_call(self, model: str, version: str, deadline_ms: float | None = None) -> Call:
        """Start a call within this one; ``deadline_ms`` None: all that is left of this call's deadline."""
        if deadline_ms is None and (deadline_ms := self._call.remaining_s() * 1000) < 1:
            raise self._call.deadline_error()
        return self._session.start_call(
            model, version, deadline_ms, self._headers, self._call.request_id, affinity_key=self._call.affinity_key
        )


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """The variant to stream from.

    Attributes:
        version: the version that the variant is pinned to.
        reason: the route's, JSON.
        stream_from: the model to call instead of the variant; None if the route names none.
        fallback_after_ms: time without a token after which another variant is tried; None if there is no other.
    """

    variant: str
    version: str
    reason: str
    stream_from: Pin | None
    fallback_after_ms: float | None


def _is_route(spec: ModelSpec) -> bool:
    return not spec.decoupled and "VARIANT" in spec.outputs


def _fault_of(error: ClientError) -> str:
    """The route's name for a failure; "" if the request would fail on any variant."""
    return next((fault for kind, fault in _FAULTS if isinstance(error, kind)), "")


# The first match applies.
_FAULTS = (
    (DeadlineError, "late"), (LateError, "late"), (OverloadedError, "overloaded"), (UnavailableError, "unhealthy"),
    (ModelNotFoundError, "not_ready"), (UnsupportedError, "unsupported"), (ModelDiedError, "unhealthy"),
    (ServerFaultError, "error"),
)  # fmt: skip


@dataclass(slots=True)
class StreamMetrics:
    """The speed of a stream, not counting time that the reader took.

    Attributes:
        ttft_s: from the request to the first chunk.
        waited_s: for all later chunks.
        tokens: in all later chunks.
    """

    ttft_s: float | None = None
    waited_s: float = 0.0
    tokens: int = 0
    fault: str = ""

    def record(self, chunk: GenerationChunk, waited_s: float) -> None:
        if self.ttft_s is None:
            self.ttft_s = waited_s
        else:
            self.waited_s += waited_s
            self.tokens += 1 if chunk.num_output_tokens is None else chunk.num_output_tokens

    def report(self) -> dict[str, object]:
        """The fields of a route's ``report`` parameter."""
        report: dict[str, object] = {}
        if self.ttft_s is not None:
            report["ttft_ms"] = round(self.ttft_s * 1000, 2)
        if self.tokens:
            report["ms_per_token"] = round(self.waited_s * 1000 / self.tokens, 2)
        if self.fault:
            report["fault"] = self.fault
        return report
