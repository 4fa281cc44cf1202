"""The tensors of an ONNX graph: completes a configuration with them, and compares a configuration with them.

Source of the rules: the native backend (triton-inference-server/onnxruntime_backend, release 24.10), its
``AutoCompleteConfig``, ``ValidateInputs``, ``ValidateOutputs`` and ``CompareDimsSupported``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime

from trireme_backends.errors import ModelError

Config = Mapping[str, Any]

# The default of max_batch_size; Triton's --backend-config=onnxruntime,default-max-batch-size.
_DEFAULT_MAX_BATCH_SIZE = 4
_NO_BATCH = "write max_batch_size: 0, or export the model with a variable batch dimension"

_DATA_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(double)": "TYPE_FP64",
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(string)": "TYPE_STRING",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(uint8)": "TYPE_UINT8",
}


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output of the graph; ``shape`` has -1 for a variable dimension and is empty for a scalar."""

    name: str
    data_type: str
    shape: tuple[int, ...]

    @classmethod
    def from_session(cls, node: onnxruntime.NodeArg) -> GraphTensor:
        """Read one input or output of a session.

        Raises:
            ModelError: Triton has no tensor of this type (a sequence, a map, bfloat16, ...).
        """
        if node.type not in _DATA_TYPES:
            raise ModelError(f"tensor '{node.name}' of the graph has the type {node.type}; Triton does not support it")
        shape = tuple(dim if isinstance(dim, int) else -1 for dim in node.shape)
        return cls(node.name, _DATA_TYPES[node.type], shape)


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a graph; ``optional_inputs`` have an initial value in it."""

    inputs: tuple[GraphTensor, ...]
    optional_inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]

    @classmethod
    def from_session(cls, session: onnxruntime.InferenceSession) -> Signature:
        """Read the signature of a loaded model.

        Raises:
            ModelError: Triton does not support one of its tensors.
        """
        groups = (session.get_inputs(), session.get_overridable_initializers(), session.get_outputs())
        return cls(*(tuple(GraphTensor.from_session(node) for node in group) for group in groups))

    @property
    def batches(self) -> bool:
        """Whether every tensor has a variable first dimension, which Triton then uses as the batch."""
        return all(tensor.shape[:1] == (-1,) for tensor in (*self.inputs, *self.outputs))


@dataclass(frozen=True, slots=True)
class Completion:
    """A configuration's fields after completion; ``dynamic_batching``: whether to enable it."""

    max_batch_size: int
    dynamic_batching: bool
    inputs: list[Mapping[str, Any]]
    outputs: list[Mapping[str, Any]]


def complete(config: Config, signature: Signature) -> Completion:
    """Complete a configuration without inputs or without outputs as the native backend does.

    Raises:
        ModelError: ``max_batch_size`` is set, but the graph cannot batch.
    """
    max_batch_size = config.get("max_batch_size", 0)
    if not signature.batches and max_batch_size:
        fixed = next(tensor for tensor in (*signature.inputs, *signature.outputs) if tensor.shape[:1] != (-1,))
        raise ModelError(
            f"max_batch_size is {max_batch_size}, but the graph cannot batch: the first dimension of '{fixed.name}' "
            f"{list(fixed.shape)} is fixed; {_NO_BATCH}"
        )
    if signature.batches:
        max_batch_size = max_batch_size or _DEFAULT_MAX_BATCH_SIZE
    scheduled = "sequence_batching" in config or "dynamic_batching" in config
    return Completion(
        max_batch_size,
        dynamic_batching=max_batch_size > 1 and not scheduled,
        inputs=config.get("input") or [_entry(tensor, max_batch_size) for tensor in signature.inputs],
        outputs=config.get("output") or [_entry(tensor, max_batch_size) for tensor in signature.outputs],
    )


def _entry(tensor: GraphTensor, max_batch_size: int) -> Mapping[str, Any]:
    dims = list(tensor.shape[1:] if max_batch_size else tensor.shape)
    entry: dict[str, Any] = {"name": tensor.name, "data_type": tensor.data_type, "dims": dims or [1]}
    if not dims and max_batch_size:
        entry["reshape"] = {"shape": []}  # Triton does not allow empty dims: callers see [1], the graph a scalar
    return entry


def signature_problems(config: Config, signature: Signature) -> list[str]:
    """The differences between the configuration's tensors and the graph's, one message each."""
    return [*_input_problems(config, signature), *_output_problems(config, signature)]


def _input_problems(config: Config, signature: Signature) -> Iterator[str]:
    declared = config.get("input", [])
    known = {tensor.name: tensor for tensor in (*signature.inputs, *signature.optional_inputs)}
    controls = {control["name"] for control in config.get("sequence_batching", {}).get("control_input", [])}
    for name in sorted(
        {tensor.name for tensor in signature.inputs} - {tensor["name"] for tensor in declared} - controls
    ):
        yield f"the graph requires input '{name}'; add it to the configuration"
    for name in sorted(controls - known.keys()):
        yield f"sequence control '{name}' is not an input of the graph; available: {', '.join(sorted(known))}"
    for tensor in declared:
        yield from _tensor_problems("input", tensor, known, config.get("max_batch_size", 0))


def _output_problems(config: Config, signature: Signature) -> Iterator[str]:
    known = {tensor.name: tensor for tensor in signature.outputs}
    for tensor in config.get("output", []):
        yield from _tensor_problems("output", tensor, known, config.get("max_batch_size", 0))


def _tensor_problems(
    kind: str, declared: Mapping[str, Any], known: Mapping[str, GraphTensor], max_batch_size: int
) -> Iterator[str]:
    name = declared["name"]
    if name not in known:
        yield f"{kind} '{name}' is not in the graph; available: {', '.join(sorted(known))}"
        return
    graph = known[name]
    if declared["data_type"] != graph.data_type:
        yield f"{kind} '{name}' is {declared['data_type']} in the configuration, but {graph.data_type} in the graph"
    reshape = declared.get("reshape")
    dims = [int(dim) for dim in (declared.get("dims", []) if reshape is None else reshape.get("shape", []))]
    if not graph.shape and not max_batch_size:
        if any(dim != 1 for dim in dims):
            yield f"{kind} '{name}' is a scalar in the graph; write dims: [1], not {dims}"
        return
    if max_batch_size and graph.shape[:1] != (-1,):
        yield f"{kind} '{name}' is {list(graph.shape)} in the graph, so it cannot be batched; {_NO_BATCH}"
        return
    full = [-1, *dims] if max_batch_size else dims
    if not _shapes_match(full, graph.shape, exactly=kind == "output"):
        batch = " (batch dimension included)" if max_batch_size else ""
        fix = _dims_fix(dims, graph.shape, max_batch_size)
        yield f"{kind} '{name}' is {full} in the configuration{batch}, but {list(graph.shape)} in the graph; {fix}"


def _shapes_match(full: Sequence[int], shape: Sequence[int], *, exactly: bool) -> bool:
    if len(full) != len(shape):
        return False
    return all(
        configured == actual or (actual == -1 and not exactly) for configured, actual in zip(full, shape, strict=True)
    )


def _dims_fix(dims: Sequence[int], shape: Sequence[int], max_batch_size: int) -> str:
    if not max_batch_size:
        return f"write dims: {list(shape)}"
    fix = f"write dims: {list(shape[1:])}"
    if len(dims) == len(shape):
        # The usual cause: Triton completed max_batch_size, because inputs or outputs are missing.
        return f"{fix}, or max_batch_size: 0 with both inputs and outputs"
    return fix
