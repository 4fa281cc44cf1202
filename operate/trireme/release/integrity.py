"""Check that the versions in a repository are as they were exported and published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from trireme.errors import ConfigError, TriremeError
from trireme.release.journal import Journal, Outcome
from trireme.release.step import CopyVersion, from_json
from trireme.repository.folders import ModelFolder, version_files
from trireme.repository.manifest import MANIFEST_NAME, read_manifest, sha256_of, verify_files

SIGNATURE_NAME = f"{MANIFEST_NAME}.sig"


@dataclass(frozen=True, slots=True)
class VersionCheck:
    """The check of one version: ``problem`` is empty if it is intact; ``by`` lists what it was compared with."""

    model: str
    version: int
    by: str
    problem: str


def verify_versions(
    folders: Iterable[ModelFolder], journal: Journal, public_key: Path | None = None
) -> list[VersionCheck]:
    """Hash every file of every version and compare it with the manifest and with what was published.

    A version that has neither is not checked: its ``by`` is empty.

    Args:
        public_key: PEM of an Ed25519 key; if given, it must have signed each manifest, in ``manifest.json.sig``.
    """
    key = _read_public_key(public_key) if public_key is not None else None
    published = _published_hashes(journal)
    return [
        _verify(folder, version, published.get((folder.name, version)), key)
        for folder in folders
        for version in folder.versions()
    ]


def _verify(
    folder: ModelFolder, version: int, published: Mapping[str, str] | None, public_key: Ed25519PublicKey | None
) -> VersionCheck:
    directory = folder.version_dir(version)
    compared_with = []
    try:
        if (directory / MANIFEST_NAME).is_file():
            compared_with.append("manifest")
            verify_files(read_manifest(directory), directory)
        if published is not None:
            compared_with.append("journal")
            _verify_published(directory, published)
        if public_key is not None and compared_with:
            compared_with.append("signature")
            _verify_signature(directory, public_key)
    except (TriremeError, OSError) as error:
        return VersionCheck(folder.name, version, ", ".join(compared_with), str(error))
    return VersionCheck(folder.name, version, ", ".join(compared_with), "")


def _verify_published(directory: Path, published: Mapping[str, str]) -> None:
    present = {str(path.relative_to(directory)) for path in version_files(directory)}
    for name in sorted(present | set(published)):
        if name not in published:
            raise TriremeError(f"{directory / name} was not published with this version; remove it")
        if name not in present:
            raise TriremeError(f"{directory / name} is missing; publish this version again")
        if sha256_of(directory / name) != published[name]:
            raise TriremeError(f"{directory / name} does not have the published sha256; publish this version again")


def _read_public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(path, "not an Ed25519 public key in PEM; create one with: openssl pkey -pubout")
    return key


def _verify_signature(directory: Path, public_key: Ed25519PublicKey) -> None:
    signature = directory / SIGNATURE_NAME
    if not signature.is_file():
        raise TriremeError(f"{signature} is missing; sign {MANIFEST_NAME} with the private key")
    try:
        public_key.verify(signature.read_bytes(), (directory / MANIFEST_NAME).read_bytes())
    except InvalidSignature:
        raise TriremeError(f"{signature} is not a signature of {MANIFEST_NAME} by this key; sign it again") from None


def _published_hashes(journal: Journal) -> dict[tuple[str, int], Mapping[str, str]]:
    hashes: dict[tuple[str, int], Mapping[str, str]] = {}
    for release in journal.releases():
        if release.verb == "publish" and release.outcome is Outcome.DONE:
            copied = (from_json(form) for form in release.steps)
            hashes |= {(step.model, step.version): step.files for step in copied if isinstance(step, CopyVersion)}
    return hashes
