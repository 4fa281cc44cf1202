"""What a rule looks at: one model, its neighbours and the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from trireme.lint.finding import Complaint
from trireme.processes.machine import Machine
from trireme.repository.folders import ModelFolder
from trireme.repository.model_config import ModelConfig

# By these files Triton finds the backend where the config names neither backend nor platform nor filename.
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
    """One model under inspection.

    Attributes:
        config: its parsed configuration.
        folder: its folder, or nothing where a config file is judged alone.
        neighbours: the readable configs of the repository, by model name; itself included.
        repository: the folders of the repository by model name, also of models whose config is unreadable.
        machine: what it would run on.
    """

    config: ModelConfig
    folder: ModelFolder | None
    neighbours: Mapping[str, ModelConfig]
    repository: Mapping[str, ModelFolder]
    machine: Machine

    @property
    def backend(self) -> str:
        """The backend as the config names it, or as Triton finds it by the model's file; empty where neither tells."""
        message = self.config.message
        if self.config.backend or self.config.platform or message.default_model_filename or self.folder is None:
            return self.config.backend
        folders = [self.folder.version_dir(version) for version in self.folder.versions()]
        found = (backend for file, backend in _BACKEND_OF_FILE.items() if any((f / file).exists() for f in folders))
        return next(found, "")

    @property
    def is_unexported(self) -> bool:
        """Whether the model is exported by a recipe and was not yet: its versions and warm-up files are to come."""
        return self.folder is not None and self.folder.recipe_path.is_file() and not self.folder.versions()

    def versions(self) -> list[int]:
        """The versions that Triton loads, as its version policy says; empty where there is no folder."""
        return self.config.version_policy.selects(self.folder.versions()) if self.folder else []


# A rule's name is its function's, its meaning the docstring's first line.
Rule = Callable[[Subject], Iterator[Complaint]]


def rule_name(rule: Rule) -> str:
    """The name a finding carries: the function's, with dashes."""
    return rule.__name__.replace("_", "-")
