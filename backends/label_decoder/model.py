"""Triton backend ``label_decoder``: maps ``PROBABILITIES`` to ``LABEL`` and ``SCORE`` of the most probable class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils
from trireme_backends.errors import BackendError, error_response
from trireme_backends.labels import LabelDecoder
from trireme_backends.model import Model


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        self._decoder = LabelDecoder(Model.from_arguments(args).file("labels.json"))

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: pb_utils.InferenceRequest) -> Any:
        try:
            label, score = self._decoder.decode(pb_utils.get_input_tensor_by_name(request, "PROBABILITIES").as_numpy())
        except BackendError as error:
            return error_response(pb_utils, error, request.request_id())
        return pb_utils.InferenceResponse([pb_utils.Tensor("LABEL", label), pb_utils.Tensor("SCORE", score)])
