"""Triton backend ``label_decoder``: maps ``PROBABILITIES`` to ``LABEL`` and ``SCORE`` of the most probable class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils
from trireme_backends.errors import BackendError, InvalidOutputError
from trireme_backends.labels import LabelDecoder
from trireme_backends.model import Model


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        self._decoder = LabelDecoder(Model.from_arguments(args).file("labels.json"))

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        try:
            label, score = self._decoder.decode(pb_utils.get_input_tensor_by_name(request, "PROBABILITIES").as_numpy())
        except BackendError as error:
            code = (
                pb_utils.TritonError.INTERNAL
                if isinstance(error, InvalidOutputError)
                else pb_utils.TritonError.INVALID_ARG
            )
            message = error.message_for(request.request_id())
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
        return pb_utils.InferenceResponse([pb_utils.Tensor("LABEL", label), pb_utils.Tensor("SCORE", score)])
