"""HTTP to what the stack runs itself: never through a proxy that the environment names."""

from __future__ import annotations

import urllib.request
from http.client import HTTPResponse

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_direct(request: str | urllib.request.Request, timeout_seconds: float) -> HTTPResponse:
    """``urllib.request.urlopen`` without proxies; raises as that does."""
    answer: HTTPResponse = _OPENER.open(request, timeout=timeout_seconds)
    return answer
