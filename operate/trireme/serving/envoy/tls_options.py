"""The options of commands that put TLS before the replicas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from trireme.serving.envoy.endpoint import TlsFiles

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)


def tls_options(command: Command) -> Command:
    """Adds ``tls_certificate``, ``tls_key`` and ``tls_client_ca``, each a path or None."""
    for option in (
        click.option("--tls-client-ca", type=_FILE, help="Callers must show a certificate that this authority signed."),
        click.option("--tls-key", type=_FILE, help="PEM file of the certificate's key, without a password."),
        click.option("--tls-certificate", type=_FILE, help="PEM file; callers must come with TLS, and are shown it."),
    ):
        command = option(command)
    return command


def tls_files(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """What the options say; None without them.

    Raises:
        UsageError: some are there without the others that they need.
    """
    if certificate and key:
        return TlsFiles(certificate, key, client_ca)
    if certificate or key or client_ca:
        raise click.UsageError("--tls-certificate and --tls-key go together, and --tls-client-ca with both")
    return None
