"""A link between this machine's network and a network namespace that can be slow, lossy or cut.

Each end is a TUN device, and packets pass through this process. It needs root and TUN, but not the kernel's netem,
which is not always available.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from pathlib import Path

from tests.deadlines import scaled

_TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKET_BYTES = 65536


def why_not() -> str:
    """The reason why links are not available on this machine; empty if they are."""
    if os.geteuid() != 0:
        return "network namespaces need root; run: sudo make chaos"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"{_TUN} cannot be opened"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "network namespaces are not allowed here"


class Wire:
    """The namespace ``name``, with the address ``10.211.<number>.2``.

    Attributes:
        delay_seconds: per packet, in each direction.
        loss: fraction of lost packets, in each direction.
        is_cut: no packet passes.
    """

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.211.{number}.2"
        self.delay_seconds = 0.0
        self.loss = 0.0
        self.is_cut = False
        self._random = random.Random(number)
        # Linux limits interface names to 15 characters.
        near, far = f"{name[-12:]}-n", f"{name[-12:]}-f"
        self._ends = (_open_tun(near), _open_tun(far))
        _ip("netns", "add", name)
        _ip("link", "set", far, "netns", name)
        _ip("addr", "add", f"10.211.{number}.1", "peer", self.address, "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", name, "addr", "add", self.address, "peer", f"10.211.{number}.1", "dev", far)
        for device in (far, "lo"):
            _ip("-n", name, "link", "set", device, "up")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def close(self) -> None:
        """Delete the link; processes in the namespace must have exited."""
        self._stop.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)
        _ip("netns", "del", self.name)

    def _run(self) -> None:
        on_the_way: list[tuple[float, int, int, bytes]] = []
        order = itertools.count()
        others = dict(zip(self._ends, reversed(self._ends), strict=True))
        while not self._stop.is_set():
            wait = min(max(on_the_way[0][0] - time.monotonic(), 0.0), 0.1) if on_the_way else 0.1
            for end in select.select(self._ends, [], [], wait)[0]:
                packet = os.read(end, _PACKET_BYTES)
                if not self.is_cut and self._random.random() >= self.loss:
                    due = time.monotonic() + self.delay_seconds
                    heapq.heappush(on_the_way, (due, next(order), others[end], packet))
            while on_the_way and on_the_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(on_the_way)
                os.write(end, packet)


def _open_tun(device: str) -> int:
    end = os.open(_TUN, os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", device.encode(), _IFF_TUN | _IFF_NO_PI))
    return end


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=scaled(30.0))
