"""What each verb does to the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trireme.errors import ConfigError, NotFoundError, TriremeError
from trireme.manifest import Manifest, record_files, write_manifest
from trireme.model_config import load_model_config
from trireme.release.pins import pins_of, read_pins, wanted_pins
from trireme.release.plans import plan_canary, plan_promote, plan_prune, plan_publish, plan_rollback, plan_shift
from trireme.release.step import InstallVersion, Reconfigure, World

from tests.unit.trireme.release.world import carry_out, make_engine, make_source, make_world, tree, worker


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def _publish(world: World, tmp_path: Path, version: str | None = None) -> None:
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_publish(world.repository, "worker", make_source(tmp_path), version))


def _pin(world: World, variant: str = "standard") -> int:
    return pins_of(load_model_config(world.folder(variant).config_path))["worker"]


def test_publish_keeps_the_pinned_version_loaded_and_moves_nobody(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    assert (worker(world).version_dir(2) / "model.py").read_text() == "2"
    assert load_model_config(worker(world).config_path).version_policy.selects([1, 2]) == [1, 2]
    assert _pin(world) == 1
    assert not list(world.repository.path.rglob(".*")), "a staged copy was left"


def test_the_versions_that_serve_are_held_before_a_new_folder_appears(world: World, tmp_path: Path) -> None:
    # "The latest one", the policy where a config names none, would drop the pinned version for the new folder.
    steps = plan_publish(world.repository, "worker", make_source(tmp_path)).steps
    hold, install, keep = steps[2:]
    assert isinstance(hold, Reconfigure)
    assert "versions: [ 1 ]" in hold.after
    assert isinstance(install, InstallVersion)
    assert isinstance(keep, Reconfigure)
    assert keep.before == hold.after


@pytest.mark.parametrize("version", ["01", "0", "-1", "2_backup", "9" * 20, "", "1.0", "a", "1\n", "\u0661"])
def test_publish_refuses_every_number_that_is_not_canonical(world: World, tmp_path: Path, version: str) -> None:
    before = tree(world.repository.path)
    with pytest.raises(TriremeError, match="is not a version number; give one"):
        _publish(world, tmp_path, version)
    assert tree(world.repository.path) == before


@pytest.mark.parametrize(
    "name", ["../x", "a b", "org/m", "", "worker\n", "é", ".", "..", "worker/", "worker/../worker"]
)
def test_publish_refuses_every_name_that_is_no_model(world: World, tmp_path: Path, name: str) -> None:
    before = tree(tmp_path)
    with pytest.raises(NotFoundError, match="there is: economy, follower, plain, premium, standard, task, worker"):
        plan_publish(world.repository, name, tmp_path)
    assert tree(tmp_path) == before


def test_publish_chooses_a_number_above_all_canonical_folders(world: World, tmp_path: Path) -> None:
    for folder in ("01", "0", "7_backup", "-1", ".ipynb_checkpoints", "9" * 20):
        (worker(world).path / folder).mkdir()
    _publish(world, tmp_path)
    assert worker(world).versions() == [1, 2]


def test_publish_refuses_a_number_that_is_taken(world: World, tmp_path: Path) -> None:
    with pytest.raises(TriremeError, match="worker has a version 1"):
        _publish(world, tmp_path, "1")


def test_publish_refuses_links(world: World, tmp_path: Path) -> None:
    source = make_source(tmp_path)
    (source / "secret").symlink_to("/etc/passwd")
    with pytest.raises(TriremeError, match="is a link"):
        plan_publish(world.repository, "worker", source)


def test_publish_refuses_a_folder_without_files(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(TriremeError, match="holds no file"):
        plan_publish(world.repository, "worker", tmp_path / "empty")


def test_a_source_that_changes_while_it_is_copied_is_not_published(world: World, tmp_path: Path) -> None:
    before = tree(world.repository.path)
    source = make_source(tmp_path)
    plan = plan_publish(world.repository, "worker", source)
    (source / "model.py").write_text("3")
    with pytest.raises(TriremeError, match="changed while it was copied"):
        carry_out(make_engine(world, tmp_path), plan)
    assert tree(world.repository.path) == before


def test_a_version_that_is_not_what_its_manifest_says_is_not_loaded(world: World, tmp_path: Path) -> None:
    first = worker(world).version_dir(1)
    files = record_files(first.iterdir())
    write_manifest(Manifest(inputs_sha256="", exporter="test", origins=(), files=files), first)
    (first / "model.py").write_text("x")
    before = tree(world.repository.path)
    with pytest.raises(TriremeError, match="is not what its manifest says"):
        _publish(world, tmp_path)
    assert tree(world.repository.path) == before


def test_a_canary_is_the_variant_with_other_pins(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_canary(world.repository, "standard", wanted_pins(world.repository, "standard", (), "canary")))
    carry_out(engine, plan_shift(world.repository, "standard", 5))
    assert (_pin(world), _pin(world, "standard__canary")) == (1, 2)
    traffic = world.repository.path / "task" / "traffic.json"
    assert json.loads(traffic.read_text()) == {"canary_percent": {"standard": 5}}
    with pytest.raises(TriremeError, match="has a canary already"):
        plan_canary(world.repository, "standard", {"worker": 2})


def test_rollback_closes_a_canary_and_moves_the_variant_nowhere(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    _publish(world, tmp_path)
    before = tree(world.repository.path)
    carry_out(engine, plan_canary(world.repository, "standard", {"worker": 3}))
    carry_out(engine, plan_shift(world.repository, "standard", 50))
    carry_out(engine, plan_rollback(world.repository, engine.journal, "standard", None))
    assert tree(world.repository.path) == before


def test_closing_a_canary_leaves_the_traffic_of_others(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    for variant, percent in (("standard", 5), ("premium", 25)):
        carry_out(engine, plan_canary(world.repository, variant, {"worker": 2}))
        carry_out(engine, plan_shift(world.repository, variant, percent))
    carry_out(engine, plan_rollback(world.repository, engine.journal, "standard", None))
    traffic = world.repository.path / "task" / "traffic.json"
    assert json.loads(traffic.read_text()) == {"canary_percent": {"premium": 25}}


def test_promote_and_rollback_change_the_pin_and_nothing_else(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    before = tree(world.repository.path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    text = world.folder("standard").config_path.read_text()
    assert "model_version: 2  # the pin" in text
    assert "# Comments stay." in text
    carry_out(engine, plan_rollback(world.repository, engine.journal, "standard", None))
    assert tree(world.repository.path) == before


def test_a_second_rollback_says_that_it_is_there(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    carry_out(engine, plan_rollback(world.repository, engine.journal, "standard", None))
    with pytest.raises(TriremeError, match="is there already"):
        plan_rollback(world.repository, engine.journal, "standard", None)


def test_rollback_keeps_what_was_edited_since_the_promotion(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    config = world.folder("standard").config_path
    config.write_text(config.read_text() + "# Edited.\n")
    carry_out(engine, plan_rollback(world.repository, engine.journal, "standard", None))
    assert config.read_text().endswith("# Edited.\n")
    assert _pin(world) == 1


def test_rollback_to_a_version_that_is_not_loaded_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no version of worker named '7'; there is: 1"):
        plan_rollback(world.repository, make_engine(world, tmp_path).journal, "standard", {"worker": 7})


def test_prune_keeps_the_newest_and_every_pinned_version(world: World, tmp_path: Path) -> None:
    for _ in range(3):
        _publish(world, tmp_path)
    carry_out(make_engine(world, tmp_path), plan_prune(world.repository, "worker", 1))
    assert worker(world).versions() == [1, 4]
    with pytest.raises(TriremeError, match="no version to prune: 1, 4 are new, pinned or serve"):
        plan_prune(world.repository, "worker", 1)


def test_prune_keeps_the_version_that_a_canary_pins(world: World, tmp_path: Path) -> None:
    for _ in range(2):
        _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_canary(world.repository, "standard", {"worker": 2}))
    with pytest.raises(TriremeError, match="no version to prune"):
        plan_prune(world.repository, "worker", 1)


def test_a_bare_version_is_taken_for_the_one_model_that_has_it(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    assert read_pins(world.repository, ["worker"], ["2"]) == {"worker": 2}
    for wrong in ("two", "worker=02", "premium=1", "9"):
        with pytest.raises(TriremeError, match="write MODEL=VERSION"):
            read_pins(world.repository, ["worker"], [wrong])


def test_a_wrong_traffic_file_is_named(world: World, tmp_path: Path) -> None:
    (world.repository.path / "task" / "traffic.json").write_text("{")
    with pytest.raises(ConfigError, match=r"traffic\.json.*not JSON"):
        plan_rollback(world.repository, make_engine(world, tmp_path).journal, "standard", None)
