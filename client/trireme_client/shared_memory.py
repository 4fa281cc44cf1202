"""Tensors shared between client and server on one machine instead of copied through a socket."""

from __future__ import annotations

import itertools
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_client.errors import ClosedError, InvalidInputError, InvalidRequestError
from trireme_client.tensors import DTYPES, Array, encode

_PREFIX = "trireme-client"
_ALIGNMENT_BYTES = 64
_numbers = itertools.count()
_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}


class SharedRegion:
    """A memory region that holds tensors one after the other.

    Its name is unique and begins with this process's id. If this process dies, the standard library's resource tracker
    removes the memory, and the next client that opens a region unregisters it from the server.
    """

    def __init__(self, byte_size: int) -> None:
        if byte_size < 1:
            raise InvalidRequestError(f"a shared memory region has {byte_size} bytes; it must have at least 1")
        self.name = f"{_PREFIX}-{os.getpid()}-{next(_numbers)}-{secrets.token_hex(4)}"
        self.byte_size = byte_size
        self._memory: SharedMemory | None = SharedMemory(self.name, create=True, size=byte_size)
        self._used = 0
        self._lock = threading.Lock()

    @property
    def key(self) -> str:
        """The name under which the server opens the region."""
        return f"/{self.name}"

    def put(self, value: npt.NDArray[Any] | Sequence[str | bytes]) -> SharedTensor:
        """Copy an array or texts (BYTES) into the region.

        Raises:
            InvalidRequestError: the value does not fit into the remaining space.
            InvalidInputError: the array's dtype has no datatype, or an element is not text.
        """
        if isinstance(value, np.ndarray) and value.dtype != object:
            tensor = self.reserve(value.shape, value.dtype)
            tensor.array[...] = value
            return tensor
        texts = np.asarray(value, dtype=object)
        raw = encode(self.name, "BYTES", texts)
        tensor = self._allocate("BYTES", texts.shape, len(raw))
        tensor.view(len(raw))[:] = raw
        return tensor

    def reserve(self, shape: Sequence[int], dtype: npt.DTypeLike) -> SharedTensor:
        """Reserve space for a tensor: write an input through ``array``, or name it in ``outputs``.

        Raises:
            InvalidRequestError: the tensor does not fit into the remaining space.
            InvalidInputError: no datatype of a fixed size has this dtype.
        """
        wanted = np.dtype(dtype)
        datatype = _DATATYPES.get(wanted, "BYTES")
        if datatype == "BYTES":
            raise InvalidInputError(self.name, f"dtype {wanted} has no fixed size; use put or reserve_bytes")
        size = int(np.prod(shape, dtype=np.int64)) * wanted.itemsize
        return self._allocate(datatype, tuple(shape), size)

    def reserve_bytes(self, byte_size: int) -> SharedTensor:
        """Reserve space for a BYTES output, including four bytes for each element's length."""
        return self._allocate("BYTES", (), byte_size)

    def _allocate(self, datatype: str, shape: tuple[int, ...], size: int) -> SharedTensor:
        with self._lock:
            offset = -(-self._used // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
            if offset + size > self.byte_size:
                raise InvalidRequestError(
                    f"{size:,} bytes do not fit into the region's {self.byte_size:,}, of which {self._used:,} are used"
                )
            self._used = offset + size
        return SharedTensor(self, datatype, shape, offset, size)

    def buffer(self, offset: int, size: int) -> memoryview:
        """A part of the memory.

        Raises:
            ClosedError: the region was closed.
        """
        if self._memory is None:
            raise ClosedError("the shared memory region is closed; copy its data before the end of the block")
        memory = self._memory.buf
        assert memory is not None  # only after close
        return memory[offset : offset + size]

    def close(self) -> None:
        """Remove the memory; arrays that still view it keep their pages until they are deleted."""
        memory, self._memory = self._memory, None
        if memory is None:
            return
        memory.unlink()
        try:
            memory.close()
        except BufferError:
            # A caller's array still views the memory: its pages go with that array; the name is gone already.
            memory._mmap = None  # type: ignore[attr-defined]
            memory._buf = None  # type: ignore[attr-defined]
            memory.close()


@dataclass(frozen=True, slots=True)
class SharedTensor:
    """The location of a tensor in a region, for an input or an output."""

    region: SharedRegion
    datatype: str
    shape: tuple[int, ...]
    offset: int
    byte_size: int

    @property
    def array(self) -> Array:
        """The tensor, readable and writable in place; not for BYTES."""
        if self.datatype == "BYTES":
            raise InvalidInputError(self.region.name, "BYTES cannot be read in place; read the result's output instead")
        # frombuffer, not ndarray(buffer=...): the latter lets the memory be unmapped under the array.
        return np.frombuffer(self.view(self.byte_size), DTYPES[self.datatype]).reshape(self.shape)

    def view(self, size: int) -> memoryview:
        """The first ``size`` bytes.

        Raises:
            ValueError: the tensor is smaller.
        """
        if not 0 <= size <= self.byte_size:
            raise ValueError(f"{size} bytes requested from a shared tensor of {self.byte_size}")
        return self.region.buffer(self.offset, size)

    def set_parameters(self, parameters: Any) -> None:
        """Set a request tensor's parameters to this location."""
        parameters["shared_memory_region"].string_param = self.region.name
        parameters["shared_memory_byte_size"].int64_param = self.byte_size
        parameters["shared_memory_offset"].int64_param = self.offset


def owner_is_dead(name: str) -> bool:
    """Whether a region registered as ``name`` belongs to a process of this client that no longer exists."""
    prefix, _, rest = name.rpartition(f"{_PREFIX}-")
    pid = rest.partition("-")[0]
    if prefix or not rest or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
