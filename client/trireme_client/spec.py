"""A model's inputs, outputs and batch size, read from the server's model configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from trireme_client._protos import Message, config_pb
from trireme_client.errors import InvalidInputError

# Model configuration and inference protocol disagree on one name.
_DATATYPES = {
    number: "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")
    for name, number in config_pb.DataType.items()
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        dims: without the batch dimension; -1 for any size.
        shape: with the batch dimension.
        optional: whether a request may omit the input.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    shape: tuple[int, ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class Pin:
    """The version of the model that does the work of a one-step ensemble."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as the server describes it.

    Attributes:
        max_batch_size: rows per request; 0: the model has no batch dimension.
        decoupled: the model may send any number of responses, so it is called with ``stream``.
        parameters: of its ``config.pbtxt``, e.g. the ``task`` and ``tier`` of a variant.
        pin: of a one-step ensemble that keeps the names of all tensors; None for any other model.
    """

    name: str
    max_batch_size: int
    decoupled: bool
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    parameters: dict[str, str] = field(default_factory=dict)
    pin: Pin | None = None

    @classmethod
    def from_config(cls, config: Message) -> ModelSpec:
        """Read an ``inference.ModelConfig`` message."""
        batch = (-1,) if config.max_batch_size > 0 else ()

        def tensor(described: Message, *, optional: bool) -> TensorSpec:
            dims = tuple(described.dims)
            return TensorSpec(described.name, _DATATYPES[described.data_type], dims, batch + dims, optional)

        return cls(
            name=config.name,
            max_batch_size=config.max_batch_size,
            decoupled=config.model_transaction_policy.decoupled,
            inputs={given.name: tensor(given, optional=given.optional) for given in config.input},
            outputs={made.name: tensor(made, optional=False) for made in config.output},
            parameters={name: parameter.string_value for name, parameter in config.parameters.items()},
            pin=_pin(config),
        )

    def wire_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The wire shape of a value of ``shape``: checked against the model; a missing batch dimension is added if only
        one reading is possible (a list of n values for one value per row becomes n rows; a single value one row).

        Raises:
            InvalidInputError: the shape does not fit.
        """
        if shape == () and all(dim in (1, -1) for dim in spec.dims):
            shape = (1,) * len(spec.shape)
        elif len(shape) == 1 and spec.shape == (-1, 1):
            shape = (shape[0], 1)
        # A loop, since every call runs this.
        fits = len(shape) == len(spec.shape)
        for want, got in zip(spec.shape, shape, strict=False):
            fits = fits and want in (-1, got)
        if not fits:
            batch = "; the first dimension is the batch" if self.max_batch_size else ""
            raise InvalidInputError(
                spec.name, f"expected shape {list(spec.shape)}, got {list(shape)} (-1 is any size{batch})"
            )
        return shape


def _pin(config: Message) -> Pin | None:
    steps = config.ensemble_scheduling.step
    if len(steps) != 1:
        return None
    step = steps[0]
    renames = any(inner != outer for names in (step.input_map, step.output_map) for inner, outer in names.items())
    # Version -1 is the latest one.
    return None if renames or step.model_version < 1 else Pin(step.model_name, str(step.model_version))
