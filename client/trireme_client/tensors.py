"""Converts values to tensors and back, without loss or with an error.

A numpy array is cast only if every value of its dtype fits the model's datatype (INT32 to INT64, not FP64 to FP32).
Python numbers and lists have no dtype: each value is checked. BF16 accepts ``ml_dtypes.bfloat16`` arrays only, because
rounding is the caller's decision.

Source of the datatypes and the BYTES encoding (little-endian length, then the bytes): Open Inference Protocol (KServe
v2), "Tensor Data Types" and Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from trireme_client.errors import InvalidInputError

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8), "UINT16": np.dtype(np.uint16), "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64), "INT8": np.dtype(np.int8), "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32), "INT64": np.dtype(np.int64), "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64), "BF16": np.dtype(ml_dtypes.bfloat16),
    "BYTES": np.dtype(np.object_),
}  # fmt: skip

_LENGTH = struct.Struct("<I")


def datatype_of(tensor: str, array: Array) -> str:
    """The datatype of an array that is sent unchanged.

    Raises:
        InvalidInputError: no datatype has the array's dtype.
    """
    if array.dtype.kind in "SU":
        return "BYTES"
    found = next((datatype for datatype, dtype in DTYPES.items() if dtype == array.dtype), None)
    if found is None:
        raise InvalidInputError(tensor, f"is an array of {array.dtype}, which has no datatype")
    return found


def to_array(tensor: str, datatype: str, value: object) -> Array:
    """Convert ``value`` to an array of the model's ``datatype`` (BYTES: dtype object, elements ``str`` or ``bytes``).

    Raises:
        InvalidInputError: the value does not fit without loss; names the tensor, the expected and the actual value.
    """
    wanted = DTYPES[datatype]
    if isinstance(value, (np.ndarray, np.generic)):
        return _cast(tensor, datatype, wanted, np.asarray(value))
    if datatype == "BYTES":
        return _text_array(tensor, value)
    if isinstance(next(_flat(value), None), (np.ndarray, np.generic)):
        return _cast(tensor, datatype, wanted, np.asarray(value))
    if datatype == "BF16":
        raise InvalidInputError(
            tensor,
            "expected an array of dtype ml_dtypes.bfloat16, got Python values, which would have to be rounded",
        )
    return _from_python(tensor, datatype, wanted, value)


def _cast(tensor: str, datatype: str, wanted: np.dtype[Any], array: Array) -> Array:
    got = array.dtype
    if got == wanted:
        return array
    if datatype == "BYTES":
        if got.kind in "UT":
            return array.astype(object)
        hint = ""
        if got.kind == "S":
            hint = "; numpy's S dtype drops trailing NUL bytes: pass a list of bytes or an array of dtype object"
        raise InvalidInputError(tensor, f"expected BYTES (str or bytes), got an array of {got}{hint}")
    if got.kind == "O":
        return _from_python(tensor, datatype, wanted, array.tolist())
    if not _fits(got, wanted):
        raise InvalidInputError(
            tensor, f"expected {datatype}, got an array of {got}, which does not fit without loss; cast it yourself"
        )
    return array.astype(wanted)


def _fits(got: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    # numpy considers int64 to float64 safe, yet 2**53 + 1 does not survive it.
    if got.kind in "iu" and got.itemsize == 8 and wanted.kind == "f":
        return False
    # numpy defines no order between its own floats and bfloat16; only the casts to 32 and 64 bits are exact.
    if DTYPES["BF16"] in (got, wanted):
        return got == DTYPES["BF16"] and wanted in (DTYPES["FP32"], DTYPES["FP64"])
    return got.kind in "biuf" and np.can_cast(got, wanted, casting="safe")


def _from_python(tensor: str, datatype: str, wanted: np.dtype[Any], value: object) -> Array:
    try:
        loose = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(tensor, f"expected {datatype} values in a regular shape: {error}") from None
    if loose.size == 0:
        return loose.astype(wanted)
    allowed = {"b": "b", "i": "biu", "u": "biu", "f": "biuf"}[wanted.kind]
    if loose.dtype.kind not in allowed:
        types: Any = {"b": bool, "i": int, "u": int, "f": (int, float)}[wanted.kind]
        # No value has a wrong type: one is an integer of more than 64 bits.
        odd = next((item for item in _flat(value) if not isinstance(item, types)), None)
        odd = max(_flat(value), key=abs) if odd is None and None not in _flat(value) else odd
        raise InvalidInputError(tensor, f"expected {datatype}, got the value {odd!r}")
    with np.errstate(over="ignore", invalid="ignore"):
        array = loose.astype(wanted)
    lost = _lost(loose, array)
    if lost.any():
        where = int(np.flatnonzero(lost)[0])
        raise InvalidInputError(
            tensor, f"expected {datatype}, got {loose.reshape(-1)[where]!s} at index {where}, which does not fit"
        )
    return array


def _lost(loose: Array, array: Array) -> npt.NDArray[np.bool_]:
    """Where a Python number was changed: an integer with another value, or a float that became infinite."""
    if loose.dtype.kind == "f":
        return np.isinf(array) & ~np.isinf(loose)
    if array.dtype.kind == "f":
        # Compared as Python integers: comparing int64 with float64 would round both sides alike.
        changed = [not np.isfinite(a) or int(a) != int(b) for a, b in zip(array.flat, loose.flat, strict=True)]
        return np.array(changed, dtype=np.bool_)
    return np.asarray((array != loose) | ((array < 0) != (loose < 0)), dtype=np.bool_).reshape(-1)


def _flat(value: object) -> Any:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _text_array(tensor: str, value: object) -> Array:
    """Nested lists of str or bytes as an object array; numpy would drop NULs, so the shape is computed here."""
    shape: list[int] = []
    level = value
    while isinstance(level, (list, tuple)):
        shape.append(len(level))
        if not level:
            break
        level = level[0]
    flat = list(_flat(value))
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    try:
        return array.reshape(shape)
    except ValueError:
        raise InvalidInputError(tensor, "expected BYTES in a regular shape, got rows of different lengths") from None


def encode(tensor: str, datatype: str, array: Array) -> bytes:
    """The raw bytes of a tensor that already has the model's dtype.

    Raises:
        InvalidInputError: an element of a BYTES tensor is not text; names its index in row-major order.
    """
    if datatype != "BYTES":
        return array.tobytes()  # row-major, whatever the array's strides
    parts: list[bytes] = []
    for index, item in enumerate(array.reshape(-1).tolist()):
        if isinstance(item, str):
            try:
                data = item.encode()
            except UnicodeEncodeError as error:
                raise InvalidInputError(tensor, f"element {index} is not valid Unicode text: {error.reason}") from None
        elif isinstance(item, bytes):
            data = item
        else:
            raise InvalidInputError(tensor, f"element {index} is {item!r}; expected str or bytes")
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    return b"".join(parts)


def decode(datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Array:
    """A tensor from its raw bytes: a view of them, or for BYTES an array of dtype object with ``bytes``.

    Raises:
        ValueError: the bytes are not a tensor of that shape.
    """
    if datatype != "BYTES":
        return np.frombuffer(raw, dtype=DTYPES[datatype]).reshape(shape)
    items: list[bytes] = []
    at = 0
    try:
        for _ in range(math.prod(shape)):
            (length,) = _LENGTH.unpack_from(raw, at)
            at += _LENGTH.size + length
            items.append(bytes(raw[at - length : at]))
    except struct.error:
        at = len(raw) + 1
    if at > len(raw):
        raise ValueError(f"a BYTES tensor of shape {list(shape)} ends early, after {len(raw)} bytes")
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def byte_size(datatype: str, array: Array) -> int:
    """Minimum number of bytes of ``array`` on the wire; allocates nothing, also for a broadcast view."""
    return array.size * (_LENGTH.size if datatype == "BYTES" else DTYPES[datatype].itemsize)
