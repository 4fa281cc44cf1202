"""API keys: a file that holds their hashes, never the keys.

A key is 256 random bits, so one round of SHA-256 is enough: there is no dictionary to try.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from trireme.file_lock import take_lock
from trireme.files import write_json_atomic

from trireme_gateway.errors import GatewayError

_PREFIX = "trireme-"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key.

    Attributes:
        name: unique; stands in logs.
        sha256: of the key, in hexadecimal.
        requests_per_minute, tokens_per_minute: None: without a limit.
        created_at: seconds since 1970.
    """

    name: str
    sha256: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: float


class KeyFile:
    """The keys of one gateway; a change of the file holds from the next request on.

    Example:
        >>> keys = KeyFile(Path("gateway-keys.json"))
        >>> secret = keys.add("search", requests_per_minute=600)
        >>> keys.find(secret).name
        'search'
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_of: tuple[int, int, int] | None = None
        self._by_hash: dict[str, ApiKey] = {}

    def find(self, secret: str) -> ApiKey | None:
        """Return the key, or None if it is unknown.

        Raises:
            GatewayError: the file is missing or cannot be read.
        """
        self._refresh()
        return self._by_hash.get(_hash(secret))

    def all(self) -> list[ApiKey]:
        """All keys, oldest first.

        Raises:
            GatewayError: the file is missing, readable by other users, or damaged.
        """
        self._refresh()
        return sorted(self._by_hash.values(), key=lambda key: key.created_at)

    def add(self, name: str, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> str:
        """Create a key and return its secret; only a hash is stored.

        Raises:
            GatewayError: the name is taken or invalid.
        """
        if not _NAME.fullmatch(name):
            raise GatewayError(f"{name!r} is not a valid name for a key: use 1 to 64 letters, digits, '.', '_' and '-'")
        secret = _PREFIX + secrets.token_urlsafe(32)
        with self._edit() as keys:
            if any(key.name == name for key in keys):
                raise GatewayError(f"a key named {name!r} already exists; revoke it first, or choose another name")
            keys.append(ApiKey(name, _hash(secret), requests_per_minute, tokens_per_minute, time.time()))
        return secret

    def revoke(self, name: str) -> None:
        """Revoke a key.

        Raises:
            GatewayError: the key does not exist; names the existing ones.
        """
        with self._edit() as keys:
            found = [key for key in keys if key.name == name]
            if not found:
                raise GatewayError(
                    f"key {name!r} does not exist; existing keys: {', '.join(key.name for key in keys) or 'none'}"
                )
            keys.remove(found[0])

    @contextlib.contextmanager
    def _edit(self) -> Iterator[list[ApiKey]]:
        """Yield the keys for a change; write them when the block succeeds. One writer at a time."""
        with take_lock(self._path.with_name(f".{self._path.name}.lock")):
            keys = self.all() if self._path.exists() else []
            yield keys
            write_json_atomic(self._path, {"keys": [asdict(key) for key in keys]}, mode=0o600)

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            raise GatewayError(
                f"{self._path} does not exist; create it with: trireme gateway-key add NAME --keys {self._path}"
            ) from None
        version = (status.st_mtime_ns, status.st_ino, status.st_size)
        if version == self._read_of:
            return
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise GatewayError(f"{self._path} is readable by other users; fix it with: chmod 600 {self._path}")
        try:
            document = json.loads(self._path.read_text())
            keys = [ApiKey(**fields) for fields in document["keys"]]
        except (ValueError, KeyError, TypeError) as error:
            raise GatewayError(f"{self._path} is not a valid key file: {error}") from None
        self._by_hash = {key.sha256: key for key in keys}
        self._read_of = version


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
