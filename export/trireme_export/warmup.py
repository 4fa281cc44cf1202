"""Writes Triton's warm-up files, ``<model>/warmup/<case>.<INPUT>``, from the model's golden samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from trireme.errors import ConfigError
from trireme.files import staged_directory
from trireme.repository.folders import ModelFolder
from trireme.repository.golden import load_golden
from trireme.repository.model_config import load_model_config


def write_warmup(folder: ModelFolder) -> bool:
    """Write the files that ``model_warmup`` of a model's configuration names; returns whether any file changed.

    Raises:
        ConfigError: a name is not ``<case>.<INPUT>`` of a golden sample, or its shape differs from the sample's.
    """
    files = _warmup_files(folder)
    if all(_contains(folder.warmup_dir / name, data) for name, data in files.items()):
        return False
    with staged_directory(folder.warmup_dir) as staged:
        for name, data in files.items():
            (staged / name).write_bytes(data)
    return True


def raw_tensor(tensor: npt.NDArray[Any]) -> bytes:
    """A tensor as raw request data: numbers little-endian, BYTES elements prefixed with their length (4 bytes).

    Source: Triton's "Binary Tensor Data Extension".
    """
    if tensor.dtype == np.object_:
        return b"".join(len(element).to_bytes(4, "little") + element for element in tensor.ravel())
    return tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()


def _warmup_files(folder: ModelFolder) -> dict[str, bytes]:
    samples = {sample.case: sample for sample in load_golden(folder)}
    files = {}
    for request in load_model_config(folder.config_path).message.model_warmup:
        for entry in request.inputs.values():
            case, _, tensor_name = entry.input_data_file.partition(".")
            if not tensor_name:
                continue  # zero_data or random_data: no file
            tensor = samples[case].inputs.get(tensor_name) if case in samples else None
            if tensor is None:
                known = ", ".join(f"{sample.case}.{name}" for sample in samples.values() for name in sample.inputs)
                raise ConfigError(
                    folder.config_path,
                    f"no golden sample for warm-up file {entry.input_data_file!r}; available: {known or 'none'}",
                )
            # Triton adds the batch dimension, of size batch_size, in front of the dims.
            if tensor.shape != (request.batch_size, *entry.dims):
                raise ConfigError(
                    folder.config_path,
                    f"warm-up {entry.input_data_file!r} is declared as {[request.batch_size, *entry.dims]}, "
                    f"but the golden sample has {list(tensor.shape)}; correct dims and batch_size",
                )
            files[entry.input_data_file] = raw_tensor(tensor)
    return files


def _contains(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data
