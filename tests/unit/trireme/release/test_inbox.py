"""A version in the inbox is published once, and only when it is complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from trireme.errors import TriremeError
from trireme.release.inbox import Inbox
from trireme.release.workspace import RepositoryLockedError
from trireme.repository.manifest import Manifest, record_files, write_manifest


class _Published(list[tuple[str, dict[str, str]]]):
    error: Exception | None = None

    def __call__(self, model: str, source: Path) -> None:
        if self.error:
            raise self.error
        self.append((model, {path.name: path.read_text() for path in source.iterdir()}))


@pytest.fixture
def published() -> _Published:
    return _Published()


@pytest.fixture
def inbox(tmp_path: Path, published: _Published) -> Inbox:
    return Inbox(tmp_path, published, [].append)


def _drop(inbox: Inbox, content: str = "complete") -> Path:
    folder = inbox.path / "encoder"
    folder.mkdir()
    (folder / "model.onnx").write_text(content)
    return folder


def test_a_folder_without_marker_or_manifest_is_never_complete(inbox: Inbox, published: _Published) -> None:
    _drop(inbox)
    for _ in range(3):
        inbox.scan()
    assert published == []


def test_a_marker_makes_a_folder_complete_at_once(inbox: Inbox, published: _Published) -> None:
    (_drop(inbox) / ".done").touch()
    inbox.scan()
    inbox.scan()
    assert [model for model, _ in published] == ["encoder"]
    assert not (inbox.path / "encoder").exists()


def test_a_verified_manifest_makes_an_unchanged_folder_complete(inbox: Inbox, published: _Published) -> None:
    folder = _drop(inbox)
    write_manifest(Manifest("", "test", (), record_files([folder / "model.onnx"])), folder)
    (folder / "model.onnx").write_text("comp")
    inbox.scan()
    inbox.scan()
    assert published == [], "a partial file was published"
    (folder / "model.onnx").write_text("complete")
    inbox.scan()
    assert published == [], "a folder that had just changed was published"
    inbox.scan()
    assert [model for model, _ in published] == ["encoder"]


def test_a_rejected_version_is_moved_with_the_reason(inbox: Inbox, published: _Published) -> None:
    published.error = TriremeError("golden sample failed")
    (_drop(inbox) / ".done").touch()
    assert inbox.scan() == 1
    assert inbox.scan() == 0
    (reason,) = (inbox.path / ".rejected").glob("*.reason")
    assert reason.read_text() == "golden sample failed\n"


def test_an_unexpected_error_rejects_the_version(inbox: Inbox, published: _Published) -> None:
    published.error = KeyError("outputs")
    (_drop(inbox) / ".done").touch()
    assert inbox.scan() == 1
    (reason,) = (inbox.path / ".rejected").glob("*.reason")
    assert reason.read_text().startswith("unexpected KeyError at test_inbox.py:")


def test_the_inbox_waits_for_another_publisher(inbox: Inbox, published: _Published) -> None:
    published.error = RepositoryLockedError("publish", "ada", 1, 2.0)
    (_drop(inbox) / ".done").touch()
    assert inbox.scan() == 0
    published.error = None
    inbox.scan()
    assert [model for model, _ in published] == ["encoder"]
