"""What the schemas of the backends' files do not cover between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from trireme_backends.errors import FileError
from trireme_backends.strict_json import Range, check_json, read_json

PATH = Path("settings.json")


@dataclass(frozen=True)
class Inner:
    count: Annotated[int, Range(1, 9)] | None = None


@dataclass(frozen=True)
class Settings:
    names: tuple[str, ...]
    inner: Mapping[str, Inner]
    share: float = 0.5


def test_a_document_becomes_the_dataclass() -> None:
    document = {"names": ["a", "b"], "inner": {"x": {"count": 3}, "y": {"count": None}}, "share": 1}
    settings = check_json(PATH, document, Settings)
    assert settings == Settings(("a", "b"), {"x": Inner(3), "y": Inner()}, 1.0)
    assert isinstance(settings.share, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a", 3]}, "names[1]: is 3; it must be a non-empty string"),
        ({"inner": {"x": {"count": 0}}}, "inner.x.count: is 0; it must be an integer from 1 to 9"),
        ({"inner": {"x": {"count": 1.0}}}, "inner.x.count: is 1.0; it must be an integer from 1 to 9"),
        ({"inner": {"x": []}}, "inner.x: must be a JSON object with the keys count"),
        ({"inner": 1}, "inner: must be a JSON object"),
        ({"share": None}, "share: is None; it must be a number"),
        ({"share": float("inf")}, "share: is inf; it must be a number"),
    ],
)
def test_an_error_names_the_key_and_what_is_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FileError) as caught:
        check_json(PATH, {"names": ["a"], "inner": {}, **change}, Settings)
    assert str(caught.value) == f"settings.json: {message}"


def test_a_file_that_cannot_be_read_and_one_that_is_not_text_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot be read \(Is a directory\)"):
        read_json(tmp_path, Settings)
    for content in (b"\xff", b"{"):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(FileError, match="not JSON"):
            read_json(tmp_path / "file", Settings)
