from __future__ import annotations

import onnxruntime
import triton_python_backend_utils as pb_utils

from trireme_backends.model import Model


class TritonPythonModel:
    def initialize(self, args):
        model = Model.from_arguments(args)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = model.integer("intra_op_thread_count", 1)
        self.session = onnxruntime.InferenceSession(str(model.file("model.onnx")), options, providers=["CPUExecutionProvider"])
        self.outputs = model.output_names()

    def execute(self, requests):
        responses = []
        for request in requests:
            feeds = {t.name(): t.as_numpy() for t in request.inputs()}
            out = self.session.run(self.outputs, feeds)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(n, o) for n, o in zip(self.outputs, out)]))
        return responses
