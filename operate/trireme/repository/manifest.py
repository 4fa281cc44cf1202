"""``manifest.json`` of a version directory: what the files are, where they come from, and how good they were found.

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
    """One file as it was written."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """A package that files were made from.

    Attributes:
        package, version, sha256: what the package index calls it, and the hash of the fetched archive.
        origin: the name under which the model was published.
        licence: SPDX identifier.
    """

    package: str
    version: str
    sha256: str
    origin: str
    licence: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Facts of the ONNX graph.

    Attributes:
        precision: ``fp32`` or ``int8``.
        opset: version of the default operator set.
        quantized_operators: nodes that compute in integers; 0 for fp32.
        cpu_flags: instruction sets of the exporting machine that change what int8 gives (``avx512_vnni``, ...).
    """

    precision: str
    opset: int
    quantized_operators: int
    cpu_flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parity:
    """The written graph against its source, over batches 1, 2 and 5, short, long and padded rows.

    Attributes:
        max_abs_diff: furthest element. min_cosine: least similarity of a row. alone_vs_batch_diff: furthest element
            between a text alone and the same text padded in a batch. rows: how many rows were compared.
    """

    max_abs_diff: float
    min_cosine: float
    alone_vs_batch_diff: float
    rows: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The written graph on held-out labelled rows.

    Attributes:
        data: name of the data set. measure: ``accuracy`` of the head, or of the nearest neighbour's label.
        accuracy, fp32_accuracy: share of right answers, of this graph and of its fp32 source.
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
    """How well a language model foresees a bundled text of ``tokens`` tokens: 1 is perfect; with its engine's kernels.

    Attributes:
        engine: name and version of what computed it.
    """

    perplexity: float
    tokens: int
    engine: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that is known of a version directory's files.

    Attributes:
        inputs_sha256: hash of all that the files follow from: recipe, source hashes, exporter.
        exporter: version of the exporter.
        files: by name, this manifest itself left out.
        graph, parity, accuracy: None where the directory holds no graph.
        perplexity: None where it holds no language model.
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
    """Hash of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(manifest: Manifest, version_dir: Path) -> None:
    """Write ``manifest.json`` into a version directory.

    Raises:
        OSError: the file could not be written.
    """
    write_json_atomic(version_dir / MANIFEST_NAME, asdict(manifest))


def read_manifest(version_dir: Path) -> Manifest:
    """The manifest of a version directory.

    Raises:
        ConfigError: it is not of this form.
        FileNotFoundError: there is none.
    """
    return read_json(Manifest, version_dir / MANIFEST_NAME, fix="export the model again")


def verify_files(manifest: Manifest, version_dir: Path) -> None:
    """Check that every recorded file is there, whole.

    Raises:
        TriremeError: a file is missing, truncated or changed; the sentence names it.
    """
    for name, record in manifest.files.items():
        path = version_dir / name
        if not path.is_file():
            raise TriremeError(f"{path} is missing; export or publish this version again")
        size = path.stat().st_size
        if size != record.size_bytes:
            raise TriremeError(
                f"{path} has {size} bytes, its manifest says {record.size_bytes}; export or publish this version again"
            )
        if sha256_of(path) != record.sha256:
            raise TriremeError(f"{path} is not what its manifest says (sha256); export or publish this version again")
