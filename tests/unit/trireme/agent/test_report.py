from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from trireme.agent.process import AgentReport, AgentState
from trireme.documents import parse_json


def test_a_report_survives_a_round_trip() -> None:
    report = AgentReport(
        AgentState.DEAD, {"echo": (), "route": ("hello: wrong", "more")}, ("echo",), 2, "died", "frozen", server_pid=7
    )
    assert parse_json(AgentReport, json.dumps(asdict(report))) == report


@pytest.mark.parametrize("form", [{}, {"state": "cheerful", "problems": {}}, {"state": "ready"}])
def test_an_invalid_report_is_rejected(form: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        parse_json(AgentReport, json.dumps(form))
