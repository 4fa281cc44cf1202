"""``traffic.json``: the share of a variant's requests that goes to its canary. Next to ``config.pbtxt`` of the route:

    {"canary_percent": {"embedding_premium": 5}}

The file is replaced by rename and checked at each request, so a change applies from the next request on. A variant
that is not listed has no canary. An invalid file changes nothing: the last valid one stays in effect.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from trireme_backends.errors import FileError
from trireme_backends.strict_json import Range, read_json

TRAFFIC_NAME = "traffic.json"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Percent (0 to 100) of a variant's requests that go to its canary. The schema of the file."""

    canary_percent: Mapping[str, Annotated[float, Range(0, 100)]] = field(default_factory=dict)

    def goes_to_canary(self, variant: str, position: float) -> bool:
        """Whether the request at ``position`` (0 to 100, see ``sticky_position``) goes to the variant's canary."""
        return position < self.canary_percent.get(variant, 0.0)


def sticky_position(key: str) -> float:
    """The position of a key between 0 and 100: uniform over keys, the same in every process and for every percentage.

    A key on the canary side at 5 % is also there at 25 %.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100


class TrafficFile:
    """The current content of the file; a check costs one ``stat``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path_text = str(path)
        self._seen: tuple[int, int, int] | None = None
        self._traffic = Traffic()
        self.errors = 0
        self.last_error: FileError | None = None

    def current(self) -> Traffic:
        """The last valid content; without a file no variant has a canary. An invalid file increments ``errors``."""
        try:
            status = os.stat(self._path_text)  # noqa: PTH116 - a path object takes three times as long, at every request
        except OSError:
            self._seen, self._traffic = None, Traffic()
            return self._traffic
        # A rename changes the inode; size and time cover an editor that writes in place.
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._seen = seen
            try:
                self._traffic, self.last_error = read_json(self._path, Traffic), None
            except FileError as error:
                self.errors += 1
                self.last_error = error
        return self._traffic
