"""``trireme canary``: shift a variant's traffic to a new version step by step."""

from __future__ import annotations

from typing import IO

import click

from trireme.commands._release import history_options, plan_options, progress
from trireme.files import json_text
from trireme.release.canary import Canary, CanaryPolicy
from trireme.release.pins import wanted_pins
from trireme.release.plans import plan_canary, plan_promote
from trireme.release.statistics import CanaryLimits
from trireme.repository.folders import ModelRepository
from trireme.settings import Settings

_DEFAULT = CanaryPolicy()


@click.command()
@click.argument("variant")
@click.option(
    "--to",
    "wanted",
    multiple=True,
    metavar="[MODEL=]VERSION",
    help="Target version; repeatable.  [default: newest loaded]",
)
@click.option(
    "--steps",
    default=",".join(f"{percent:g}" for percent in _DEFAULT.percents),
    show_default=True,
    help="Comma-separated, ascending percentages of the variant's requests.",
)
@click.option("--min-requests", default=_DEFAULT.min_pairs, show_default=True, type=click.IntRange(min=1),
              help="Test requests to both versions before a step is evaluated.")  # fmt: skip
@click.option(
    "--window-seconds", default=_DEFAULT.min_seconds, show_default=True, help="Minimum duration of a step in seconds."
)
@click.option(
    "--max-p95-ratio",
    default=_DEFAULT.limits.p95_ratio,
    show_default=True,
    help="Maximum ratio of its p95 latency to the stable version's.",
)
@click.option(
    "--max-error-excess",
    default=_DEFAULT.limits.error_excess,
    show_default=True,
    help="Maximum excess of its share of failed requests over the stable version's.",
)
@click.option(
    "--min-agreement",
    default=_DEFAULT.limits.agreement,
    show_default=True,
    help="Minimum share of responses equal to the stable version's.",
)
@click.option(
    "--texts",
    type=click.File(encoding="utf-8"),
    help="File of texts for test requests, one per line.  [default: composed of words of golden samples]",
)
@history_options
@plan_options
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
    as_json: bool,
) -> None:
    """Shift VARIANT's traffic to its new version step by step; promote it if it is as good, otherwise revert it.

    Ctrl-C aborts the canary, as does `trireme rollback VARIANT` from another terminal. Ctrl-Z pauses it.
    """
    settings = Settings.from_environment()
    repository = ModelRepository(settings.repository_dir)
    percents = _read_steps(steps)
    pins = wanted_pins(repository, variant, wanted, "canary")
    if dry_run:
        plans = plan_canary(repository, variant, pins), plan_promote(repository, variant, pins)
        if as_json:
            click.echo(json_text({"steps": percents, "plans": [plan.to_json() for plan in plans]}))
            return
        click.echo(plans[0].describe())
        click.echo(
            f"then, while the canary passes: {', '.join(f'{percent:g} %' for percent in percents)} of the traffic"
        )
        click.echo(plans[1].describe())
        return
    policy = CanaryPolicy(
        percents, window_seconds, min_requests, 5 * min_requests,
        CanaryLimits(p95_ratio=max_p95_ratio, error_excess=max_error_excess, agreement=min_agreement),
    )  # fmt: skip
    lines = [line.rstrip("\n") for line in texts if line.strip()] if texts else ()
    judgement = Canary(settings, variant, pins, policy, progress(as_json), lines).run(actor, note)
    if as_json:
        click.echo(json_text({"verb": "canary", "subject": variant, "promoted": pins, "judgement": judgement}))


def _read_steps(text: str) -> tuple[float, ...]:
    try:
        percents = tuple(float(part) for part in text.split(","))
    except ValueError:
        percents = ()
    if not percents or list(percents) != sorted(set(percents)) or not 0 < percents[0] <= percents[-1] <= 100:
        raise click.UsageError(
            f"--steps {text!r} is invalid; use ascending percentages, at most 100, such as 1,5,25,50,100"
        )
    return percents
