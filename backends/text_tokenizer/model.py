"""Triton backend ``text_tokenizer``: maps ``TEXT`` to ``INPUT_IDS`` and ``ATTENTION_MASK`` for a separate encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils
from trireme_backends.errors import BackendError, error_response
from trireme_backends.model import Model
from trireme_backends.text import TextTokenizer, decode_texts, pad


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        model = Model.from_arguments(args)
        self._tokenizer = TextTokenizer(model.file("tokenizer.json"), model.integer("max_tokens", 256, minimum=3))
        self._multiple = model.integer("pad_to_multiple_of", 1, minimum=1)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: pb_utils.InferenceRequest) -> Any:
        try:
            texts = decode_texts(pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy())
            ids, mask = pad(self._tokenizer.encode(texts), multiple=self._multiple)
        except BackendError as error:
            return error_response(pb_utils, error, request.request_id())
        return pb_utils.InferenceResponse([pb_utils.Tensor("INPUT_IDS", ids), pb_utils.Tensor("ATTENTION_MASK", mask)])
