"""Which models callers may name: tasks and their variants, not the steps they are made of."""

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
    """One model of the list.

    Attributes:
        task: what it does. tier: of a variant; "" of a task's route, which chooses one.
    """

    name: str
    task: str
    tier: str


class Catalogue:
    """The models of a Triton, asked for when somebody wants to know."""

    def __init__(self, client: AsyncTriremeClient) -> None:
        self._client = client
        self._models: tuple[PublicModel, ...] = ()
        self._asked_at = -_FRESH_SECONDS

    async def models(self) -> tuple[PublicModel, ...]:
        """All public models, by name.

        Raises:
            ClientError: Triton cannot be asked.
        """
        if time.monotonic() - self._asked_at > _FRESH_SECONDS:
            found = []
            for name in await self._client.models():
                try:
                    model = _public(await self._client.spec(name))
                except ModelNotFoundError:
                    continue  # unloaded meanwhile
                if model is not None:
                    found.append(model)
            self._models, self._asked_at = tuple(found), time.monotonic()
        return self._models

    async def find(self, name: str, task: str) -> ModelSpec:
        """The model that a request names.

        Raises:
            ApiError: 404, there is none of that name; 400, it does something else.
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
            known = ", ".join(await self._names(task)) or "none is loaded"
            raise invalid("model", f"{name} does not do {task}; what does: {known}", code="model_mismatch")
        return spec

    async def _names(self, task: str) -> tuple[str, ...]:
        try:
            return tuple(model.name for model in await self.models() if model.task == task)
        except ClientError as error:
            raise from_client_error(error) from error


def _public(spec: ModelSpec) -> PublicModel | None:
    task, tier = spec.parameters.get("task", ""), spec.parameters.get("tier", "")
    # A route decides for its task; a variant has a tier, and its steps have neither.
    if not task or spec.name.endswith(_CANARY):
        return None
    return PublicModel(spec.name, task, tier)
