"""``trireme bench``: the benchmarks of ``trireme_loadtest.bench``, discovered by name."""

from __future__ import annotations

import importlib
import pkgutil

import click
from trireme.errors import SetupError

from trireme_loadtest import bench as benchmarks


class _Benchmarks(click.Group):
    """Every module ``<name>.py`` of the package is a subcommand: the ``click.Command`` named ``name`` in it.

    Only the selected one is imported. Subpackages contain shared code.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.ispkg)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        try:
            module = importlib.import_module(f"{benchmarks.__name__}.{cmd_name}")
        except ModuleNotFoundError as error:
            raise SetupError(
                f"{error.name} is not installed; {ctx.command_path} {cmd_name} needs it",
                ".venv/bin/pip install --constraint constraints.txt --editable '.[loadtest]'",
            ) from error
        command: click.Command = getattr(module, cmd_name)
        return command


bench = _Benchmarks(
    name="bench", help="Run benchmarks: interleaved repetitions, medians, ratios, facts of the machine."
)
