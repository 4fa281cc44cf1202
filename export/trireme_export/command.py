"""``trireme export``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import IO

import click
from trireme.errors import TriremeError
from trireme.file_lock import FileLockedError, take_lock
from trireme.files import json_text
from trireme.settings import Settings

_LOCK_DEADLINE_SECONDS = 1800


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Export every model that has an export.toml.")
@click.option("--force", is_flag=True, help="Export again even if the files exist and are intact.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; progress goes to standard error.")
def export(models: tuple[str, ...], every: bool, force: bool, as_json: bool) -> None:
    """Fetch each MODEL's source, convert it, and add it to the repository as version 1 if it passes its gates.

    The recipe is model_repository/MODEL/export.toml. Models whose files exist and are intact are skipped.
    """
    if bool(models) == every:
        raise click.UsageError("give one or more models, or --all")
    from trireme_export.exporter import Exporter  # numpy, onnx, onnxruntime: slow to import

    def report(line: str) -> None:
        click.echo(f"export: {line}", err=as_json)

    settings = Settings.from_environment()
    exporter = Exporter(settings, lambda model, step: report(f"{model}: {step}"))
    results = []
    with _export_lock(settings, lambda: report("waiting for another export to finish")):
        for name in exporter.model_names() if every else models:
            if every and exporter.needs_vllm(name):
                report(f"{name}: skipped, because vLLM is not installed; run: make vllm")
                continue
            try:
                exported = exporter.export(name, force=force)
                exporter.write_warmup(name)
            except OSError as error:
                raise TriremeError(
                    f"{name}: {error}; no partial files remain, fix the cause and run the same command again"
                ) from error
            report(f"{name}: {'done' if exported.made else 'up to date'}")
            results.append({"model": exported.model, "made": exported.made, **asdict(exported.manifest)})
    if as_json:
        click.echo(json_text({"models": results}))


def _export_lock(settings: Settings, waiting: Callable[[], None]) -> IO[str]:
    path = settings.state_dir / "export.lock"
    try:
        return take_lock(path, wait_seconds=_LOCK_DEADLINE_SECONDS, waiting=waiting)
    except FileLockedError:
        raise TriremeError(f"another export still holds {path}; end it and run the same command again") from None
