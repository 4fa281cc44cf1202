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
@click.option("--all", "every", is_flag=True, help="Every model that has an export.toml.")
@click.option("--force", is_flag=True, help="Make the files again, also where they are there and whole.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON; progress goes to standard error.")
def export(models: tuple[str, ...], every: bool, force: bool, as_json: bool) -> None:
    """Fetch a model's source, make its version 1, and let it into the repository if it passes its gates.

    How is said in model_repository/MODEL/export.toml. What is there and whole is skipped.
    """
    if bool(models) == every:
        raise click.UsageError("name one or more models, or --all")
    from trireme_export.exporter import Exporter  # numpy, onnx, onnxruntime: slow to import

    def say(line: str) -> None:
        click.echo(f"export: {line}", err=as_json)

    settings = Settings.from_environment()
    exporter = Exporter(settings, lambda model, step: say(f"{model}: {step}"))
    made = []
    with _one_export_at_a_time(settings, lambda: say("another export runs; waiting for it")):
        for name in exporter.model_names() if every else models:
            if every and exporter.needs_vllm(name):
                say(f"{name}: left out, it is for vLLM; make vllm sets that up and exports it")
                continue
            try:
                done = exporter.export(name, force=force)
                exporter.write_warmup(name)
            except OSError as error:
                raise TriremeError(
                    f"{name}: {error}; nothing half-written is left, mend it and run the same command again"
                ) from error
            say(f"{name}: {'done' if done.made else 'already there'}")
            made.append({"model": done.model, "made": done.made, **asdict(done.manifest)})
    if as_json:
        click.echo(json_text({"models": made}))


def _one_export_at_a_time(settings: Settings, waiting: Callable[[], None]) -> IO[str]:
    path = settings.state_dir / "export.lock"
    try:
        return take_lock(path, wait_seconds=_LOCK_DEADLINE_SECONDS, waiting=waiting)
    except FileLockedError:
        raise TriremeError(f"another export still holds {path}; see what it does, end it and run this again") from None
