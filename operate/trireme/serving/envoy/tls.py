"""TLS of the listeners: the files and their command-line options."""

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
    """PEM files of the listeners; with ``client_ca``, callers must present a certificate signed by it (mTLS)."""

    certificate: Path
    private_key: Path
    client_ca: Path | None = None

    @classmethod
    def from_options(cls, certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
        """Return the files given by ``tls_options``; None without any.

        Raises:
            UsageError: the options are incomplete.
        """
        if certificate and key:
            return cls(certificate, key, client_ca)
        if certificate or key or client_ca:
            raise click.UsageError("--tls-certificate and --tls-key must be given together; --tls-client-ca needs both")
        return None

    def check(self) -> None:
        """Check that Envoy can use the files.

        Raises:
            TriremeError: a file cannot be read, has other content, or the key does not match the certificate.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for path in (self.certificate, self.private_key, self.client_ca):
            try:
                if path:
                    path.read_bytes()
            except OSError as error:
                raise TriremeError(f"{path}: cannot be read ({error.strerror}); TLS requires it") from None
        try:
            # Without a password: nobody could type it when Envoy is restarted.
            context.load_cert_chain(self.certificate, self.private_key, password=b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise TriremeError(
                f"{self.certificate} and {self.private_key}: not a PEM certificate with its private key, without a "
                f"password: {error}"
            ) from None
        try:
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
        except ssl.SSLError as error:
            raise TriremeError(f"{self.client_ca}: contains no PEM certificate of a CA: {error}") from None


def tls_options(command: Command) -> Command:
    """Add the options ``tls_certificate``, ``tls_key`` and ``tls_client_ca``, each a path or None."""
    for option in (
        click.option("--tls-client-ca", type=_FILE, help="PEM file; callers need a certificate signed by this CA."),
        click.option("--tls-key", type=_FILE, help="PEM file of the certificate's private key, without a password."),
        click.option("--tls-certificate", type=_FILE, help="PEM file of the server certificate; callers must use TLS."),
    ):
        command = option(command)
    return command
