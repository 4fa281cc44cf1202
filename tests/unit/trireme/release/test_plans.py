"""The plan of each command and its effect on the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from trireme.commands.publish import publish
from trireme.errors import ConfigError, NotFoundError, TriremeError
from trireme.release.callers import serving_by_files
from trireme.release.engine import ReleaseEngine
from trireme.release.pins import pins_of, read_pins, wanted_pins
from trireme.release.plans import plan_canary, plan_promote, plan_prune, plan_publish, plan_rollback, plan_shift
from trireme.release.step import InstallVersion, Reconfigure, World
from trireme.repository.manifest import Manifest, record_files, write_manifest
from trireme.repository.model_config import load_model_config
from trireme.repository.routes import find_route

from tests.unit.trireme.release.world import carry_out, make_engine, make_source, make_world, tree, worker


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def _publish(world: World, tmp_path: Path, version: str | None = None) -> None:
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_publish(world.repository, "worker", make_source(tmp_path), version))


def _pin(world: World, variant: str = "standard") -> int:
    return pins_of(load_model_config(world.folder(variant).config_path))["worker"]


def test_publish_keeps_the_pinned_version_loaded_and_moves_no_caller(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    assert (worker(world).version_dir(2) / "model.py").read_text() == "2"
    assert load_model_config(worker(world).config_path).version_policy.selects([1, 2]) == [1, 2]
    assert _pin(world) == 1
    assert not list(world.repository.path.rglob(".*")), "a staged copy remains"


def test_the_serving_versions_are_held_before_a_new_folder_appears(world: World, tmp_path: Path) -> None:
    # "latest", the default policy, would replace the pinned version when the new folder appears.
    steps = plan_publish(world.repository, "worker", make_source(tmp_path)).steps
    hold, install, keep = steps[2:]
    assert isinstance(hold, Reconfigure)
    assert "versions: [ 1 ]" in hold.after
    assert isinstance(install, InstallVersion)
    assert isinstance(keep, Reconfigure)
    assert keep.before == hold.after


@pytest.mark.parametrize("version", ["01", "0", "-1", "2_backup", "9" * 20, "", "1.0", "a", "1\n", "\u0661"])
def test_publish_rejects_every_number_that_is_not_canonical(world: World, tmp_path: Path, version: str) -> None:
    before = tree(world.repository.path)
    with pytest.raises(TriremeError, match="is not a version number; use 1 or higher"):
        _publish(world, tmp_path, version)
    assert tree(world.repository.path) == before


@pytest.mark.parametrize(
    "name", ["../x", "a b", "org/m", "", "worker\n", "é", ".", "..", "worker/", "worker/../worker"]
)
def test_publish_rejects_every_name_that_is_not_a_model(world: World, tmp_path: Path, name: str) -> None:
    before = tree(tmp_path)
    with pytest.raises(NotFoundError, match="available: economy, follower, plain, premium, standard, task, worker"):
        plan_publish(world.repository, name, tmp_path)
    assert tree(tmp_path) == before


def test_publish_chooses_a_number_above_all_canonical_folders(world: World, tmp_path: Path) -> None:
    for folder in ("01", "0", "7_backup", "-1", ".ipynb_checkpoints", "9" * 20):
        (worker(world).path / folder).mkdir()
    _publish(world, tmp_path)
    assert worker(world).versions() == [1, 2]


def test_publish_rejects_an_existing_number(world: World, tmp_path: Path) -> None:
    with pytest.raises(TriremeError, match="worker already has version 1"):
        _publish(world, tmp_path, "1")


def test_publish_rejects_links(world: World, tmp_path: Path) -> None:
    source = make_source(tmp_path)
    (source / "secret").symlink_to("/etc/passwd")
    with pytest.raises(TriremeError, match="is a link"):
        plan_publish(world.repository, "worker", source)


def test_publish_rejects_a_folder_without_files(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(TriremeError, match="contains no files"):
        plan_publish(world.repository, "worker", tmp_path / "empty")


def test_a_source_that_changes_during_the_copy_is_not_published(world: World, tmp_path: Path) -> None:
    before = tree(world.repository.path)
    source = make_source(tmp_path)
    plan = plan_publish(world.repository, "worker", source)
    (source / "model.py").write_text("3")
    with pytest.raises(TriremeError, match="changed while it was copied"):
        carry_out(make_engine(world, tmp_path), plan)
    assert tree(world.repository.path) == before


def test_a_version_that_differs_from_its_manifest_is_not_loaded(world: World, tmp_path: Path) -> None:
    first = worker(world).version_dir(1)
    files = record_files(first.iterdir())
    write_manifest(Manifest(inputs_sha256="", exporter="test", origins=(), files=files), first)
    (first / "model.py").write_text("x")
    before = tree(world.repository.path)
    with pytest.raises(TriremeError, match="does not match the sha256 in its manifest"):
        _publish(world, tmp_path)
    assert tree(world.repository.path) == before


def test_a_canary_is_the_variant_with_other_pins(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(
        engine, plan_canary(world.repository, "standard", wanted_pins(world.repository, "standard", (), "canary"))
    )
    carry_out(engine, plan_shift(world.repository, "standard", 5))
    assert (_pin(world), _pin(world, "standard__canary")) == (1, 2)
    traffic = world.repository.path / "task" / "traffic.json"
    assert json.loads(traffic.read_text()) == {"canary_percent": {"standard": 5}}
    with pytest.raises(TriremeError, match="already has a canary"):
        plan_canary(world.repository, "standard", {"worker": 2})


def test_rollback_closes_a_canary_and_keeps_the_pins_of_the_variant(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    _publish(world, tmp_path)
    before = tree(world.repository.path)
    carry_out(engine, plan_canary(world.repository, "standard", {"worker": 3}))
    carry_out(engine, plan_shift(world.repository, "standard", 50))
    carry_out(engine, plan_rollback(world.repository, engine.journal, "standard", None))
    assert tree(world.repository.path) == before


def test_closing_a_canary_keeps_the_traffic_of_others(world: World, tmp_path: Path) -> None:
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


def test_a_second_rollback_is_rejected(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    carry_out(engine, plan_rollback(world.repository, engine.journal, "standard", None))
    with pytest.raises(TriremeError, match="is already pinned to worker version 1"):
        plan_rollback(world.repository, engine.journal, "standard", None)


def test_rollback_keeps_edits_since_the_promotion(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    config = world.folder("standard").config_path
    config.write_text(config.read_text() + "# Edited.\n")
    carry_out(engine, plan_rollback(world.repository, engine.journal, "standard", None))
    assert config.read_text().endswith("# Edited.\n")
    assert _pin(world) == 1


def test_rollback_to_a_missing_version_is_rejected(world: World, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no version of worker named '7'; available: 1"):
        plan_rollback(world.repository, make_engine(world, tmp_path).journal, "standard", {"worker": 7})


def _release_plain(world: World, tmp_path: Path) -> ReleaseEngine:
    """Publish and promote version 2 of the model that no ensemble pins."""
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_publish(world.repository, "plain", make_source(tmp_path)))
    carry_out(engine, plan_promote(world.repository, "plain", {"plain": 2}))
    return engine


def test_a_version_that_no_ensemble_pins_stays_unloaded_until_it_is_promoted(world: World, tmp_path: Path) -> None:
    engine = make_engine(world, tmp_path)
    plan = plan_publish(world.repository, "plain", make_source(tmp_path))
    assert plan.moves == ()
    assert (
        "plain 2 stays unloaded until: trireme promote plain; a canary needs an ensemble that pins it" in plan.remarks
    )
    carry_out(engine, plan)
    assert world.folder("plain").versions() == [1, 2]
    assert serving_by_files(world.repository).loaded["plain"] == [1]
    promote = plan_promote(world.repository, "plain", wanted_pins(world.repository, "plain", (), "promote"))
    assert [move.describe() for move in promote.moves] == [
        "callers of follower (model_version: -1): plain version 1 -> version 2",
        "callers of plain without a version: plain version 1 -> version 2",
    ]
    carry_out(engine, promote)
    assert serving_by_files(world.repository).loaded["plain"] == [1, 2], "the version to roll back to is not loaded"


def test_rollback_of_a_model_moves_its_callers_and_keeps_the_rest_of_its_file(world: World, tmp_path: Path) -> None:
    engine = _release_plain(world, tmp_path)
    carry_out(engine, plan_rollback(world.repository, engine.journal, "plain", None))
    serving = serving_by_files(world.repository)
    assert serving.versions_for("plain") == serving.versions_for("follower") == {"plain": 1}
    assert world.folder("plain").config_path.read_text().startswith('backend: "python"  # Comments stay.\n')
    with pytest.raises(TriremeError, match="callers of plain already get version 1; name a version with --to"):
        plan_rollback(world.repository, engine.journal, "plain", None)


@pytest.mark.parametrize(
    ("verb", "fix"),
    [
        ("promote", "run: trireme promote plain; or pin the step"),
        ("rollback", "run: trireme rollback plain; or pin the step"),
        ("canary", "to move; pin the step, for example model_version: 1"),
    ],
)
def test_an_ensemble_without_a_pin_is_rejected_with_the_fix(world: World, tmp_path: Path, verb: str, fix: str) -> None:
    engine = _release_plain(world, tmp_path)
    plans = {
        "promote": lambda: plan_promote(world.repository, "follower", {"plain": 1}),
        "rollback": lambda: plan_rollback(world.repository, engine.journal, "follower", None),
        "canary": lambda: plan_canary(world.repository, "follower", {"plain": 1}),
    }
    for rejected in (plans[verb], lambda: wanted_pins(world.repository, "follower", ["plain=1"], verb)):
        with pytest.raises(ConfigError, match=f"follower/config.pbtxt:7: follower calls plain at .*{fix}"):
            rejected()


def test_a_canary_of_a_model_is_rejected_with_the_fix(world: World) -> None:
    with pytest.raises(TriremeError, match="needs an ensemble that pins it; run: trireme promote plain"):
        plan_canary(world.repository, "plain", {"plain": 1})


def test_publishing_a_pinned_model_reports_moved_callers_and_rollback_moves_them_back(
    world: World, tmp_path: Path
) -> None:
    engine = make_engine(world, tmp_path)
    plan = plan_publish(world.repository, "worker", make_source(tmp_path))
    assert [move.callers for move in plan.moves] == ["callers of worker without a version"]
    carry_out(engine, plan)
    carry_out(engine, plan_promote(world.repository, "standard", {"worker": 2}))
    with pytest.raises(TriremeError, match="pinned by standard; first run: trireme rollback standard"):
        plan_rollback(world.repository, engine.journal, "worker", None)
    carry_out(engine, plan_rollback(world.repository, engine.journal, "standard", None))
    carry_out(engine, plan_rollback(world.repository, engine.journal, "worker", None))
    assert serving_by_files(world.repository).versions_for("worker") == {"worker": 1}


def test_a_version_without_golden_samples_is_reported_as_not_proven(world: World, tmp_path: Path) -> None:
    engine = make_engine(world, tmp_path)
    plan = plan_publish(world.repository, "plain", make_source(tmp_path))
    assert "golden samples of" not in plan.describe()
    carry_out(engine, plan)
    for remarks in (plan.remarks, engine.journal.releases()[-1].remarks):
        assert any(remark.startswith("not proven: no golden samples; add some to ") for remark in remarks)
    golden = worker(world).golden_dir
    golden.mkdir()
    (golden / "one.json").write_text("{}")
    proven = plan_publish(world.repository, "worker", make_source(tmp_path))
    assert "test it on a temporary server with the golden samples of worker" in proven.describe()
    assert proven.remarks == ()


def test_the_first_version_of_a_pinned_model_is_the_pinned_version(world: World, tmp_path: Path) -> None:
    (worker(world).version_dir(1)).rename(tmp_path / "away")
    for tier in ("economy", "standard", "premium"):
        config = world.folder(tier).config_path
        config.write_text(config.read_text().replace("model_version: 1", "model_version: 3"))
    plan = plan_publish(world.repository, "worker", make_source(tmp_path))
    assert plan.steps[-1].describe() == "load economy, premium, standard on each server in turn"
    carry_out(make_engine(world, tmp_path), plan)
    assert serving_by_files(world.repository).versions_for("standard") == {"worker": 3}


def test_an_invalid_version_is_rejected_with_the_available_ones(world: World) -> None:
    with pytest.raises(TriremeError, match="write MODEL=VERSION; available: plain=1"):
        wanted_pins(world.repository, "plain", ["9"], "rollback")
    with pytest.raises(NotFoundError, match="no version of plain named '9'; available: 1"):
        plan_promote(world.repository, "plain", {"plain": 9})
    shutil.rmtree(worker(world).version_dir(1))
    with pytest.raises(TriremeError, match="no version of worker is loaded; run: trireme publish worker PATH"):
        wanted_pins(world.repository, "standard", (), "promote")


def test_a_route_is_read_from_its_serving_version_until_promotion(world: World, tmp_path: Path) -> None:
    carry_out(make_engine(world, tmp_path), plan_publish(world.repository, "task", make_source(tmp_path)))
    assert find_route(world.repository, "task").route_path == world.folder("task").version_dir(1) / "route.json"


def test_prune_keeps_the_version_that_callers_get(world: World, tmp_path: Path) -> None:
    engine = _release_plain(world, tmp_path)
    carry_out(engine, plan_rollback(world.repository, engine.journal, "plain", None))
    with pytest.raises(TriremeError, match="plain has no version to prune: 1, 2 are new, pinned or serving"):
        plan_prune(world.repository, "plain", 1)


def test_a_plan_is_printed_as_json(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIREME_REPOSITORY_DIR", str(world.repository.path))
    monkeypatch.setenv("TRIREME_STATE_DIR", str(tmp_path / "state"))
    source = make_source(tmp_path)
    done = CliRunner().invoke(publish, ["worker", str(source), "--dry-run", "--json"], catch_exceptions=False)
    plan = json.loads(done.stdout)
    assert plan["moves"][0] == {
        "name": "worker", "callers": "callers of worker without a version", "before": {"worker": 1},
        "after": {"worker": 2},
    }  # fmt: skip
    assert worker(world).versions() == [1]


def test_prune_keeps_the_newest_and_every_pinned_version(world: World, tmp_path: Path) -> None:
    for _ in range(3):
        _publish(world, tmp_path)
    carry_out(make_engine(world, tmp_path), plan_prune(world.repository, "worker", 1))
    assert worker(world).versions() == [1, 4]
    with pytest.raises(TriremeError, match="no version to prune: 1, 4 are new, pinned or serving"):
        plan_prune(world.repository, "worker", 1)


def test_prune_keeps_the_version_that_a_canary_pins(world: World, tmp_path: Path) -> None:
    for _ in range(2):
        _publish(world, tmp_path)
    engine = make_engine(world, tmp_path)
    carry_out(engine, plan_canary(world.repository, "standard", {"worker": 2}))
    with pytest.raises(TriremeError, match="no version to prune"):
        plan_prune(world.repository, "worker", 1)


def test_a_bare_version_means_the_one_model_that_has_it(world: World, tmp_path: Path) -> None:
    _publish(world, tmp_path)
    assert read_pins(world.repository, ["worker"], ["2"]) == {"worker": 2}
    for wrong in ("two", "worker=02", "premium=1", "9"):
        with pytest.raises(TriremeError, match="write MODEL=VERSION"):
            read_pins(world.repository, ["worker"], [wrong])


def test_an_invalid_traffic_file_is_reported(world: World, tmp_path: Path) -> None:
    (world.repository.path / "task" / "traffic.json").write_text("{")
    with pytest.raises(ConfigError, match=r"traffic\.json.*not JSON"):
        plan_rollback(world.repository, make_engine(world, tmp_path).journal, "standard", None)
