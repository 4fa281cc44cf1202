"""Triton backend ``text_tokenizer``: TEXT to INPUT_IDS and ATTENTION_MASK."""

from __future__ import annotations

import triton_python_backend_utils as pb_utils

from trireme_backends.errors import RequestError
from trireme_backends.model import Model
from trireme_backends.text import TextTokenizer, decode_texts, pad


class TritonPythonModel:
    def initialize(self, args):
        model = Model.from_arguments(args)
        self.tokenizer = TextTokenizer(model.file("tokenizer.json"), model.integer("max_tokens", 256, least=3))
        self.multiple = model.integer("pad_to_multiple_of", 1, least=1)

    def execute(self, requests):
        responses = []
        for request in requests:
            try:
                rows = self.tokenizer.encode(decode_texts(pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()))
                longest = max(map(len, rows))
                ids, mask = pad(rows, -(-longest // self.multiple) * self.multiple)
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("INPUT_IDS", ids), pb_utils.Tensor("ATTENTION_MASK", mask)]))
            except RequestError as e:
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(e), pb_utils.TritonError.INVALID_ARG)))
        return responses
