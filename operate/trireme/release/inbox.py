"""A directory that receives versions to publish: ``<inbox>/<model>/`` with the files of one version.

A version is complete when it contains a file ``.done``, or when its ``manifest.json`` verifies and nothing has changed
since the last scan. Published versions move to ``.published/``, rejected ones to ``.rejected/`` with a file that states
the reason, so that nothing is published twice.
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
    """Scans the directory on request.

    Example:
        >>> inbox = Inbox(Path("inbox"), publish=lambda model, source: ..., progress=print)
        >>> inbox.scan()

    Attributes:
        publish: publishes a model's new version from a folder; raises TriremeError or OSError.
    """

    path: Path
    publish: Callable[[str, Path], None]
    progress: Callable[[str], None]
    _seen: dict[str, _State] = field(default_factory=dict)

    def scan(self) -> int:
        """Publish every complete folder, and return the number of rejected ones.

        If another command holds the release lock, the folder stays for the next scan.
        """
        rejected = 0
        for entry in sorted(self.path.iterdir()):
            if not entry.is_dir() or entry.name.startswith(".") or not self._is_complete(entry):
                continue
            try:
                self.publish(entry.name, entry)
            except RepositoryLockedError as error:
                self.progress(str(error))
            except Exception as error:
                # An error of any kind must not keep the other folders from being published.
                rejected += 1
                self.progress(f"rejected {entry.name}: {describe(error)}")
                moved = self._move(entry, ".rejected")
                write_atomic(moved.with_name(f"{moved.name}.reason"), f"{describe(error)}\n".encode())
            else:
                self._move(entry, ".published")
        return rejected

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
            # Still incomplete.
            return False
        return True

    def _move(self, folder: Path, destination: str) -> Path:
        target = self.path / destination / f"{folder.name}-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06}"
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
