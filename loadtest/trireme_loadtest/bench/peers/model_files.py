"""The files an ensemble answers from, wherever its steps keep them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trireme.errors import SetupError
from trireme.repository.folders import ModelRepository
from trireme.repository.manifest import sha256_of
from trireme.repository.model_config import load_model_config


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One ONNX graph from token ids to embedding, and the tokenizer before it.

    Attributes:
        model_sha256: two variants of one hash have one in-process limit.
    """

    model: Path
    tokenizer: Path
    model_sha256: str

    @classmethod
    def of_ensemble(cls, repository: ModelRepository, name: str) -> ModelFiles:
        """What the pinned steps of an ensemble hold.

        Raises:
            NotFoundError: no such model.
            SetupError: it is no ensemble of a tokenizer and an ONNX model, or it is not exported yet.
        """
        steps = load_model_config(repository.model(name).config_path).steps
        found = {}
        for step in steps:
            folder = repository.model(step.model).version_dir(step.version)
            found.update(
                {file: folder / file for file in ("model.onnx", "tokenizer.json") if (folder / file).is_file()}
            )
        if len(found) < 2:
            raise SetupError(f"the steps of {name} hold no model.onnx and tokenizer.json", "trireme export --all")
        return cls(found["model.onnx"], found["tokenizer.json"], sha256_of(found["model.onnx"]))
