"""``trireme load``: load tests that give a verdict."""

from __future__ import annotations

from trireme_loadtest import load as package
from trireme_loadtest.module_group import ModuleGroup

load = ModuleGroup(package, name="load", help="Load a running server: a verdict on its objectives, runs compared.")
