"""The tables of docs/architecture.md are the import contracts that import-linter checks."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parents[3]
PAGE = (PROJECT / "docs" / "architecture.md").read_text()
CONTRACTS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
INNER = [contract for contract in CONTRACTS if "containers" in contract]


@pytest.mark.parametrize("contract", INNER, ids=[contract["containers"][0] for contract in INNER])
def test_the_page_shows_the_layers_of_a_package(contract: dict[str, list[str]]) -> None:
    (package,) = contract["containers"]
    table = PAGE.partition(f"/{package}/`, ")[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    rows = [set(re.findall(r"`(\w+)(?:/|\.py)`", row.split("|")[1])) for row in table.splitlines()]
    layers = [set(re.split(r" [|:] ", layer)) for layer in contract["layers"]]
    assert set().union(*rows) == set().union(*layers)
    # A row may show several layers, in their order.
    place = {name: number for number, row in enumerate(rows) for name in row}
    order = [place[name] for layer in layers for name in sorted(layer)]
    assert order == sorted(order)
