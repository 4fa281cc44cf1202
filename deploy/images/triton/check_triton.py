#!/usr/bin/env python3
"""The health check of a Triton container: ready, and ended where its agent calls it dead.

Docker restarts a container that ends, and leaves alone one that is merely unhealthy. The agent beside it asks the
server real questions: where it says that only a new server helps, this one is ended here. A kubelet does that itself.
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
# Never through a proxy that the environment names.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# Gone with this container's memory at a restart: while a server starts, the agent still speaks of the one before it.
STARTED = Path("/tmp/started")


def main() -> int:
    if STARTED.exists() and status_of(LIVE) == 503:
        print("the agent calls this server dead; ending it, so that Docker starts a new one")
        for pid in server_processes():
            # A frozen one hears nothing else.
            os.kill(pid, signal.SIGKILL)
        return 1
    if status_of(READY) != 200:
        return 1
    STARTED.touch()
    return 0


def status_of(url: str) -> int | None:
    """The HTTP status; None where nobody answers."""
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
