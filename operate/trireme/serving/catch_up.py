"""What a release changed in the repository while a server was away: the server takes it when it is back."""

from __future__ import annotations

import logging
from collections.abc import Collection

from trireme_client import ClientError, OperatorClient

from trireme.repository.folders import ModelRepository
from trireme.repository.loading import plan_loading

_LOG = logging.getLogger(__name__)

# Files are staged a moment before the rename that shows them.
_MARGIN_SECONDS = 1.0


def catch_up(
    client: OperatorClient,
    repository: ModelRepository,
    *,
    told_to_load: Collection[str],
    since: float,
    deadline_seconds: float,
) -> None:
    """Load what was published, and let go what was removed, after a server had begun to read the repository.

    A release that is under way passes over a server that does not answer yet, so that this must be called once the
    server answers: whatever is released from then on, the release loads by itself.

    Args:
        told_to_load: models that the server was told to load at its start.
        since: when it was started, seconds since 1970.
        deadline_seconds: for each call.

    Raises:
        ClientError: the server does not tell which models it has.
    """
    there = {folder.name for folder in repository.models()}
    for name in sorted({entry.model for entry in client.index(deadline_seconds) if entry.state == "READY"} - there):
        _LOG.info("letting go %s, which is no longer in the repository", name)
        client.unload(name, deadline_seconds)
    for name in plan_loading(repository).models:
        changed = repository.model(name).config_path.stat().st_mtime >= since - _MARGIN_SECONDS
        if changed or name not in told_to_load:
            _LOG.info("loading %s, which was released while the server started", name)
            try:
                client.load(name, deadline_seconds)
            except ClientError as error:
                # The golden samples tell what this means.
                _LOG.warning("%s: %s", name, error)
