"""``trireme bench``: the benchmarks, found by name."""

from __future__ import annotations

from trireme_loadtest import bench as package
from trireme_loadtest.module_group import ModuleGroup

bench = ModuleGroup(
    package,
    but=("command",),
    name="bench",
    help="Measure contenders side by side: interleaved repetitions, medians, ratios, the machine's facts.",
)
