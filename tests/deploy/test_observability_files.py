"""Files of rules, alerts and dashboards: checks by promtool, and requirements of Grafana."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deadlines import scaled
from tests.observability import GRAFANA, PROMETHEUS, dashboards, metrics_in, panel_expressions, prometheus_programs

BOARDS = dashboards()


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [prometheus_programs() / "promtool", *arguments],
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "WARNING" not in output, output


def test_promtool_accepts_the_configuration_and_every_rule() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_alerts_fire_and_resolve_as_expected() -> None:
    promtool("test", "rules", PROMETHEUS / "tests" / "rules_test.yml")


def test_every_dashboard_expression_is_valid_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": found.text, "labels": {"place": found.place}}
        for number, found in enumerate(panel_expressions())
    ]
    assert len(rules) > 40
    # JSON is valid YAML.
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", path)


def test_every_recorded_series_is_used() -> None:
    rules = "\n".join(path.read_text() for path in (PROMETHEUS / "rules").glob("*.yml"))
    recorded = {line.split("record:")[1].strip() for line in rules.splitlines() if "record:" in line}
    used: set[str] = set().union(*(metrics_in(found.text) for found in panel_expressions()))
    unused = {name for name in recorded - used if rules.count(name) == 1}
    assert unused == set()


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS.keys())
def test_panels_do_not_overlap_and_use_the_provisioned_source(board: dict[str, Any]) -> None:
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in itertools.combinations((panel["gridPos"] for panel in panels), 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
        assert one["x"] + one["w"] <= 24
    sources = {panel["datasource"]["uid"] for panel in panels if panel["type"] != "row"}
    assert sources == {"prometheus"}
    assert "uid: prometheus\n" in (GRAFANA / "provisioning/datasources/prometheus.yml").read_text()
