"""Applies releases that a server missed while it started."""

from __future__ import annotations

import logging
from collections.abc import Collection

from trireme_client import ClientError, OperatorClient

from trireme.repository.folders import ModelRepository
from trireme.repository.loading import plan_loading

_LOG = logging.getLogger(__name__)

# Files are staged shortly before the rename that publishes them.
_MARGIN_SECONDS = 1.0


def catch_up(
    client: OperatorClient,
    repository: ModelRepository,
    *,
    loaded: Collection[str],
    since: float,
    deadline_seconds: float,
) -> None:
    """Load models that were published, and unload models that were removed, since a server started.

    A release skips a server that does not respond yet, so call this when it does: releases reach it from then on.

    Args:
        loaded: models that the server loaded, or tried to load, at its start.
        since: start time of the server, seconds since 1970.
        deadline_seconds: for each call.

    Raises:
        ClientError: the server does not return its model index.
    """
    present = {folder.name for folder in repository.models()}
    for name in sorted({entry.model for entry in client.index(deadline_seconds) if entry.state == "READY"} - present):
        _LOG.info("unloading %s, which is no longer in the repository", name)
        client.unload(name, deadline_seconds)
    for name in plan_loading(repository).models:
        changed = repository.model(name).config_path.stat().st_mtime >= since - _MARGIN_SECONDS
        if changed or name not in loaded:
            _LOG.info("loading %s, which was released while the server started", name)
            try:
                client.load(name, deadline_seconds)
            except ClientError as error:
                # Not fatal: the golden samples show the effect.
                _LOG.warning("%s: %s", name, error)
