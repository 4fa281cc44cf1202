"""The input of a rule: one model, its neighbours and the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from trireme.lint.finding import Complaint
from trireme.processes.machine import Machine
from trireme.repository.folders import ModelFolder
from trireme.repository.model_config import ModelConfig

# Triton derives the backend from these files if the config has no backend, platform or default_model_filename.
_BACKEND_OF_FILE = {
    "model.plan": "tensorrt",
    "model.onnx": "onnxruntime",
    "model.xml": "openvino",
    "model.pt": "pytorch",
    "model.py": "python",
    "model.savedmodel": "tensorflow",
    "model.graphdef": "tensorflow",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """The model being checked.

    Attributes:
        config: its parsed configuration.
        folder: its folder; None if a config file is checked alone.
        neighbours: the valid configs of the repository by model name, including this model's.
        repository: all model folders of the repository by name, including those with an invalid config.
        machine: the machine that would run it.
    """

    config: ModelConfig
    folder: ModelFolder | None
    neighbours: Mapping[str, ModelConfig]
    repository: Mapping[str, ModelFolder]
    machine: Machine

    @property
    def backend(self) -> str:
        """The backend from the config, else the one that Triton derives from the model file; empty if unknown."""
        message = self.config.message
        if self.config.backend or self.config.platform or message.default_model_filename or self.folder is None:
            return self.config.backend
        folders = [self.folder.version_dir(version) for version in self.folder.versions()]
        backends = (backend for file, backend in _BACKEND_OF_FILE.items() if any((f / file).exists() for f in folders))
        return next(backends, "")

    @property
    def is_unexported(self) -> bool:
        """True if the model has an export recipe but no version yet; its warm-up files are missing as well."""
        return self.folder is not None and self.folder.recipe_path.is_file() and not self.folder.versions()

    def versions(self) -> list[int]:
        """The versions that Triton loads according to the version policy; empty without a folder."""
        return self.config.version_policy.selects(self.folder.versions()) if self.folder else []


# The function's name is the rule's name; the first line of its docstring is the rule's description.
Rule = Callable[[Subject], Iterator[Complaint]]


def rule_name(rule: Rule) -> str:
    """The rule's name as printed in findings: the function's name with dashes."""
    return rule.__name__.replace("_", "-")
