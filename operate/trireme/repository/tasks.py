"""Tasks and the variants that do them, as the repository's configurations name them in ``parameters``."""

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
    """An ensemble that does a task at a cost tier."""

    model: str
    tier: str

    @property
    def family(self) -> str:
        """What its name shares with the other variants of its task: ``sentiment`` of ``sentiment_premium``."""
        return self.model.removesuffix(f"_{self.tier}")


@dataclass(frozen=True, slots=True)
class Task:
    """What a caller wants.

    Attributes:
        variants: from the cheapest tier to the dearest.
        router: the model of the task's own name that chooses among them; None where there is none.
    """

    name: str
    variants: Sequence[Variant]
    router: str | None

    def model(self, tier: str | None) -> str:
        """The model to ask: the router, which is told the tier, or the variant of the tier.

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
    """Every task, by name. Models whose configuration does not parse are passed over: lint tells of them."""
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
        Task(name, sorted(found, key=lambda variant: TIERS.index(variant.tier)), name if name in routers else None)
        for name, found in sorted(variants.items())
    ]


def _is_variant(config: ModelConfig) -> bool:
    # A canary carries its variant's tier, and is reached through it.
    return config.is_ensemble and config.parameters.get("tier") in TIERS and "__" not in config.name


def is_language_model(repository: ModelRepository, model: str) -> bool:
    """Whether ``model`` generates text, or is the route of a task whose variants do."""
    task = next((task for task in find_tasks(repository) if task.router == model), None)
    asked = task.variants[0].model if task else model
    config = load_model_config(repository.model(asked).config_path)
    return "messages" in {tensor.name for tensor in config.inputs}


def find_task(tasks: Sequence[Task], name: str) -> Task | None:
    """The task called ``name``, or whose variants are: ``sentiment`` finds ``text_classification``."""
    return next((task for task in tasks if name in (task.name, *(variant.family for variant in task.variants))), None)
