"""A small, random and reproducible LoRA adapter that changes the output of SmolLM2-135M."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

_LAYERS, _HIDDEN, _KEY_VALUE, _RANK = 30, 576, 192, 8


def write_adapter(folder: Path) -> None:
    """Write it in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``."""
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "SmolLM2-135M-Instruct",
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    numbers = np.random.default_rng(0)
    tensors = {}
    for layer in range(_LAYERS):
        for module, width in (("q_proj", _HIDDEN), ("v_proj", _KEY_VALUE)):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = numbers.normal(0, 0.2, (_RANK, _HIDDEN)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = numbers.normal(0, 0.2, (width, _RANK)).astype(np.float32)
    (folder / "adapter_model.safetensors").write_bytes(_safetensors(tensors))


def _safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """The file format: the length of a JSON header, the header, the numbers."""
    header, body, offset = {}, b"", 0
    for name, tensor in tensors.items():
        data = tensor.tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + len(data)]}
        body, offset = body + data, offset + len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
