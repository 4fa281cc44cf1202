"""Certificates for tests of TLS."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

_NAMES = x509.SubjectAlternativeName([x509.DNSName("triton.test"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
_SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True, digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, crl_sign=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


def make_certificates(folder: Path) -> Path:
    """Two authorities, ``ca`` and ``stranger``, and certificates of ``server`` and ``client`` signed by the first.

    Each is ``NAME.pem`` with ``NAME.key``; they name triton.test and 127.0.0.1. ``locked.key`` is the server's key
    behind a password, and ``names`` a file that is not PEM.
    """
    keys = {name: generate_private_key(SECP256R1()) for name in ("ca", "stranger", "server", "client")}
    for name, key in keys.items():
        is_authority = name in ("ca", "stranger")
        issuer = name if is_authority else "ca"
        builder = _certificate(name, key, issuer, keys[issuer])
        if is_authority:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
        else:
            builder = builder.add_extension(_NAMES, critical=False)
        signed = builder.sign(keys[issuer], hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(signed.public_bytes(Encoding.PEM))
        (folder / f"{name}.key").write_bytes(_pem(key, NoEncryption()))
    (folder / "locked.key").write_bytes(_pem(keys["server"], BestAvailableEncryption(b"secret")))
    (folder / "names").write_text("triton.test, 127.0.0.1\n")
    return folder


def _certificate(
    name: str, key: EllipticCurvePrivateKey, issuer: str, issuer_key: EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """With both key identifiers: Python 3.13 insists on the authority's (RFC 5280)."""
    now = datetime.datetime.now(datetime.timezone.utc)
    authority = x509.SubjectKeyIdentifier.from_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .issuer_name(_common_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority), critical=False)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _pem(key: EllipticCurvePrivateKey, encryption: KeySerializationEncryption) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
