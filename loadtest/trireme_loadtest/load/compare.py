"""``trireme load compare``: two runs side by side."""

from __future__ import annotations

from pathlib import Path

import click
from trireme.files import json_text, write_atomic

from trireme_loadtest.compare import compare as compare_runs
from trireme_loadtest.record import LoadRecord
from trireme_loadtest.report_compare import compare_html, compare_json, compare_text


@click.command()
@click.argument("first", type=click.Path(exists=True, path_type=Path))
@click.argument("second", type=click.Path(exists=True, path_type=Path))
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: Path, second: Path, html_path: Path | None, as_json: bool) -> None:
    """Put two runs side by side: run.json files, or the folders they are in."""
    before, after = (LoadRecord.read(path / "run.json" if path.is_dir() else path) for path in (first, second))
    differences = compare_runs(before, after)
    if html_path:
        write_atomic(html_path, compare_html(before, after, differences).encode())
        click.echo(f"  wrote {html_path}", err=True)
    click.echo(json_text(compare_json(differences)) if as_json else compare_text(differences))
