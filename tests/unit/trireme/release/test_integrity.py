"""A version that is not what it was is found."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from trireme.manifest import Manifest, record_files, write_manifest
from trireme.release.engine import Engine
from trireme.release.integrity import verify_versions
from trireme.release.plans import plan_publish
from trireme.release.step import World

from tests.unit.trireme.release.world import carry_out, make_engine, make_source, make_world, worker


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def engine(world: World, tmp_path: Path) -> Engine:
    """With version 2 of the worker published; version 1 was there before, and has no manifest."""
    source = make_source(tmp_path)
    write_manifest(Manifest("", "test", (), record_files([source / "model.py"])), source)
    made = make_engine(world, tmp_path)
    carry_out(made, plan_publish(world.repository, "worker", source))
    return made


def _problems(world: World, engine: Engine, key: Path | None = None) -> list[str]:
    return [check.problem for check in verify_versions([worker(world)], engine.journal, key)]


def test_what_was_published_is_whole(world: World, engine: Engine) -> None:
    checks = verify_versions([worker(world)], engine.journal)
    assert [(check.version, check.by, check.problem) for check in checks] == [(1, "", ""), (2, "manifest, journal", "")]


def test_a_file_changed_together_with_its_manifest_is_found(world: World, engine: Engine) -> None:
    version = worker(world).version_dir(2)
    (version / "model.py").write_text("evil")
    assert "is not what its manifest says" in _problems(world, engine)[1] or "bytes" in _problems(world, engine)[1]
    write_manifest(Manifest("", "test", (), record_files([version / "model.py"])), version)
    assert "is not what was published" in _problems(world, engine)[1]


def test_added_and_missing_files_are_found(world: World, engine: Engine) -> None:
    version = worker(world).version_dir(2)
    (version / "more.py").write_text("evil")
    assert "was not published with this version" in _problems(world, engine)[1]
    (version / "more.py").unlink()
    (version / "manifest.json").unlink()
    assert "is missing" in _problems(world, engine)[1]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_manifest_that_the_key_did_not_sign_is_found(world: World, engine: Engine, tmp_path: Path) -> None:
    version = worker(world).version_dir(2)
    keys = {}
    for name in ("ours", "theirs"):
        private, keys[name] = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        _openssl("genpkey", "-algorithm", "ed25519", "-out", private)
        _openssl("pkey", "-in", private, "-pubout", "-out", keys[name])
    assert "manifest.json.sig is missing" in _problems(world, engine, keys["ours"])[1]
    manifest, signature = version / "manifest.json", version / "manifest.json.sig"
    _openssl("pkeyutl", "-sign", "-inkey", tmp_path / "ours.pem", "-rawin", "-in", manifest, "-out", signature)
    # Signed after it was published: only the signature itself is looked at here.
    engine.journal.releases()
    journal_free = make_engine(world, tmp_path / "none")
    assert _problems(world, journal_free, keys["ours"])[1] == ""
    assert "is no signature of manifest.json" in _problems(world, journal_free, keys["theirs"])[1]


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30.0)
