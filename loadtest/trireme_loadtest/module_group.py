"""A command with subcommands that are found, not listed."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from types import ModuleType
from typing import Any

import click
from trireme.errors import SetupError


class ModuleGroup(click.Group):
    """Every module ``<name>.py`` of a package, with a ``click.Command`` called ``name`` in it, is a subcommand.

    Only the one that runs is imported. Packages inside it, and the modules in ``but``, are none.
    """

    def __init__(self, package: ModuleType, *, but: tuple[str, ...] = (), **others: Any) -> None:
        super().__init__(**others)
        self._package, self._but = package, but

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        modules = pkgutil.iter_modules(self._package.__path__)
        return sorted(module.name for module in modules if not module.ispkg and module.name not in self._but)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        try:
            module = importlib.import_module(f"{self._package.__name__}.{cmd_name}")
        except ModuleNotFoundError as error:
            raise SetupError(
                f"{error.name} is not installed, {ctx.command_path} {cmd_name} needs it",
                ".venv/bin/pip install --constraint constraints.txt --editable '.[loadtest]'",
            ) from error
        found = getattr(module, cmd_name)
        if not isinstance(found, click.Command):
            raise TypeError(f"{module.__name__}.{cmd_name} is not a click command")
        return found
