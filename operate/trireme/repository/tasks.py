"""Tasks and their variants, from the ``parameters`` of the model configurations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trireme_backends.routing.route import Tier

from trireme.errors import ConfigError, NotFoundError
from trireme.repository.folders import ModelRepository
from trireme.repository.model_config import ModelConfig, load_model_config

TIERS = tuple(tier.value for tier in Tier)
DEFAULT_TIER = Tier.STANDARD.value


@dataclass(frozen=True, slots=True)
class Variant:
    """An ensemble that serves a task at a cost tier."""

    model: str
    tier: str

    @property
    def family(self) -> str:
        """The name without the tier: ``sentiment`` for ``sentiment_premium``."""
        return self.model.removesuffix(f"_{self.tier}")


@dataclass(frozen=True, slots=True)
class Task:
    """A task and the models that serve it.

    Attributes:
        variants: from the cheapest to the most expensive tier.
        router: the router model, named like the task; None without a router.
    """

    name: str
    variants: Sequence[Variant]
    router: str | None

    def model(self, tier: str | None) -> str:
        """The model to call: the router, which chooses by the tier, or the variant of the tier.

        Raises:
            NotFoundError: no variant has this tier.
        """
        if self.router:
            return self.router
        for variant in self.variants:
            if variant.tier == (tier or DEFAULT_TIER):
                return variant.model
        raise NotFoundError(f"tier of {self.name}", tier or DEFAULT_TIER, (variant.tier for variant in self.variants))


def find_tasks(repository: ModelRepository) -> list[Task]:
    """Every task, sorted by name. Models with an invalid configuration are skipped: lint reports them."""
    variants: dict[str, list[Variant]] = {}
    routers: set[str] = set()
    for folder in repository.models():
        try:
            config = load_model_config(folder.config_path)
        except ConfigError:
            continue
        task = config.parameters.get("task")
        if task and config.backend == "router":
            routers.add(folder.name)
        elif task and _is_variant(config):
            variants.setdefault(task, []).append(Variant(folder.name, config.parameters["tier"]))
    return [
        Task(name, sorted(members, key=lambda variant: TIERS.index(variant.tier)), name if name in routers else None)
        for name, members in sorted(variants.items())
    ]


def _is_variant(config: ModelConfig) -> bool:
    # A canary has the tier of its variant and is called through it.
    return config.is_ensemble and config.parameters.get("tier") in TIERS and "__" not in config.name


def is_language_model(repository: ModelRepository, model: str) -> bool:
    """True if ``model`` generates text, or is the router of a task that does."""
    task = next((task for task in find_tasks(repository) if task.router == model), None)
    variant = task.variants[0].model if task else model
    config = load_model_config(repository.model(variant).config_path)
    return "messages" in {tensor.name for tensor in config.inputs}


def find_task(tasks: Sequence[Task], name: str) -> Task | None:
    """The task with this name or variant family: ``sentiment`` finds ``text_classification``."""
    return next((task for task in tasks if name in (task.name, *(variant.family for variant in task.variants))), None)
