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
        """The key, where it is one.

        Raises:
            GatewayError: the file is gone or cannot be read.
        """
        self._refresh()
        return self._by_hash.get(_hash(secret))

    def all(self) -> list[ApiKey]:
        """All keys, oldest first.

        Raises:
            GatewayError: there is no such file, others may read it, or it is damaged.
        """
        self._refresh()
        return sorted(self._by_hash.values(), key=lambda key: key.created_at)

    def add(self, name: str, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> str:
        """Make a key and return it: it is kept nowhere.

        Raises:
            GatewayError: the name is taken or no name.
        """
        if not _NAME.fullmatch(name):
            raise GatewayError(f"{name!r} is no name for a key: 1 to 64 letters, digits, '.', '_' and '-'")
        secret = _PREFIX + secrets.token_urlsafe(32)
        with self._changing() as keys:
            if any(key.name == name for key in keys):
                raise GatewayError(f"there is a key {name!r} already; revoke it first, or choose another name")
            keys.append(ApiKey(name, _hash(secret), requests_per_minute, tokens_per_minute, time.time()))
        return secret

    def revoke(self, name: str) -> None:
        """Forget a key.

        Raises:
            GatewayError: there is none of that name; tells those there are.
        """
        with self._changing() as keys:
            found = [key for key in keys if key.name == name]
            if not found:
                raise GatewayError(f"no key {name!r}; there is: {', '.join(key.name for key in keys) or 'none'}")
            keys.remove(found[0])

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        """The keys, to be changed; written when the block ends well. One writer at a time."""
        with take_lock(self._path.with_name(f".{self._path.name}.lock")):
            keys = self.all() if self._path.exists() else []
            yield keys
            write_json_atomic(self._path, {"keys": [asdict(key) for key in keys]}, mode=0o600)

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            raise GatewayError(
                f"there is no file {self._path}; make one with: trireme gateway-key add NAME --keys {self._path}"
            ) from None
        version = (status.st_mtime_ns, status.st_ino, status.st_size)
        if version == self._read_of:
            return
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise GatewayError(f"{self._path} may be read by other users; to mend it: chmod 600 {self._path}")
        try:
            document = json.loads(self._path.read_text())
            keys = [ApiKey(**fields) for fields in document["keys"]]
        except (ValueError, KeyError, TypeError) as error:
            raise GatewayError(f"{self._path} is no file of keys: {error}") from None
        self._by_hash = {key.sha256: key for key in keys}
        self._read_of = version


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
