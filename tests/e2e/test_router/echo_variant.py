"""A variant that returns its name and its input, and misbehaves according to ``behaviour.json`` in its folder.

Copied into the version directories of the test repository; Triton's own Python backend runs it.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.name = args["model_name"].removesuffix("_worker")
        self.version = args["model_version"]
        self.behaviour = Path(args["model_repository"]) / "behaviour.json"

    def execute(self, requests):
        behaviour = json.loads(self.behaviour.read_text()) if self.behaviour.is_file() else {}
        time.sleep(behaviour.get("seconds", 0))
        if behaviour.get("raises"):
            raise RuntimeError("asked to raise")
        if behaviour.get("dies"):
            os._exit(1)
        return [self.answer(request) for request in requests]

    def answer(self, request):
        texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
        hint = pb_utils.get_input_tensor_by_name(request, "HINT")
        if any(text == b"poison" for text in texts[:, 0]):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("cannot read poison"))
        seen = json.dumps(
            {
                "parameters": json.loads(request.parameters() or "{}"),
                "hint": None if hint is None else hint.as_numpy()[0, 0].decode(),
                "rows": len(texts),
                "version": self.version,
            }
        )
        answers = [[f"{self.name}:{text.decode()}".encode()] for text in texts[:, 0]]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("ANSWER", np.array(answers, dtype=np.object_)),
                pb_utils.Tensor("SEEN", np.array([[seen.encode()]] * len(texts), dtype=np.object_)),
            ]
        )
