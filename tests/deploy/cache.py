"""What takes minutes to make and is the same for every checkout: kept for this user, so that a fresh clone has it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from trireme.file_lock import take_lock
from trireme.files import staged_directory


def cached_directory(name: str, recipe: Sequence[str], make: Callable[[Path], None]) -> Path:
    """A folder of ``$XDG_CACHE_HOME/trireme`` that ``make`` fills; another ``recipe`` is another folder.

    It appears by one rename, and one process makes it while others wait.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trireme"
    directory = base / f"{name}-{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()[:12]}"
    with take_lock(base / f"{name}.lock"):
        if not directory.is_dir():
            with staged_directory(directory) as staged:
                make(staged)
    return directory
