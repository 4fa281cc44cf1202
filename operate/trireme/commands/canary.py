"""``trireme canary``: a variant's new version beside the old one, under more and more of its traffic."""

from __future__ import annotations

from typing import IO

import click

from trireme.release.canary import Canary, CanaryPolicy
from trireme.release.plans import newest_pins, plan_canary, plan_promote, read_pins
from trireme.release.statistics import Limits
from trireme.repository import ModelRepository
from trireme.settings import Settings

_DEFAULT = CanaryPolicy()


@click.command()
@click.argument("variant")
@click.option("--to", "wanted", multiple=True, metavar="[MODEL=]VERSION", help="The newest loaded ones if left out.")
@click.option(
    "--steps",
    default=",".join(f"{percent:g}" for percent in _DEFAULT.percents),
    show_default=True,
    help="Percent of the variant's requests, ascending.",
)
@click.option("--min-requests", default=_DEFAULT.least_pairs, show_default=True, type=click.IntRange(min=1),
              help="Questions that both versions answer before a step is judged.")  # fmt: skip
@click.option("--window-seconds", default=_DEFAULT.least_seconds, show_default=True, help="Least length of a step.")
@click.option("--max-p95-ratio", default=Limits().p95_ratio, show_default=True, help="Of its p95 to the stable one's.")
@click.option("--max-error-excess", default=Limits().error_excess, show_default=True, help="Share of its requests.")
@click.option("--min-agreement", default=Limits().agreement, show_default=True, help="Share of equal answers.")
@click.option("--texts", type=click.File(encoding="utf-8"), help="Questions, one a line; else made of golden samples.")
@click.option("--note", default="", help="Why, for the history.")
@click.option("--actor", help="Who, for the history; the user of this shell if left out.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
def canary(
    variant: str,
    wanted: tuple[str, ...],
    steps: str,
    min_requests: int,
    window_seconds: float,
    max_p95_ratio: float,
    max_error_excess: float,
    min_agreement: float,
    texts: IO[str] | None,
    note: str,
    actor: str | None,
    dry_run: bool,
) -> None:
    """Give VARIANT's new version more and more of its traffic, and promote it if it is as good; else take it back.

    Ctrl-C takes it back, and so does `trireme rollback VARIANT` from anywhere. Ctrl-Z pauses.
    """
    settings = Settings.from_environment()
    repository = ModelRepository(settings.repository_dir)
    percents = _read_steps(steps)
    pins = read_pins(repository, variant, wanted) or newest_pins(repository, variant)
    if dry_run:
        click.echo(plan_canary(repository, variant, pins).describe())
        click.echo(f"then, while it is as good: {', '.join(f'{percent:g} %' for percent in percents)} of the traffic")
        click.echo(plan_promote(repository, variant, pins).describe())
        return
    policy = CanaryPolicy(
        percents, window_seconds, min_requests, 5 * min_requests,
        Limits(p95_ratio=max_p95_ratio, error_excess=max_error_excess, agreement=min_agreement),
    )  # fmt: skip
    asked = [line.rstrip("\n") for line in texts if line.strip()] if texts else ()
    Canary(settings, variant, pins, policy, click.echo, asked).run(actor, note)


def _read_steps(text: str) -> tuple[float, ...]:
    try:
        percents = tuple(float(part) for part in text.split(","))
    except ValueError:
        percents = ()
    if not percents or list(percents) != sorted(set(percents)) or not 0 < percents[0] <= percents[-1] <= 100:
        raise click.UsageError(f"--steps {text!r}: write ascending percents from above 0 to 100, such as 1,5,25,50,100")
    return percents
