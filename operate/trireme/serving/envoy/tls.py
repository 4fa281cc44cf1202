"""TLS of the listeners: its files, and the command line options that name them."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from trireme.errors import TriremeError

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the listeners; with ``client_ca`` callers must show a certificate that it signed (mTLS)."""

    certificate: Path
    private_key: Path
    client_ca: Path | None = None

    @classmethod
    def from_options(cls, certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
        """The files that ``tls_options`` named; None without any.

        Raises:
            UsageError: some are missing that the others need.
        """
        if certificate and key:
            return cls(certificate, key, client_ca)
        if certificate or key or client_ca:
            raise click.UsageError("--tls-certificate and --tls-key go together, and --tls-client-ca with both")
        return None

    def check(self) -> None:
        """Read them as Envoy will.

        Raises:
            TriremeError: one cannot be read, holds something else, or the key is not the certificate's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for path in (self.certificate, self.private_key, self.client_ca):
            try:
                if path:
                    path.read_bytes()
            except OSError as error:
                raise TriremeError(f"{path}: cannot be read ({error.strerror}); TLS needs it") from None
        try:
            # Without a password: nobody is there to type one when Envoy is started again.
            context.load_cert_chain(self.certificate, self.private_key, password=b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise TriremeError(
                f"{self.certificate} and {self.private_key} are no PEM certificate with its own key, without a "
                f"password: {error}"
            ) from None
        try:
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
        except ssl.SSLError as error:
            raise TriremeError(f"{self.client_ca} holds no PEM certificate of an authority: {error}") from None


def tls_options(command: Command) -> Command:
    """Adds the options ``tls_certificate``, ``tls_key`` and ``tls_client_ca``, each a path or None."""
    for option in (
        click.option("--tls-client-ca", type=_FILE, help="Callers must show a certificate that this authority signed."),
        click.option("--tls-key", type=_FILE, help="PEM file of the certificate's key, without a password."),
        click.option("--tls-certificate", type=_FILE, help="PEM file; callers must come with TLS, and are shown it."),
    ):
        command = option(command)
    return command
