"""``traffic.json``: which share of a variant's requests goes to its canary. Beside ``config.pbtxt`` of the route:

    {"canary_percent": {"embedding_premium": 5}}

It is replaced by rename, and each request looks at it, so a change holds from the next request on. A variant that is
not named has no canary. A file that is wrong changes nothing: the last good one holds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trireme_backends.routing.errors import RouteFileError

TRAFFIC_NAME = "traffic.json"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Percent (0 to 100) of a variant's requests that its canary gets."""

    canary_percent: Mapping[str, float] = field(default_factory=dict)

    def goes_to_canary(self, variant: str, position: float) -> bool:
        """Whether the request at ``position`` (0 to 100, see ``sticky_position``) goes to the variant's canary."""
        return position < self.canary_percent.get(variant, 0.0)


def sticky_position(key: str) -> float:
    """The place of a key between 0 and 100: even over keys, the same in every process and for every percentage.

    A key that a canary has at 5 % stays with it at 25 %.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100


def parse_traffic(path: Path, text: str) -> Traffic:
    """Check the content of a ``traffic.json``.

    Raises:
        RouteFileError: it is not JSON, has an unknown key, or a percentage is not from 0 to 100.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise RouteFileError(path, "", f"not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("canary_percent", {}), dict):
        raise RouteFileError(path, "canary_percent", "must be a JSON object: variant to percent")
    for name in document:
        if name != "canary_percent":
            raise RouteFileError(path, name, "unknown key; known: canary_percent")
    percents = document.get("canary_percent", {})
    for variant, percent in percents.items():
        number = isinstance(percent, int | float) and not isinstance(percent, bool) and math.isfinite(percent)
        if not number or not 0 <= percent <= 100:
            raise RouteFileError(path, f"canary_percent.{variant}", f"is {percent!r}; it must be from 0 to 100")
    return Traffic({variant: float(percent) for variant, percent in percents.items()})


class TrafficFile:
    """The file as it is now, at the cost of one ``stat`` a look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path_text = str(path)
        self._seen: tuple[int, int, int] | None = None
        self._traffic = Traffic()
        self.errors = 0
        self.last_error: RouteFileError | None = None

    def current(self) -> Traffic:
        """The last good content; no file stands for no canary. A wrong file raises ``errors`` by one."""
        try:
            status = os.stat(self._path_text)  # noqa: PTH116 - a path object takes three times as long, at every request
        except OSError:
            self._seen, self._traffic = None, Traffic()
            return self._traffic
        # A rename brings a new inode; size and time cover an editor that writes in place.
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._seen = seen
            try:
                self._traffic = parse_traffic(self._path, self._path.read_text(encoding="utf-8"))
                self.last_error = None
            except (RouteFileError, OSError, UnicodeDecodeError) as error:
                self.errors += 1
                self.last_error = (
                    error if isinstance(error, RouteFileError) else RouteFileError(self._path, "", str(error))
                )
        return self._traffic
