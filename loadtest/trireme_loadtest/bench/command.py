"""``trireme bench``: the benchmarks, found by name."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

import click

from trireme_loadtest import bench as package


class _Benchmarks(click.Group):
    """A benchmark is a module ``bench/<name>.py`` with a ``click.Command`` of that name; no list names it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(
            module.name for module in pkgutil.iter_modules(package.__path__) if _is_benchmark(module.name, module.ispkg)
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        name = f"{package.__name__}.{cmd_name}"
        spec = importlib.util.find_spec(name) if cmd_name.isidentifier() else None
        if spec is None or not _is_benchmark(cmd_name, spec.submodule_search_locations is not None):
            return None
        found = getattr(importlib.import_module(name), cmd_name)
        if not isinstance(found, click.Command):
            raise TypeError(f"{name}.{cmd_name} is not a click command")
        return found


def _is_benchmark(name: str, is_package: bool) -> bool:
    return not is_package and name != "command"


@click.group(cls=_Benchmarks)
def bench() -> None:
    """Measure contenders side by side: interleaved repetitions, medians, ratios, the machine's facts."""
