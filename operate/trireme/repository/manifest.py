"""``manifest.json`` of a version directory: its files, their origins and their measured quality.

Example:
    >>> manifest = read_manifest(Path("model_repository/embedding_standard_encoder/1"))
    >>> verify_files(manifest, Path("model_repository/embedding_standard_encoder/1"))
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trireme.documents import read_json
from trireme.errors import TriremeError
from trireme.files import write_json_atomic

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and hash of a file when it was written."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """A package from which files were created.

    Attributes:
        package, version, sha256: name and version in the package index, and hash of the downloaded archive.
        origin: name under which the model was published.
        licence: SPDX identifier.
    """

    package: str
    version: str
    sha256: str
    origin: str
    licence: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Properties of the ONNX graph.

    Attributes:
        precision: ``fp32`` or ``int8``.
        opset: version of the default operator set.
        quantized_operators: nodes that compute in integers; 0 for fp32.
        cpu_flags: instruction sets of the exporting machine that affect int8 results (``avx512_vnni``, ...).
    """

    precision: str
    opset: int
    quantized_operators: int
    cpu_flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parity:
    """The exported graph compared with its source, for batches of 1, 2 and 5, with short, long and padded rows.

    Attributes:
        max_abs_diff: largest difference of an element. min_cosine: lowest cosine similarity of a row.
        alone_vs_batch_diff: largest difference between a text alone and the same text padded in a batch.
        rows: number of compared rows.
    """

    max_abs_diff: float
    min_cosine: float
    alone_vs_batch_diff: float
    rows: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy of the exported graph on held-out labelled rows.

    Attributes:
        data: name of the data set. measure: ``accuracy`` of the head, or of the nearest neighbour's label.
        accuracy, fp32_accuracy: fraction of correct predictions, of this graph and of its fp32 source.
        train_rows, held_out_rows, seed: the split. max_logit_error, mean_logit_error: against fp32; None without head.
    """

    data: str
    measure: str
    accuracy: float
    fp32_accuracy: float
    train_rows: int
    held_out_rows: int
    seed: int
    max_logit_error: float | None = None
    mean_logit_error: float | None = None


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of a language model on a bundled text of ``tokens`` tokens, computed by its engine; 1 is perfect.

    Attributes:
        engine: name and version of the engine.
    """

    perplexity: float
    tokens: int
    engine: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The recorded facts about a version directory.

    Attributes:
        inputs_sha256: hash of everything that determines the files: recipe, source hashes, exporter.
        exporter: version of the exporter.
        files: by name, without this manifest.
        graph, parity, accuracy: None without an ONNX graph.
        perplexity: None without a language model.
    """

    inputs_sha256: str
    exporter: str
    origins: tuple[Origin, ...]
    files: Mapping[str, FileRecord]
    graph: Graph | None = None
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    perplexity: Perplexity | None = None


def record_files(paths: Iterable[Path]) -> dict[str, FileRecord]:
    """Size and hash of each file, by name."""
    return {path.name: FileRecord(path.stat().st_size, sha256_of(path)) for path in sorted(paths)}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(manifest: Manifest, version_dir: Path) -> None:
    """Write ``manifest.json`` into a version directory.

    Raises:
        OSError: the file cannot be written.
    """
    write_json_atomic(version_dir / MANIFEST_NAME, asdict(manifest))


def read_manifest(version_dir: Path) -> Manifest:
    """The manifest of a version directory.

    Raises:
        ConfigError: it is invalid.
        FileNotFoundError: it does not exist.
    """
    return read_json(Manifest, version_dir / MANIFEST_NAME, fix="export the model again")


def verify_files(manifest: Manifest, version_dir: Path) -> None:
    """Check that every recorded file exists and is unchanged.

    Raises:
        TriremeError: a file is missing, truncated or changed; the message names it.
    """
    for name, record in manifest.files.items():
        path = version_dir / name
        if not path.is_file():
            raise TriremeError(f"{path} is missing; export or publish it again")
        size = path.stat().st_size
        if size != record.size_bytes:
            raise TriremeError(
                f"{path} has {size} bytes, its manifest records {record.size_bytes}; export or publish it again"
            )
        if sha256_of(path) != record.sha256:
            raise TriremeError(f"{path} does not match the sha256 in its manifest; export or publish it again")
