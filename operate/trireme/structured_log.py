"""Structured logs: one JSON object per line, with the fields of ``docs/observability.md``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone

# Optional fields of a line, given by ``extra=`` or to the formatter.
_FIELDS = (
    "request_id", "model", "version", "variant", "key", "status", "duration_ms", "input_tokens", "output_tokens",
    "replica", "zone",
)  # fmt: skip


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, without unknown or empty fields.

    Example:
        >>> handler.setFormatter(JsonFormatter(replica="r0", zone="a"))
        >>> log.warning("wrong response", extra={"model": "sentiment_economy", "version": "3"})
        {"time": "2026-01-31T12:00:00.123Z", "level": "warning", "logger": "trireme.health", "message": ...
    """

    def __init__(self, **known: str) -> None:
        """``known``: fields of every line, such as ``replica``."""
        super().__init__()
        self._known = known

    def format(self, record: logging.LogRecord) -> str:
        known: Mapping[str, object] = {**self._known, **record.__dict__}
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            **{name: value for name in _FIELDS if (value := known.get(name)) not in (None, "")},
        }
        return json.dumps(line, ensure_ascii=False)
