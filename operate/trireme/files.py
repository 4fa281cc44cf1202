"""Atomic writes: a reader never sees a partial file or directory."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trireme.errors import TriremeError


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` atomically, flushed to disk.

    Raises:
        OSError: the file could not be written; ``path`` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    staged = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.chmod(mode)
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def json_text(value: Any, *, ensure_ascii: bool = True) -> str:
    """Return ``value`` as indented JSON.

    Raises:
        TriremeError: a number is not finite, which JSON cannot express.
    """
    try:
        return json.dumps(value, indent=2, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError as error:
        raise TriremeError(f"the result cannot be written as JSON: {error}") from None


def write_json_atomic(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """``write_atomic`` of ``value`` as indented JSON."""
    write_atomic(path, (json_text(value, ensure_ascii=False) + "\n").encode(), mode=mode)


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside ``target``; when the block succeeds, rename it to ``target``.

    An existing ``target`` is replaced. If the block raises or the process dies, ``target`` is unchanged; the next call
    removes the directory that a dead process left behind.

    Example:
        >>> with staged_directory(Path("model/1")) as staged:
        ...     (staged / "model.onnx").write_bytes(b"...")
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_staged(target)
    staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.staged-", dir=target.parent))
    staged.chmod(0o755)
    try:
        yield staged
        retired = staged.with_name(f"{staged.name}-retired")
        if target.exists():
            target.rename(retired)
        staged.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard-link, or copy where the file system cannot; for ``shutil.copytree``. Never modify either in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove_staged(target: Path) -> None:
    """Remove what killed processes left of ``staged_directory(target)``."""
    for leftover in target.parent.glob(f".{target.name}.staged-*"):
        shutil.rmtree(leftover, ignore_errors=True)
