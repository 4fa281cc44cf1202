"""A full /dev/shm, which connects server and models: in a mount namespace, so that only this stack is affected."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from trireme.inference.text_request import text_tensor
from trireme_client import ClientError, OperatorClient

from tests.chaos.platform_stack import PlatformStack
from tests.chaos.report import ChaosReport
from tests.chaos.scenario import scenario
from tests.deadlines import scaled

_SIZE = "96m"
_LARGE_BYTES = 12 * 1024**2
_OWN_SHM = f'mount -t tmpfs -o size={_SIZE} tmpfs /dev/shm && exec "$@"'


def _why_not() -> str:
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "" if os.geteuid() == 0 and tried.returncode == 0 else "mount namespaces need root; run: sudo make chaos"


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "mount namespaces are available")


class _CrampedStack(PlatformStack):
    wrapper = ("unshare", "--mount", "sh", "-c", _OWN_SHM, "sh")

    def shm(self) -> Path:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root/dev/shm")


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[_CrampedStack]:
    """A single replica, so that no other one can take over."""
    with _CrampedStack(tmp_path, zones="a") as running:
        yield running


def test_small_requests_succeed_while_shared_memory_is_full(cramped: _CrampedStack, report: ChaosReport) -> None:
    with scenario(cramped, report, "/dev/shm is full") as running:
        server = cramped.server_of("r0").pid
        running.fault()
        filler = cramped.shm() / "filler"
        _fill(filler)
        with pytest.raises(ClientError):
            _infer_large(cramped)
        running.wait_for_traffic(2.0)
        filler.unlink()
        running.wait_until_healthy("r0")
        assert _infer_large(cramped) == _LARGE_BYTES
        assert cramped.server_of("r0").pid == server


def _fill(path: Path) -> None:
    """Use all free space."""
    with path.open("wb", buffering=0) as file:
        for size in (1024**2, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def _infer_large(stack: PlatformStack) -> int:
    """The length of the response to a text that exceeds every region."""
    with OperatorClient(stack.grpc_address) as client:
        result = client.infer("echo_worker", {"TEXT": text_tensor(b"a" * _LARGE_BYTES)}, scaled(30.0))
    return len(result.outputs["ANSWER"][0, 0])
