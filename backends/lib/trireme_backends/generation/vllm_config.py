"""What a version folder of the ``vllm`` backend says, in the files of NVIDIA's backend of that name.

``model.json`` holds vLLM's engine arguments; ``multi_lora.json``, where ``enable_lora`` is on, maps the name of each
adapter to its folder.
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
    """One version's engine.

    Attributes:
        arguments: of vLLM's ``EngineArgs``, with folders of this machine in place of relative ones.
        adapters: LoRA adapters by name: their folders.
    """

    arguments: Mapping[str, Any]
    adapters: Mapping[str, Path]

    @classmethod
    def read(cls, model: Model) -> VllmConfig:
        """Read the version folder.

        Raises:
            ModelError: a file is missing or malformed, or an adapter's folder is not there.
        """
        arguments = read_json(model.file(ENGINE_ARGUMENTS), dict[str, Any])
        if not isinstance(arguments.get("model"), str):
            raise ModelError(f"{model.version_dir / ENGINE_ARGUMENTS}: 'model' must name a folder or a model")
        arguments["model"] = path_or_name(model.version_dir, arguments["model"])
        adapters: dict[str, Path] = {}
        if str(arguments.get("enable_lora", "")).lower() == "true":
            arguments["enable_lora"] = True
            for name, folder in read_json(model.file(ADAPTERS), dict[str, Any]).items():
                path = Path(path_or_name(model.version_dir, str(folder)))
                if not (path / "adapter_config.json").is_file():
                    raise ModelError(f"{model.version_dir / ADAPTERS}: adapter '{name}': {path} holds no adapter")
                adapters[name] = path
            arguments["max_loras"] = _adapter_places(model, arguments, len(adapters))
        return cls(arguments, adapters)


def _adapter_places(model: Model, arguments: Mapping[str, Any], adapters: int) -> int:
    """One place more than there are adapters.

    vLLM on a CPU gives a request without an adapter the last place wherever requests with one are in the same batch
    (``torch_ops/lora_ops.py`` indexes with -1): that place must stay empty.
    """
    wanted = arguments.get("max_loras", adapters + 1)
    if not isinstance(wanted, int) or wanted <= adapters:
        raise ModelError(
            f"{model.version_dir / ENGINE_ARGUMENTS}: max_loras is {wanted} for {adapters} adapters; it must be at "
            f"least {adapters + 1}, as vLLM on a CPU needs one place that stays empty; or leave it out"
        )
    return wanted


def path_or_name(version_dir: Path, text: str) -> str:
    """A folder or file beside ``model.json`` or below the repository, where there is one, else the text as it stands.

    A server that runs in the repository's own folder finds the latter by itself: so NVIDIA's backend reads it too.
    """
    for base in (version_dir, version_dir.parents[1]):
        if (base / text).exists():
            return str(base / text)
    return text
