"""Has a server load a model again whose process is gone or hangs."""

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
    """Example:
    >>> failure = Healer(client, repository, 180.0, 2.5).load_again("encoder", gives_notice=False)

    Attributes:
        load_deadline_seconds: for a model to load.
        notice_seconds: what a load balancer needs to see that the replica is not ready.
    """

    client: OperatorClient
    repository: ModelRepository
    load_deadline_seconds: float
    notice_seconds: float

    def load_again(self, model: str, *, gives_notice: bool) -> str:
        """Load a model beside its broken instance, whose other instances go on answering; why it failed, or empty.

        Raises:
            UnreachableError: the server has ended.
        """
        try:
            folder = self.repository.model(model)
            if part := missing_part(folder, load_model_config(folder.config_path)):
                # What is left of the model is better than nothing.
                return f"{part}; restore it"
            if not _touch(folder):
                # The files are not ours to touch, in a container: the model goes, for a moment.
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
    """Triton reloads the versions whose files look changed; the time of the directory is enough for that."""
    try:
        for version in folder.versions():
            os.utime(folder.version_dir(version))
    except OSError:
        return False
    return True
