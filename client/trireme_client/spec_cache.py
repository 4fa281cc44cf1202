"""The specs of models, each requested from the server once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from trireme_client._protos import pb
from trireme_client.call import Call
from trireme_client.errors import InvalidRequestError
from trireme_client.sender import RequestSender
from trireme_client.spec import ModelSpec
from trireme_client.transport import Runtime

T = TypeVar("T")

# A spec older than this is fetched again before a request is rejected because of it.
_FRESH_SPEC_SECONDS = 1.0


class SpecCache:
    """Specs by model and version, with their fetch time."""

    def __init__(self, sender: RequestSender, runtime: Runtime) -> None:
        self._sender, self._runtime = sender, runtime
        self._specs: dict[tuple[str, str], tuple[ModelSpec, float]] = {}
        self._fetching: dict[tuple[str, str], Future[None]] = {}

    async def spec(self, call: Call) -> ModelSpec:
        """The spec of the call's model."""
        return (await self._entry(call))[0]

    async def fetch(self, call: Call) -> ModelSpec:
        """Request the spec of the call's model from the server again."""
        request = pb.ModelConfigRequest(name=call.model, version=call.version)
        spec = ModelSpec.from_config((await self._sender.call("ModelConfig", request, call)).config)
        self._specs[call.model, call.version] = spec, time.monotonic()
        return spec

    async def apply(self, call: Call, build: Callable[[ModelSpec], T]) -> T:
        """``build`` something from the spec; if an old spec makes it fail, try a fresh one: the model may be new."""
        spec, fetched_at = await self._entry(call)
        try:
            try:
                return build(spec)
            except InvalidRequestError:
                if time.monotonic() - fetched_at < _FRESH_SPEC_SECONDS:
                    raise
            self.invalidate(call.model)
            return build(await self.spec(call))
        except InvalidRequestError as error:
            error.add_facts(call.facts())
            raise

    def invalidate(self, model: str) -> None:
        """Fetch the spec again at the next call of the model."""
        self._specs = {key: value for key, value in self._specs.items() if key[0] != model}

    async def _entry(self, call: Call) -> tuple[ModelSpec, float]:
        """The cached spec, or a fetched one; one of several concurrent calls fetches it and the others wait."""
        key = call.model, call.version
        if (entry := self._specs.get(key)) is not None:
            return entry
        own = Future[None]()
        fetching = self._fetching.setdefault(key, own)
        try:
            if fetching is not own:
                await self._runtime.wait_for_any([fetching], call.remaining_s())
            # Still missing if the fetch failed: then each call fetches for itself, with its own deadline and error.
            return self._specs.get(key) or (await self.fetch(call), time.monotonic())
        finally:
            if fetching is own:
                del self._fetching[key]
                own.set_result(None)
