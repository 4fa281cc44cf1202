"""``trireme route``: inspect the router's rules and decisions."""

from __future__ import annotations

from importlib.metadata import entry_points

import click

from trireme.files import json_text
from trireme.repository.folders import ModelRepository
from trireme.serving.run_state import RunDirectory
from trireme.settings import Settings


class _RouteCommands(click.Group):
    """``explain`` and ``check`` are in this module; other packages add entry points ``trireme.route_commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *entry_points(group="trireme.route_commands").names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry in entry_points(group="trireme.route_commands", name=cmd_name):
            found = entry.load()
            return found if isinstance(found, click.Command) else None
        return super().get_command(ctx, cmd_name)


@click.group(cls=_RouteCommands)
def route() -> None:
    """Explain routing decisions, check routing rules, and calibrate the cascade."""


@route.command()
@click.option("--task", required=True, help="Name of a route, such as text_embedding.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Request parameter; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as JSON.")
def explain(task: str, params: tuple[str, ...], as_json: bool) -> None:
    """Print the variant that a request would get, with the numbers behind the decision. No variant is called.

    Uses the live state of a running `trireme serve`; without one, only the rules.
    """
    from trireme.repository.route_explanation import explain_live, explain_offline
    from trireme.repository.routes import find_route

    settings = Settings.from_environment()
    found = find_route(ModelRepository(settings.repository_dir), task)
    parameters = dict(_split(param) for param in params)
    state = RunDirectory(settings.run_dir).read() if RunDirectory(settings.run_dir).is_held() else None
    explanation = explain_live(found, parameters, state.grpc_address) if state else explain_offline(found, parameters)
    click.echo(json_text(explanation.as_json()) if as_json else explanation.as_text())


@route.command()
@click.argument("tasks", metavar="[TASK]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON.")
def check(tasks: tuple[str, ...], as_json: bool) -> int:
    """Check keys, values, tiers and variants in route.json and traffic.json of each TASK, by default of all routes.

    Exit code 1 if a problem is found.
    """
    from trireme.repository.routes import check_route, find_route, find_routes

    repository = ModelRepository(Settings.from_environment().repository_dir)
    routes = [find_route(repository, task) for task in tasks] if tasks else find_routes(repository)
    problems = {found.name: check_route(found) for found in routes}
    if as_json:
        click.echo(json_text({"passed": not any(problems.values()), "problems": problems}))
    else:
        for name, found_problems in problems.items():
            for line in found_problems or [f"{name}: ok"]:
                click.echo(line)
    return 1 if any(problems.values()) else 0


def _split(param: str) -> tuple[str, str]:
    name, equals, value = param.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--param {param!r} must be NAME=VALUE, such as tier=premium")
    return name, value
