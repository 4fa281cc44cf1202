"""``trireme ask``: send texts to the served tasks and models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict

import click
from trireme_client import OperatorClient

from trireme.errors import NotFoundError, ServerError
from trireme.files import json_text
from trireme.inference.text_request import TextResponse, require_text_model, send_chat, send_text, short_reason
from trireme.repository.folders import ModelRepository
from trireme.repository.model_config import load_model_config
from trireme.repository.tasks import TIERS, find_task, find_tasks, is_language_model
from trireme.serving.run_state import RunDirectory
from trireme.settings import Settings

_DEADLINE_SECONDS = 30.0


@click.command()
@click.argument("task_or_model")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--tier", type=click.Choice([*TIERS, "auto"]), help="Cost tier.  [default: the task's]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ask(task_or_model: str, texts: Sequence[str], tier: str | None, as_json: bool) -> None:
    """Send each TEXT as one request to a task (text_embedding, sentiment, text_generation, ...) or a model."""
    settings = Settings.from_environment()
    requests = [_utf8(number, text) for number, text in enumerate(texts, 1)]
    repository = ModelRepository(settings.repository_dir)
    model = _find_model(repository, task_or_model, tier)
    address = RunDirectory(settings.run_dir).running().grpc_address
    if is_language_model(repository, model):
        responses = [send_chat(address, model, request, _DEADLINE_SECONDS, tier) for request in requests]
    else:
        with OperatorClient(address) as client:
            responses = [send_text(client, model, request, _DEADLINE_SECONDS, tier) for request in requests]
    for number, response in enumerate(responses, 1):
        if name := response.not_finite:
            raise ServerError(
                f"{response.variant} v{response.version}: output {name} for text {number} is not a finite number"
            )
    if as_json:
        click.echo(json_text([asdict(response) for response in responses], ensure_ascii=False))
        return
    for response in responses:
        click.echo(_as_line(response))


def _utf8(number: int, text: str) -> bytes:
    # Python escapes arguments that are not UTF-8; os.fsencode restores the bytes.
    raw = os.fsencode(text)
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"text {number} is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}; convert it to UTF-8"
        ) from None
    return raw


def _find_model(repository: ModelRepository, name: str, tier: str | None) -> str:
    folders = {folder.name: folder for folder in repository.models()}
    tasks = find_tasks(repository)
    if task := find_task(tasks, name):
        return task.model(tier)
    if name not in folders:
        families = {variant.family for task in tasks for variant in task.variants}
        raise NotFoundError("task or model", name, {*folders, *families, *(task.name for task in tasks)})
    if tier:
        raise click.UsageError(f"{name} is a model, and only tasks have tiers; omit --tier")
    if not is_language_model(repository, name):
        require_text_model(load_model_config(folders[name].config_path))
    return name


def _as_line(response: TextResponse) -> str:
    reason = f", {short_reason(response.reason)}" if response.reason else ""
    return f"{response.answer}   [{response.variant} v{response.version}, {response.latency_ms:.1f} ms{reason}]"
