"""Leftovers of dead owners are found and removed, and nothing else.

All in one file, which a single pytest-xdist worker runs: concurrent tests would remove each other's leftovers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from trireme.doctor import CheckStatus
from trireme.doctor.memory import stale_regions
from trireme.processes.leftovers import remove_leftovers
from trireme.processes.shared_memory import SHM_DIR, new_region_prefix, remove_regions

from tests.deadlines import scaled
from tests.leftovers import dead_owners_region, left_stub


def test_a_stub_of_a_dead_owner_is_killed_and_its_region_removed() -> None:
    region = SHM_DIR / dead_owners_region()
    region.write_bytes(bytes(4096))
    with left_stub(region) as stub:
        assert stub.pid in remove_leftovers(grace_seconds=0.2)
        stub.wait(timeout=scaled(30.0))
    assert not region.exists()


def test_a_stub_of_a_live_owner_is_kept() -> None:
    prefix = new_region_prefix()
    region = SHM_DIR / f"{prefix}shm_region_0"
    region.write_bytes(bytes(4096))
    try:
        with left_stub(region) as stub:
            assert stub.pid not in remove_leftovers()
            assert stub.poll() is None
        assert region.exists()
    finally:
        remove_regions(prefix)


def test_another_program_that_mentions_a_region_of_a_dead_owner_is_kept() -> None:
    region = dead_owners_region()
    with subprocess.Popen([sys.executable, "-c", "input()", region], stdin=subprocess.PIPE) as bystander:
        assert bystander.pid not in remove_leftovers()
        assert bystander.poll() is None


def test_a_region_of_a_dead_owner_is_stale_even_if_an_orphaned_stub_maps_it(tmp_path: Path) -> None:
    region = tmp_path / dead_owners_region()
    region.write_bytes(bytes(4096))
    with left_stub(region) as stub:
        (check,) = stale_regions(tmp_path)
        assert str(stub.pid) in check.found
        subprocess.run(["sh", "-c", check.fix], check=True)
        stub.wait(timeout=scaled(30.0))
    (check,) = stale_regions(tmp_path)
    assert check.status is CheckStatus.OK
