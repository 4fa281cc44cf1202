"""The requests of a load test, as tensors and as serialised bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from trireme.errors import ConfigError
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.repository.golden import Tensors, load_golden
from trireme.settings import Settings
from trireme_client.request import Parameter, read_outputs, set_parameters
from trireme_client.tensors import datatype_of, encode
from tritonclient.grpc import service_pb2

from trireme_loadtest.errors import SpecError

MIXED_TEXTS = 512
SEED = 20
# Words per text: log-normal, like those of the review sentences used by the benchmarks.
MEDIAN_WORDS, SPREAD, MOST_WORDS = 15, 0.52, 120


@dataclass(frozen=True, slots=True)
class WeightedModel:
    """A model of a load test and its share of the requests.

    Attributes:
        weight: relative to the other models; zero sends nothing.
        inputs: of the requests to choose from, at least one.
    """

    model: str
    weight: float
    inputs: Sequence[Tensors]

    @classmethod
    def parse(cls, spec: str, inputs: Path | None) -> WeightedModel:
        """Parse ``MODEL`` or ``MODEL=WEIGHT``.

        Args:
            inputs: file of texts, one per line; default: the golden samples of the model in this checkout.

        Raises:
            SpecError: the weight is negative or not a number.
            NotFoundError: without ``inputs``, the checkout does not have the model.
            ConfigError: ``inputs`` has no texts.
        """
        model, _, written = spec.partition("=")
        try:
            weight = float(written or 1)
        except ValueError:
            weight = -1.0
        if not 0 <= weight < float("inf"):
            raise SpecError(f"the weight of {spec!r} must be a number of at least zero; write {model}=2")
        if inputs:
            return cls(model, weight, inputs_from_file(inputs))
        repository = ModelRepository(Settings.from_environment().repository_dir)
        return cls(model, weight, inputs_from_golden(repository.model(model)))


def inputs_from_file(path: Path) -> list[Tensors]:
    """One request with one ``TEXT`` for each non-empty line.

    Raises:
        ConfigError: the file has no lines or is not UTF-8.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ConfigError(path, f"not UTF-8: byte {error.start}") from None
    if not lines:
        raise ConfigError(path, "has no line to send; write one text per line")
    return [text_tensors(line) for line in lines]


def inputs_from_golden(folder: ModelFolder) -> list[Tensors]:
    """The requests of the model's golden samples; for a text model, their words in texts of mixed length.

    Golden samples have few lengths, and a text model's time depends on the length.

    Raises:
        SpecError: the model has no golden samples.
    """
    samples = [sample.inputs for sample in load_golden(folder)]
    if not samples:
        raise SpecError(f"{folder.name} has no golden samples in {folder.golden_dir}; set --inputs to a file")
    if all(set(inputs) == {"TEXT"} for inputs in samples):
        texts = [value.decode() for inputs in samples for value in inputs["TEXT"].reshape(-1).tolist()]
        return [text_tensors(text) for text in texts_of_mixed_length(texts, MIXED_TEXTS)]
    return samples


def texts_of_mixed_length(texts: Sequence[str], count: int) -> list[str]:
    """``count`` texts from the words of ``texts``, of log-normal length; the same in every run."""
    words = sorted({word for text in texts for word in text.split()})
    if not words:
        raise SpecError("the golden samples have no words to make texts from; set --inputs to a file")
    chance = random.Random(SEED)
    lengths = [min(MOST_WORDS, max(1, round(MEDIAN_WORDS * chance.lognormvariate(0, SPREAD)))) for _ in range(count)]
    return [" ".join(chance.choices(words, k=length)) for length in lengths]


def text_tensors(text: str) -> Tensors:
    """The input of a text model: one row of ``TEXT``, BYTES [1, 1]."""
    return {"TEXT": np.array([[text.encode()]], dtype=np.object_)}


def grpc_body(
    model: str, inputs: Tensors, parameters: Mapping[str, Parameter] | None = None, *, version: str = ""
) -> bytes:
    """A serialised KServe ``ModelInferRequest``."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name, tensor in inputs.items():
        datatype = datatype_of(name, tensor)
        request.inputs.add(name=name, datatype=datatype, shape=tensor.shape)
        request.raw_input_contents.append(encode(name, datatype, tensor))
    set_parameters(request, parameters or {})
    return bytes(request.SerializeToString())


def grpc_outputs(response: bytes) -> Tensors:
    """The outputs of a serialised ``ModelInferResponse``.

    Raises:
        ValueError: the response contradicts itself.
    """
    return read_outputs(service_pb2.ModelInferResponse.FromString(response), None)


def http_body(inputs: Tensors, parameters: Mapping[str, Parameter] | None = None) -> bytes:
    """A KServe inference request as JSON.

    Raises:
        UnicodeDecodeError: a BYTES element is not UTF-8, which JSON cannot carry.
    """
    tensors = [
        {
            "name": name,
            "datatype": datatype_of(name, tensor),
            "shape": list(tensor.shape),
            "data": [value.decode() if isinstance(value, bytes) else value for value in tensor.reshape(-1).tolist()],
        }
        for name, tensor in inputs.items()
    ]
    return json.dumps({"inputs": tensors, **({"parameters": dict(parameters)} if parameters else {})}).encode()
