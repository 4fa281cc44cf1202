"""Reloads models whose process died or hangs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from trireme_client import ClientError, OperatorClient, UnreachableError

from trireme.errors import TriremeError
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.repository.loading import missing_part
from trireme.repository.model_config import load_model_config


@dataclass(frozen=True, slots=True)
class Healer:
    """Reloads models of one server.

    Example:
        >>> failure = Healer(client, repository, 180.0, 2.5).reload("encoder", gives_notice=False)

    Attributes:
        load_deadline_seconds: for a model to load.
        notice_seconds: time for a load balancer to detect that the replica is not ready.
    """

    client: OperatorClient
    repository: ModelRepository
    load_deadline_seconds: float
    notice_seconds: float

    def reload(self, model: str, *, gives_notice: bool) -> str:
        """Reload a model; its healthy instances keep serving meanwhile. Returns why it failed, or "".

        Args:
            gives_notice: wait ``notice_seconds`` before unloading the model, if that is necessary.

        Raises:
            UnreachableError: the server exited.
        """
        try:
            folder = self.repository.model(model)
            if part := missing_part(folder, load_model_config(folder.config_path)):
                # The remaining instances of the model are better than nothing.
                return f"{part}; restore it"
            if not _touch(folder):
                # The files are read-only, as in a container: the model must be unloaded for a moment.
                if gives_notice:
                    time.sleep(self.notice_seconds)
                self.client.unload(model, self.load_deadline_seconds)
            self.client.load(model, self.load_deadline_seconds)
        except UnreachableError:
            raise
        except (TriremeError, ClientError, OSError) as error:
            return str(error)
        return ""


def _touch(folder: ModelFolder) -> bool:
    """Triton reloads versions whose files changed; the modification time of the directory is sufficient."""
    try:
        for version in folder.versions():
            os.utime(folder.version_dir(version))
    except OSError:
        return False
    return True
