"""An encoder as an ONNX graph on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from trireme_backends.errors import ModelError
from trireme_backends.onnxruntime_session import load_session, run_session


class OnnxEncoder:
    """Runs a graph with the inputs ``INPUT_IDS`` and ``ATTENTION_MASK``; thread-safe, with one thread per call."""

    def __init__(self, path: Path, output: str) -> None:
        """Load the graph.

        Raises:
            ModelError: ONNX Runtime cannot load the file, or it lacks the output.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = load_session(path, options, ["CPUExecutionProvider"])
        outputs = [node.name for node in self._session.get_outputs()]
        if output not in outputs:
            raise ModelError(f"{path} has no output '{output}'; available: {', '.join(outputs)}")
        self._output = output

    def __call__(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Encode texts: ids and mask INT64 [texts, tokens].

        Raises:
            RequestError: ONNX Runtime failed.
        """
        vectors: npt.NDArray[Any]
        (vectors,) = run_session(self._session, [self._output], {"INPUT_IDS": ids, "ATTENTION_MASK": mask})
        return vectors
