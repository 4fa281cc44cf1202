"""Traces a PyTorch encoder to ONNX with a symbolic batch and sequence. Requires the extra ``[export]``."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from trireme.errors import SetupError, TriremeError

from trireme_export.forward import Forward, Ids, Rows, pool_and_normalise

# The batch is above 1, because tracing treats a dimension of 1 as a constant.
_EXAMPLE_SHAPE = (2, 7)


def load_torch(folder: Path, opset: int) -> tuple[onnx.ModelProto, Forward]:
    """Load a transformers directory (config.json, model.safetensors).

    Returns:
        The encoder's graph, and the PyTorch encoder as the reference.

    Raises:
        SetupError: PyTorch or transformers is not installed.
        TriremeError: the model cannot be traced with a symbolic batch and sequence.
    """
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
        from transformers import AutoModel  # type: ignore[import-not-found,unused-ignore]
        from transformers.utils.logging import disable_progress_bar  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise SetupError(
            f"a torch source needs the extra [export] ({error.name} is not installed)",
            "pip install --constraint constraints.txt --editable '.[export]'",
        ) from error

    disable_progress_bar()

    class HiddenStates(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder, local_files_only=True)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    module = HiddenStates().eval()
    graph = trace(module, opset, longest=module.encoder.config.max_position_embeddings)
    return graph, torch_forward(module)


def trace(module: Any, opset: int, *, longest: int) -> onnx.ModelProto:
    """The ONNX graph of a module from ``input_ids`` and ``attention_mask`` INT64 [batch, sequence] to hidden states.

    Raises:
        TriremeError: the module supports only fixed shapes.
    """
    import torch

    # Two distinct tensors: the same tensor twice would be traced as a single input.
    ids, mask = (torch.ones(_EXAMPLE_SHAPE, dtype=torch.int64) for _ in range(2))
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=longest)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside PyTorch and onnxscript, which users cannot fix
            program = torch.onnx.export(
                module.eval(),
                (ids, mask),
                dynamo=True,
                dynamic_shapes=(dims, dims),
                input_names=["input_ids", "attention_mask"],
                # Must not be a name that the pooling uses: duplicate names make the file invalid.
                output_names=["hidden_states"],
                opset_version=opset,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise TriremeError(
            f"the PyTorch model cannot be traced with a symbolic batch and sequence: {reason:.300}"
        ) from error
    finally:
        # Tracing may leave dropout enabled, which would make later results random.
        module.eval()
    return program.model_proto  # type: ignore[union-attr,no-any-return,unused-ignore]


def torch_forward(module: Any) -> Forward:
    """A module that returns hidden states, as a function with pooling and normalisation."""
    import torch

    module.eval()

    def forward(ids: Ids, mask: Ids) -> Rows:
        with torch.inference_mode():
            hidden = module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return pool_and_normalise(np.asarray(hidden, np.float32), mask)

    return forward
