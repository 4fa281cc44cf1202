"""The ``trireme`` command: one module per subcommand, in ``trireme.commands`` and in entry points of other packages."""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import pkgutil
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points

import click

from trireme import commands
from trireme.errors import SetupError, expected_errors


class _Commands(click.Group):
    """Finds subcommands by name and imports only the one that runs, so that ``trireme --help`` starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        modules = (module.name for module in pkgutil.iter_modules(commands.__path__) if not module.name.startswith("_"))
        return sorted({*(name.replace("_", "-") for name in modules), *entry_points(group="trireme.commands").names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        with _interruptible():
            try:
                return _find(cmd_name)
            except ModuleNotFoundError as error:
                return _unavailable(cmd_name, error.name or str(error))


def _find(verb: str) -> click.Command | None:
    for entry in entry_points(group="trireme.commands", name=verb):
        return _as_command(entry.load())
    attribute = verb.replace("-", "_")
    name = f"{commands.__name__}.{attribute}"
    if importlib.util.find_spec(name) is None:
        return None
    return _as_command(getattr(importlib.import_module(name), attribute))


def _unavailable(verb: str, package: str) -> click.Command:
    """Replaces a subcommand whose dependencies are not installed, as in images for other subcommands."""

    def fail() -> None:
        raise SetupError(f"trireme {verb} needs the package {package}, which is not installed", "make setup")

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(verb, callback=fail, help=f"Not available: needs {package}.", context_settings=anything)


def _as_command(found: object) -> click.Command:
    if not isinstance(found, click.Command):
        raise TypeError(f"{found!r} is not a click command")
    return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trireme")
def run() -> None:
    """Operate a Triton Inference Server: export models, serve them, release them, measure them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; print one line for an error. Exit code 0: success; 1: failure; 2: usage error."""
    try:
        result = run.main(args=argv, standalone_mode=False, prog_name="trireme")
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("trireme: interrupted", err=True)
        return 130
    except expected_errors() as error:
        click.echo(f"trireme: {error}", err=True)
        return 1
    except OSError as error:
        click.echo(f"trireme: {_describe(error)}", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _describe(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" at {error.filename}" if error.filename else ""
        return f"no space left on the disk{place}; the operation was undone; free some space and run the command again"
    return str(error)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """End the process at once on Ctrl-C: during an import it could surface as any error."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
