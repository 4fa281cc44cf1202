"""Log lines: one JSON object each, with the fields of ``docs/observability.md``."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone

_FIELDS = ("request_id", "model", "version", "variant", "key", "status", "duration_ms", "input_tokens", "output_tokens")


class JsonFormatter(logging.Formatter):
    """One line of JSON; fields that are not known are left out."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        known = {name: value for name in _FIELDS if (value := record.__dict__.get(name)) not in (None, "")}
        line = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            **known,
        }
        return json.dumps(line, ensure_ascii=False)


def log_as_json() -> None:
    """Send what this process logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
