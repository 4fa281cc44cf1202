"""Maps probabilities to labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_backends.errors import InvalidOutputError, RequestError
from trireme_backends.strict_json import read_json


class LabelDecoder:
    """Returns the label of the most probable class of each row."""

    def __init__(self, path: Path) -> None:
        """Read ``labels.json``: a list of strings, in the order of the probabilities.

        Raises:
            FileError: the file is something else.
        """
        self._labels = np.array([label.encode() for label in read_json(path, tuple[str, ...])], dtype=np.object_)

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
