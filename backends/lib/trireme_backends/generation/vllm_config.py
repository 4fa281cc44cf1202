"""Reads a version directory of the ``vllm`` backend, in the format of NVIDIA's backend of that name.

``model.json`` has vLLM's engine arguments; ``multi_lora.json``, read if ``enable_lora`` is true, maps the name of each
adapter to its directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme_backends.errors import ModelError
from trireme_backends.model import Model
from trireme_backends.strict_json import read_json

ENGINE_ARGUMENTS = "model.json"
ADAPTERS = "multi_lora.json"


@dataclass(frozen=True, slots=True)
class VllmConfig:
    """The configuration of one version's engine.

    Attributes:
        arguments: of vLLM's ``EngineArgs``, with relative paths resolved.
        adapters: the directories of the LoRA adapters, by name.
    """

    arguments: Mapping[str, Any]
    adapters: Mapping[str, Path]

    @classmethod
    def read(cls, model: Model) -> VllmConfig:
        """Read the version directory.

        Raises:
            ModelError: a file is missing or malformed, or an adapter's directory is missing.
        """
        arguments = read_json(model.file(ENGINE_ARGUMENTS), dict[str, Any])
        if not isinstance(arguments.get("model"), str):
            raise ModelError(
                f"{model.version_dir / ENGINE_ARGUMENTS}: 'model' must be a directory or the name of a model"
            )
        arguments["model"] = path_or_name(model.version_dir, arguments["model"])
        adapters: dict[str, Path] = {}
        if str(arguments.get("enable_lora", "")).lower() == "true":
            arguments["enable_lora"] = True
            for name, folder in read_json(model.file(ADAPTERS), dict[str, Any]).items():
                path = Path(path_or_name(model.version_dir, str(folder)))
                if not (path / "adapter_config.json").is_file():
                    raise ModelError(
                        f"{model.version_dir / ADAPTERS}: adapter '{name}': {path} has no adapter_config.json"
                    )
                adapters[name] = path
            arguments["max_loras"] = _adapter_slots(model, arguments, len(adapters))
        return cls(arguments, adapters)


def _adapter_slots(model: Model, arguments: Mapping[str, Any], adapters: int) -> int:
    """``max_loras``, by default one more than there are adapters.

    vLLM on a CPU assigns the last slot to requests without an adapter if others in the batch have one
    (``torch_ops/lora_ops.py`` indexes with -1), so that slot must stay empty.
    """
    slots = arguments.get("max_loras", adapters + 1)
    if not isinstance(slots, int) or slots <= adapters:
        raise ModelError(
            f"{model.version_dir / ENGINE_ARGUMENTS}: max_loras is {slots} for {adapters} adapters; it must be at "
            f"least {adapters + 1}, because vLLM on a CPU needs one empty slot; raise it or remove it"
        )
    return slots


def path_or_name(version_dir: Path, text: str) -> str:
    """The path of ``text`` in the version directory or in the repository if it exists there, otherwise ``text``.

    NVIDIA's backend resolves paths in the repository too, if the server runs in the repository's directory.
    """
    for base in (version_dir, version_dir.parents[1]):
        if (base / text).exists():
            return str(base / text)
    return text
