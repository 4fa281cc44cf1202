"""HTTP to the stack's own processes, never through a proxy from the environment."""

from __future__ import annotations

import urllib.request
from http.client import HTTPResponse

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_direct(request: str | urllib.request.Request, timeout_seconds: float) -> HTTPResponse:
    """``urllib.request.urlopen`` without proxies; raises the same errors."""
    response: HTTPResponse = _OPENER.open(request, timeout=timeout_seconds)
    return response
