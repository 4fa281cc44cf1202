"""The asyncio client; ``blocking`` derives the blocking client from it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from types import TracebackType
from typing import Any

from trireme_client._protos import pb
from trireme_client.endpoint import Endpoint, Tls
from trireme_client.errors import ClientError, ClosedError
from trireme_client.generation import GenerationCall, GenerationChunk, Prompt
from trireme_client.policy import HealthPolicy, HedgePolicy, RetryPolicy
from trireme_client.request import NO_PARAMETERS, Outputs, Parameter, SequenceStep
from trireme_client.results import Classifications, Embeddings, InferResult
from trireme_client.runtime import AsyncioRuntime
from trireme_client.session import Session, SessionOptions
from trireme_client.shared_memory import SharedRegion
from trireme_client.spec import ModelSpec
from trireme_client.tasks import (
    CLASSIFY_MODEL,
    EMBED_MODEL,
    generation_parameters,
    read_classifications,
    read_embeddings,
    route_parameters,
    text_inputs,
)
from trireme_client.transport import Runtime, TransportOptions

Address = str | Endpoint
DEFAULT_DEADLINE_MS = 30_000.0
_COMPRESSIONS = (None, "gzip", "deflate")

log = logging.getLogger("trireme_client")


class AsyncTriremeClient:
    """Calls models on Triton from asyncio. Any number of tasks of one event loop may share a client.

    Args:
        address: ``host:port`` (gRPC), ``http://host:port``, an ``Endpoint`` with a zone, or several of these. A host
            name that resolves to several IPs is several replicas.
        deadline_ms: default deadline of a call.
        retry, hedge, health: policies for retries, hedging and probes; ``hedge=None`` never sends a request twice.
        zone: prefer replicas of this zone.
        tls: default: plain text, and for ``https://`` the system's certificate authorities.
        admin_key: for ``load_model``, ``unload_model`` and shared memory; sent with those calls only.
        headers: sent with every call.
        compression: "gzip" or "deflate", for requests.

    Example:
        >>> async with AsyncTriremeClient("127.0.0.1:8001") as client:
        ...     result = await client.embed(["a sentence"], deadline_ms=200)
    """

    def __init__(
        self,
        address: Address | Sequence[Address],
        *,
        deadline_ms: float = DEFAULT_DEADLINE_MS,
        retry: RetryPolicy | None = None,
        hedge: HedgePolicy | None = None,
        health: HealthPolicy | None = None,
        zone: str = "",
        tls: Tls | None = None,
        admin_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        compression: str | None = None,
    ) -> None:
        if compression not in _COMPRESSIONS:
            raise ValueError(f"compression is {compression!r}; it must be 'gzip', 'deflate' or None")
        addresses = [address] if isinstance(address, (str, Endpoint)) else list(address)
        if not addresses:
            raise ValueError("a client needs at least one address")
        options = SessionOptions(
            endpoints=tuple(one if isinstance(one, Endpoint) else Endpoint(one) for one in addresses),
            deadline_ms=deadline_ms,
            retry=retry or RetryPolicy(),
            hedge=hedge,
            health=health or HealthPolicy(),
            zone=zone,
            transport=TransportOptions(tls, compression),
            headers=tuple((key.lower(), value) for key, value in (headers or {}).items()),
            admin_key=admin_key,
        )
        self._session = Session(options, self._runtime())

    def _runtime(self) -> Runtime:
        return AsyncioRuntime()

    # -- any model -----------------------------------------------------------------------------------------------------

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, object],
        outputs: Outputs | None = None,
        *,
        version: int | str | None = None,
        parameters: Mapping[str, Parameter] = NO_PARAMETERS,
        deadline_ms: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
        sequence: SequenceStep | None = None,
        priority: int | None = None,
        affinity_key: str = "",
    ) -> InferResult:
        """Call a model once.

        Args:
            inputs: by name: arrays, Python values, or ``SharedTensor``. More rows than the model's ``max_batch_size``
                are sent in several requests, from asyncio up to four at once, and joined in order. An output whose rows
                then differ in shape is an array of dtype object with one array per row.
            outputs: names, or a mapping to ``SharedTensor`` for outputs to write there; None: all.
            version: None: the server's choice.
            parameters: passed to the model's ``execute`` with their types.
            deadline_ms: for the whole call: connecting, queueing, computing, retries.
            sequence: for a stateful model.
            priority: in the model's queue; 1 is the highest.
            affinity_key: calls with the same key go to the same replica unless it is overloaded; proxies receive it as
                the header ``x-trireme-prefix``.

        Raises:
            ClientError: see ``trireme_client.errors``.
        """
        call = self._session.start_call(model, version, deadline_ms, headers, request_id, sequence, affinity_key)
        return await self._session.infer(call, inputs, outputs, parameters, priority)

    async def stream(
        self,
        model: str,
        inputs: Mapping[str, object],
        outputs: Sequence[str] | None = None,
        *,
        version: int | str | None = None,
        parameters: Mapping[str, Parameter] = NO_PARAMETERS,
        deadline_ms: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
        sequence: SequenceStep | None = None,
        priority: int | None = None,
        affinity_key: str = "",
        first_within_ms: float | None = None,
    ) -> AsyncGenerator[InferResult, None]:
        """Call a model that sends any number of responses to a request; yields each response.

        Leaving the loop cancels the request on the server. Arguments as for ``infer``; the deadline limits the whole
        call, ``first_within_ms`` the time to the first response.

        Raises:
            ClientError: from the failing step; within 5 s if the server dies or freezes.
        """
        call = self._session.start_call(model, version, deadline_ms, headers, request_id, sequence, affinity_key)
        async with aclosing(
            self._session.stream(call, inputs, outputs, parameters, priority, first_within_ms)
        ) as results:
            async for result in results:
                yield result

    # -- tasks ---------------------------------------------------------------------------------------------------------

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        tier: str | None = None,
        max_latency_ms: float | None = None,
        model: str = EMBED_MODEL,
        version: int | str | None = None,
        parameters: Mapping[str, Parameter] = NO_PARAMETERS,
        deadline_ms: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> Embeddings:
        """Embed texts; returns one vector per text, in order.

        Args:
            tier: "economy", "standard", "premium" or "auto"; None: the route's default.
            max_latency_ms: the router takes the best variant that is expected to meet it.
            model: the task's router, or one variant.
            parameters: further parameters of the router (``min_quality``, ``max_cost``, ``sticky_key``).

        Raises:
            ClientError: as ``infer``.
        """
        inputs, parameters = text_inputs(texts), route_parameters(tier, max_latency_ms, parameters)
        call = self._session.start_call(model, version, deadline_ms, headers, request_id)
        return read_embeddings(await self._session.infer(call, inputs, parameters=parameters))

    async def classify(
        self,
        texts: str | Sequence[str],
        *,
        tier: str | None = None,
        max_latency_ms: float | None = None,
        model: str = CLASSIFY_MODEL,
        version: int | str | None = None,
        parameters: Mapping[str, Parameter] = NO_PARAMETERS,
        deadline_ms: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> Classifications:
        """Classify texts; returns one label per text, in order. Arguments as for ``embed``."""
        inputs, parameters = text_inputs(texts), route_parameters(tier, max_latency_ms, parameters)
        call = self._session.start_call(model, version, deadline_ms, headers, request_id)
        return read_classifications(await self._session.infer(call, inputs, parameters=parameters))

    async def generate(
        self,
        model: str,
        text: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        sampling_parameters: Mapping[str, Any] | None = None,
        stream: bool = True,
        tier: str | None = None,
        max_ttft_ms: float | None = None,
        max_ms_per_token: float | None = None,
        version: int | str | None = None,
        parameters: Mapping[str, Parameter] = NO_PARAMETERS,
        deadline_ms: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[GenerationChunk, None]:
        """Generate text and yield it chunk by chunk; leaving the loop, or closing it, ends the generation.

        Args:
            model: the task's route (``text_generation``), which chooses the variant, or one variant.
            text, messages: exactly one of them: a text to continue, or a chat as OpenAI's list of messages.
            sampling_parameters: by vLLM's names, e.g. ``{"max_tokens": 64, "temperature": 0}``.
            stream: False: the text comes in one chunk.
            tier, max_ttft_ms, max_ms_per_token: limits for the route: the price, the time to the first token, and the
                time of each later token.
            parameters: further ones of the route (``sticky_key``, ``on_sla_risk``, ``explain``), or of the variant.
            deadline_ms: for the whole call, to the last token.

        Raises:
            ClientError: as ``stream``. A failure on a route before the first token is first tried on another variant.
        """
        prompt = Prompt(text, messages, sampling_parameters or {}, stream)
        call = self._session.start_call(
            model, version, deadline_ms, headers, request_id, affinity_key=prompt.prefix_key()
        )
        parameters = generation_parameters(tier, max_ttft_ms, max_ms_per_token, parameters)
        async with aclosing(GenerationCall(self._session, call, prompt, parameters, headers).chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    # -- the server ----------------------------------------------------------------------------------------------------

    async def spec(
        self, model: str, *, version: int | str | None = None, deadline_ms: float | None = None
    ) -> ModelSpec:
        """The model's inputs, outputs and batch size; cached.

        Raises:
            ModelNotFoundError: the model does not exist; names the models that do.
        """
        return await self._session.spec(self._session.start_call(model, version, deadline_ms))

    async def is_ready(
        self, model: str = "", *, version: int | str | None = None, deadline_ms: float | None = None
    ) -> bool:
        """Whether the server, or a model on it, reports ready; False also if it cannot be reached."""
        call = self._session.start_call(model, version, deadline_ms)
        try:
            if model:
                request = pb.ModelReadyRequest(name=model, version=call.version)
                return bool((await self._session.call("ModelReady", request, call)).ready)
            return bool((await self._session.call("ServerReady", pb.ServerReadyRequest(), call)).ready)
        except ClosedError:
            raise
        except ClientError as error:
            log.debug("not ready: %s", error)
            return False

    async def models(self, *, deadline_ms: float | None = None) -> list[str]:
        """Names of the loaded models."""
        call = self._session.start_call(deadline_ms=deadline_ms)
        response = await self._session.call("ModelStatistics", pb.ModelStatisticsRequest(), call)
        return sorted({statistics.name for statistics in response.model_stats})

    async def load_model(self, model: str, *, deadline_ms: float | None = None) -> None:
        """Load a model, or what has changed of it, on every replica in turn.

        Raises:
            ServerFaultError: a replica failed to load it; later replicas were not called.
        """
        request = pb.RepositoryModelLoadRequest(model_name=model)
        await self._session.change_model(
            "RepositoryModelLoad", request, self._session.start_call(model, None, deadline_ms)
        )

    async def unload_model(self, model: str, *, deadline_ms: float | None = None) -> None:
        """Unload a model on every replica in turn; raises as ``load_model``."""
        request = pb.RepositoryModelUnloadRequest(model_name=model)
        await self._session.change_model(
            "RepositoryModelUnload", request, self._session.start_call(model, None, deadline_ms)
        )

    def shared_memory(self, byte_size: int) -> AbstractAsyncContextManager[SharedRegion]:
        """Memory shared with servers on this machine, for large tensors; released at the end of the block.

        It is registered with a server at the first call that uses it, with the admin key if the server needs one.

        Example:
            >>> async with client.shared_memory(1 << 20) as region:
            ...     x = region.put(array)
            ...     y = region.reserve((8, 384), "float32")
            ...     await client.infer("model", {"X": x}, outputs={"Y": y})
            ...     y.array.sum()
        """
        return self._session.shared_memory(byte_size)

    # -- the client itself ---------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Cancel pending calls and close all connections. A closed client cannot be reopened."""
        await self._session.close()

    async def __aenter__(self) -> AsyncTriremeClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
