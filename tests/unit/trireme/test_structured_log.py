from __future__ import annotations

import json
import logging
import sys
from typing import Any

from trireme.structured_log import JsonFormatter


def line_of(formatter: logging.Formatter, message: str, *args: object, **extra: str) -> dict[str, Any]:
    record = logging.LogRecord("trireme.health", logging.WARNING, __file__, 1, message, args, None)
    record.__dict__.update(extra)
    text = formatter.format(record)
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_has_time_level_logger_and_message() -> None:
    line = line_of(JsonFormatter(), "model %s answers again, %s", "m", "ünï")
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "trireme.health", "message": "model m answers again, ünï"}


def test_global_fields_are_in_every_line_and_those_of_a_line_take_precedence() -> None:
    formatter = JsonFormatter(replica="r0", zone="a")
    line = line_of(formatter, "x", request_id="r-1", model="m", version="3", replica="r1", zone="")
    assert {name: line.get(name) for name in ("request_id", "model", "version", "replica", "zone")} == {
        "request_id": "r-1",
        "model": "m",
        "version": "3",
        "replica": "r1",
        "zone": None,
    }


def test_an_exception_stays_on_its_line() -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert "ValueError: broken" in json.loads(text)["message"]
