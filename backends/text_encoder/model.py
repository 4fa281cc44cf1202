"""Triton backend ``text_encoder``: ``TEXT`` to vectors, tokenised, batched by length and run in one place.

``execute`` queues texts and returns; answers are sent from the encoder's threads as soon as a text's batch is done. So
one instance keeps all cores busy with one copy of the weights, and sees every waiting text when it chooses a batch.
Needs Triton 24.10: since then a model that is not decoupled may answer through a response sender.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils
from trireme_backends.encoder import Done, Encoder, Vectors
from trireme_backends.errors import AnswerError, BackendError, error_response
from trireme_backends.model import Model
from trireme_backends.onnx_encoder import OnnxEncoder
from trireme_backends.text import TextTokenizer, decode_texts


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        model = Model.from_arguments(args)
        self._name = model.name
        (self._output,) = model.output_names()
        self._tokenizer = TextTokenizer(model.file("tokenizer.json"), model.integer("max_tokens", 256, least=3))
        encode = OnnxEncoder(model.file("model.onnx"), self._output)
        self._encoder = Encoder(encode, threads=model.integer("thread_count", len(os.sched_getaffinity(0)), least=1))

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        for request in requests:
            reply = self._reply_to(request)
            try:
                texts = decode_texts(pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy())
                self._encoder.submit(self._tokenizer.encode(texts), reply)
            except BackendError as error:
                reply(error)

    def finalize(self) -> None:
        self._encoder.close()

    def _reply_to(self, request: pb_utils.InferenceRequest) -> Done:
        sender, request_id = request.get_response_sender(), request.request_id()

        def reply(answer: Vectors | BackendError) -> None:
            if isinstance(answer, AnswerError):
                response = error_response(pb_utils, AnswerError(f"model '{self._name}': {answer.about(request_id)}"))
            elif isinstance(answer, BackendError):
                response = error_response(pb_utils, answer, request_id)
            else:
                response = pb_utils.InferenceResponse([pb_utils.Tensor(self._output, answer)])
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        return reply
