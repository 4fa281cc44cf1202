"""Changed versions are detected."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from trireme.errors import ConfigError
from trireme.release.engine import ReleaseEngine
from trireme.release.integrity import verify_versions
from trireme.release.plans import plan_publish
from trireme.release.step import World
from trireme.repository.manifest import Manifest, record_files, write_manifest

from tests.unit.trireme.release.world import carry_out, make_engine, make_source, make_world, worker


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def engine(world: World, tmp_path: Path) -> ReleaseEngine:
    """Version 2 of the worker is published; version 1 existed before and has no manifest."""
    source = make_source(tmp_path)
    write_manifest(Manifest("", "test", (), record_files([source / "model.py"])), source)
    made = make_engine(world, tmp_path)
    carry_out(made, plan_publish(world.repository, "worker", source))
    return made


def _problems(world: World, engine: ReleaseEngine, key: Path | None = None) -> list[str]:
    return [check.problem for check in verify_versions([worker(world)], engine.journal, key)]


def test_a_published_version_is_intact(world: World, engine: ReleaseEngine) -> None:
    checks = verify_versions([worker(world)], engine.journal)
    assert [(check.version, check.by, check.problem) for check in checks] == [(1, "", ""), (2, "manifest, journal", "")]


def test_a_file_changed_together_with_its_manifest_is_detected(world: World, engine: ReleaseEngine) -> None:
    version = worker(world).version_dir(2)
    (version / "model.py").write_text("evil")
    assert "sha256 in its manifest" in _problems(world, engine)[1] or "bytes" in _problems(world, engine)[1]
    write_manifest(Manifest("", "test", (), record_files([version / "model.py"])), version)
    assert "does not have the published sha256" in _problems(world, engine)[1]


def test_added_and_missing_files_are_detected(world: World, engine: ReleaseEngine) -> None:
    version = worker(world).version_dir(2)
    (version / "more.py").write_text("evil")
    assert "was not published with this version" in _problems(world, engine)[1]
    (version / "more.py").unlink()
    (version / "manifest.json").unlink()
    assert "is missing" in _problems(world, engine)[1]


def _write_public_key(path: Path, key: Ed25519PrivateKey) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_a_manifest_not_signed_by_the_key_is_detected(world: World, engine: ReleaseEngine, tmp_path: Path) -> None:
    version = worker(world).version_dir(2)
    private = Ed25519PrivateKey.generate()
    ours = _write_public_key(tmp_path / "ours.pub", private)
    theirs = _write_public_key(tmp_path / "theirs.pub", Ed25519PrivateKey.generate())
    assert "manifest.json.sig is missing" in _problems(world, engine, ours)[1]
    (version / "manifest.json.sig").write_bytes(private.sign((version / "manifest.json").read_bytes()))
    # Signed after its publication; without the journal, only the signature is checked.
    journal_free = make_engine(world, tmp_path / "none")
    assert _problems(world, journal_free, ours)[1] == ""
    assert "is not a signature of manifest.json" in _problems(world, journal_free, theirs)[1]


def test_a_file_that_is_not_a_public_key_is_rejected(world: World, engine: ReleaseEngine, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    with pytest.raises(ConfigError, match="not an Ed25519 public key in PEM"):
        _problems(world, engine, tmp_path / "key")
