from __future__ import annotations

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

from trireme_backends.errors import RequestError
from trireme_backends.model import Model
from trireme_backends.text import TextTokenizer, decode_texts, pad


class TritonPythonModel:
    def initialize(self, args):
        model = Model.from_arguments(args)
        self.tokenizer = TextTokenizer(model.file("tokenizer.json"), model.integer("max_tokens", 256, least=3))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = model.integer("intra_op_thread_count", 1)
        self.session = onnxruntime.InferenceSession(str(model.file("model.onnx")), options, providers=["CPUExecutionProvider"])
        self.output = model.output_names()[0]

    def execute(self, requests):
        responses = [None] * len(requests)
        owners, rows = [], []
        for i, request in enumerate(requests):
            try:
                enc = self.tokenizer.encode(decode_texts(pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()))
                owners += [(i, r) for r in range(len(enc))]
                rows += enc
                responses[i] = [None] * len(enc)
            except RequestError as e:
                responses[i] = pb_utils.TritonError(str(e), pb_utils.TritonError.INVALID_ARG)
        order = sorted(range(len(rows)), key=lambda k: len(rows[k]))
        start = 0
        while start < len(order):
            end = start
            first = len(rows[order[start]])
            while end < len(order) and end - start < 16 and len(rows[order[end]]) <= first * 1.15 + 1:
                end += 1
            group = [rows[k] for k in order[start:end]]
            ids, mask = pad(group, len(group[-1]))
            out = self.session.run([self.output], {"INPUT_IDS": ids, "ATTENTION_MASK": mask})[0]
            for k, vec in zip(order[start:end], out):
                i, r = owners[k]
                responses[i][r] = vec
            start = end
        return [
            pb_utils.InferenceResponse(error=r) if isinstance(r, pb_utils.TritonError)
            else pb_utils.InferenceResponse([pb_utils.Tensor(self.output, np.stack(r))])
            for r in responses
        ]
