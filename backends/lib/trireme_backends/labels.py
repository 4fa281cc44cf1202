"""Maps probabilities to labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_backends.errors import InvalidOutputError, ModelError, RequestError


class LabelDecoder:
    """Returns the label of the most probable class of each row."""

    def __init__(self, path: Path) -> None:
        """Read ``labels.json``: a list of strings, in the order of the probabilities.

        Raises:
            ModelError: the file is not such a list.
        """
        try:
            labels = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path} is not JSON: {error}") from None
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise ModelError(f"{path} must be a list of strings, one label per probability")
        self._labels = np.array([label.encode() for label in labels], dtype=np.object_)

    def decode(self, probabilities: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """``LABEL`` BYTES [rows, 1] and ``SCORE`` FP32 [rows, 1] of ``PROBABILITIES`` FP32 [rows, labels].

        Raises:
            RequestError: the number of probabilities is not the number of labels.
            InvalidOutputError: a probability is not finite.
        """
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self._labels):
            raise RequestError(
                f"PROBABILITIES has the shape {list(probabilities.shape)}; it must be [rows, {len(self._labels)}], "
                "one column per label"
            )
        finite = np.isfinite(probabilities).all(axis=1)
        if not finite.all():
            raise InvalidOutputError(f"row {int(finite.argmin())} of PROBABILITIES contains a non-finite value")
        return self._labels[probabilities.argmax(axis=1)][:, None], probabilities.max(axis=1, keepdims=True)
