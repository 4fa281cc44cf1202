"""A per-user cache, shared by all checkouts, for directories that take minutes to create."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from trireme.file_lock import take_lock
from trireme.files import staged_directory


def cached_directory(name: str, recipe: Sequence[str], make: Callable[[Path], None]) -> Path:
    """A directory below ``$XDG_CACHE_HOME/trireme`` that ``make`` fills, one per ``recipe``.

    It is created atomically; concurrent processes wait.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trireme"
    directory = base / f"{name}-{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()[:12]}"
    with take_lock(base / f"{name}.lock"):
        if not directory.is_dir():
            with staged_directory(directory) as staged:
                make(staged)
    return directory
