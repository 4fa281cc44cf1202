"""A folder into which others drop versions: ``<inbox>/<model>/`` with the files of one version.

It is complete when it holds an empty file ``.done``, or when its ``manifest.json`` says so and nothing in it has
changed since the last look. What was published is moved to ``.published/``, what was refused to ``.rejected/`` with
the reason beside it; so nothing is published twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trireme.errors import TriremeError, describe
from trireme.files import write_atomic
from trireme.release.plans import DONE_MARKER
from trireme.release.workspace import RepositoryLockedError
from trireme.repository.manifest import MANIFEST_NAME, read_manifest, verify_files

_State = tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class Inbox:
    """Looks at the folder when it is told to.

    Example:
        >>> inbox = Inbox(Path("inbox"), publish=lambda model, source: ..., progress=print)
        >>> inbox.scan()

    Attributes:
        publish: publishes the files of a folder as a new version of a model; raises TriremeError or OSError.
    """

    path: Path
    publish: Callable[[str, Path], None]
    progress: Callable[[str], None]
    _seen: dict[str, _State] = field(default_factory=dict)

    def scan(self) -> int:
        """Publish every folder that is complete; how many were refused.

        A folder for which another command holds the release lock is looked at again the next time.
        """
        refused = 0
        for entry in sorted(self.path.iterdir()):
            if not entry.is_dir() or entry.name.startswith(".") or not self._is_complete(entry):
                continue
            try:
                self.publish(entry.name, entry)
            except RepositoryLockedError as error:
                self.progress(str(error))
            except Exception as error:
                # Whatever it is, the next folder is looked at.
                refused += 1
                self.progress(f"refused {entry.name}: {describe(error)}")
                moved = self._move(entry, ".rejected")
                write_atomic(moved.with_name(f"{moved.name}.reason"), f"{describe(error)}\n".encode())
            else:
                self._move(entry, ".published")
        return refused

    def _is_complete(self, folder: Path) -> bool:
        if (folder / DONE_MARKER).exists():
            return True
        before, now = self._seen.get(folder.name), _state(folder)
        self._seen[folder.name] = now
        if before != now or not (folder / MANIFEST_NAME).is_file():
            return False
        try:
            verify_files(read_manifest(folder), folder)
        except (TriremeError, OSError):
            # Not all of it has come yet.
            return False
        return True

    def _move(self, folder: Path, where: str) -> Path:
        target = self.path / where / f"{folder.name}-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06}"
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
        self._seen.pop(folder.name, None)
        return target


def _state(folder: Path) -> _State:
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return tuple(found)
