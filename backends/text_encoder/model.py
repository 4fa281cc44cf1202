"""Triton backend ``text_encoder``: maps ``TEXT`` to vectors; tokenises, batches by length and runs the model.

``execute`` queues texts and returns; the encoder's threads send each response as soon as its batches are done. One
instance thus uses all cores with one copy of the weights, and chooses each batch among all waiting texts. Requires
Triton 24.10 or later, which allows a model that is not decoupled to use a response sender.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils
from trireme_backends.encoder import Done, Encoder, Vectors
from trireme_backends.errors import BackendError, InvalidOutputError, error_response
from trireme_backends.model import Model
from trireme_backends.onnx_encoder import OnnxEncoder
from trireme_backends.text import TextTokenizer, decode_texts


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        model = Model.from_arguments(args)
        self._name = model.name
        (self._output,) = model.output_names()
        self._tokenizer = TextTokenizer(model.file("tokenizer.json"), model.integer("max_tokens", 256, minimum=3))
        encode = OnnxEncoder(model.file("model.onnx"), self._output)
        self._encoder = Encoder(encode, threads=model.integer("thread_count", len(os.sched_getaffinity(0)), minimum=1))

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

        def reply(result: Vectors | BackendError) -> None:
            if isinstance(result, InvalidOutputError):
                response = error_response(
                    pb_utils, InvalidOutputError(f"model '{self._name}': {result.about(request_id)}")
                )
            elif isinstance(result, BackendError):
                response = error_response(pb_utils, result, request_id)
            else:
                response = pb_utils.InferenceResponse([pb_utils.Tensor(self._output, result)])
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        return reply
