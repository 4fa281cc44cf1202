"""The admin key of Triton's repository, shared memory, trace and logging APIs.

tritonserver accepts it only on its command line (release 24.10: no file, no environment variable), which every user of
the machine can read. So it is overwritten there as soon as the server has parsed it, about 50 ms after the start.
"""

from __future__ import annotations

import secrets
import stat
from pathlib import Path

from trireme.errors import ServerError
from trireme.files import write_atomic


def ensure_admin_key(path: Path) -> str:
    """Return the key in ``path``; create it, readable only by this user, if missing.

    Raises:
        ServerError: other users can read the file.
    """
    if not path.exists():
        write_atomic(path, secrets.token_urlsafe(32).encode(), mode=0o600)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ServerError(f"{path} is readable by other users, so its key is compromised; delete it to create another")
    return path.read_text().strip()


def hide_argument(pid: int, secret: str) -> None:
    """Overwrite ``secret`` in the visible command line of ``pid``, a child of this process.

    The process must have read its arguments already.

    Raises:
        OSError: the system forbids writing to the child's memory (Yama ptrace_scope 2 or 3), or the process has exited.
    """
    # Fields 48 and 49 of proc(5) stat; the second field, a name in parentheses, may contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    sought = secret.encode()
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        arguments = memory.read(end - start) or b""
        found = arguments.find(sought)
        while found >= 0:
            memory.seek(start + found)
            memory.write(b"*" * len(sought))
            found = arguments.find(sought, found + len(sought))
