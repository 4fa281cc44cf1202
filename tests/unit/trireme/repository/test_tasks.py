from __future__ import annotations

from pathlib import Path

import pytest
from trireme.errors import NotFoundError
from trireme.repository.folders import ModelRepository
from trireme.repository.tasks import TIERS, find_task, find_tasks
from trireme_backends.routing.route import AUTO
from trireme_client import InvalidRequestError
from trireme_client.tasks import route_parameters


def add(repository: Path, name: str, head: str, **parameters: str) -> None:
    lines = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in parameters.items()
    )
    (repository / name).mkdir()
    (repository / name / "config.pbtxt").write_text(f"{head}\n{lines}")


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    for tier in ("premium", "economy", "standard"):
        add(tmp_path, f"sentiment_{tier}", 'platform: "ensemble"', task="text_classification", tier=tier)
    add(tmp_path, "sentiment_economy__canary", 'platform: "ensemble"', task="text_classification", tier="economy")
    add(tmp_path, "sentiment_economy_encoder", 'backend: "text_encoder"')
    return ModelRepository(tmp_path)


def test_variants_are_found_by_parameters_from_the_cheapest_without_canaries(repository: ModelRepository) -> None:
    (task,) = find_tasks(repository)
    assert [variant.model for variant in task.variants] == [f"sentiment_{tier}" for tier in TIERS]


def test_task_is_found_by_its_name_and_its_variant_family(repository: ModelRepository) -> None:
    tasks = find_tasks(repository)
    assert find_task(tasks, "sentiment") is find_task(tasks, "text_classification") is tasks[0]
    assert find_task(tasks, "sentiment_premium") is None


def test_tier_chooses_the_variant_and_an_unknown_tier_lists_the_known_ones(repository: ModelRepository) -> None:
    (task,) = find_tasks(repository)
    assert (task.model(None), task.model("premium")) == ("sentiment_standard", "sentiment_premium")
    with pytest.raises(NotFoundError, match="available: economy, premium, standard"):
        task.model("auto")


def test_router_named_like_the_task_takes_precedence(repository: ModelRepository) -> None:
    add(repository.path, "text_classification", 'backend: "router"', task="text_classification")
    (task,) = find_tasks(repository)
    assert (task.model(None), task.model("premium")) == ("text_classification", "text_classification")


def test_the_client_accepts_the_tiers_of_routes() -> None:
    with pytest.raises(InvalidRequestError, match=f"one of {', '.join([*TIERS, AUTO])}$"):
        route_parameters("cheap", None, {})
