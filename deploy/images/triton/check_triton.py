#!/usr/bin/env python3
"""Health check of a Triton container. Kills the server if its agent reports it dead.

Docker restarts a container that exits, but not one that is unhealthy. If the agent reports that the server must be
restarted, the check kills it. In Kubernetes the kubelet does this itself.
"""

from __future__ import annotations

import os
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

READY = "http://127.0.0.1:8000/v2/health/ready"
LIVE = "http://127.0.0.1:8003/livez"
DEADLINE_SECONDS = 3
# Ignores proxies in the environment.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# In memory, so a restart removes it: while a server starts, the agent may still report the previous one.
STARTED = Path("/tmp/started")


def main() -> int:
    if STARTED.exists() and status_of(LIVE) == 503:
        print("the agent reports this server dead; killing it so that Docker restarts it")
        for pid in server_processes():
            # A frozen process reacts to nothing else.
            os.kill(pid, signal.SIGKILL)
        return 1
    if status_of(READY) != 200:
        return 1
    STARTED.touch()
    return 0


def status_of(url: str) -> int | None:
    """Return the HTTP status; None without an answer."""
    try:
        with DIRECT.open(url, timeout=DEADLINE_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return None


def server_processes() -> list[int]:
    names = ((int(path.parent.name), path.read_text().strip()) for path in Path("/proc").glob("[0-9]*/comm"))
    return [pid for pid, name in names if name == "tritonserver"]


if __name__ == "__main__":
    sys.exit(main())
