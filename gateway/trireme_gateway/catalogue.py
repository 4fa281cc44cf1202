"""The models that callers may name: tasks and their variants, without the variants' steps."""

from __future__ import annotations

import time
from dataclasses import dataclass

from trireme_client import AsyncTriremeClient, ClientError, ModelNotFoundError, ModelSpec

from trireme_gateway.errors import from_client_error, invalid, model_not_found

EMBEDDING, GENERATION = "text_embedding", "text_generation"
_FRESH_SECONDS = 5.0
_CANARY = "__canary"


@dataclass(frozen=True, slots=True)
class PublicModel:
    """One model in the list.

    Attributes:
        task: the task that it does.
        tier: the variant's tier; "" for a route, which chooses the variant.
    """

    name: str
    task: str
    tier: str


class Catalogue:
    """The public models of a Triton, cached for a few seconds."""

    def __init__(self, client: AsyncTriremeClient) -> None:
        self._client = client
        self._models: tuple[PublicModel, ...] = ()
        self._read_at = -_FRESH_SECONDS

    async def models(self) -> tuple[PublicModel, ...]:
        """All public models, by name.

        Raises:
            ClientError: Triton cannot be reached.
        """
        if time.monotonic() - self._read_at > _FRESH_SECONDS:
            found = []
            for name in await self._client.models():
                try:
                    model = _public(await self._client.spec(name))
                except ModelNotFoundError:
                    continue  # unloaded in the meantime
                if model is not None:
                    found.append(model)
            self._models, self._read_at = tuple(found), time.monotonic()
        return self._models

    async def find(self, name: str, task: str) -> ModelSpec:
        """Return the spec of the requested model.

        Raises:
            ApiError: 404, the model does not exist; 400, it does another task.
        """
        try:
            spec = await self._client.spec(name)
            if _public(spec) is None:
                raise model_not_found(name, await self._names(task))
        except ModelNotFoundError:
            raise model_not_found(name, await self._names(task)) from None
        except ClientError as error:
            raise from_client_error(error) from error
        if spec.parameters.get("task") != task:
            known = ", ".join(await self._names(task)) or "none"
            raise invalid("model", f"{name} is not a model for {task}; available: {known}", code="model_mismatch")
        return spec

    async def _names(self, task: str) -> tuple[str, ...]:
        try:
            return tuple(model.name for model in await self.models() if model.task == task)
        except ClientError as error:
            raise from_client_error(error) from error


def _public(spec: ModelSpec) -> PublicModel | None:
    task, tier = spec.parameters.get("task", ""), spec.parameters.get("tier", "")
    # Routes and variants name their task in the parameters; steps do not.
    if not task or spec.name.endswith(_CANARY):
        return None
    return PublicModel(spec.name, task, tier)
