"""Returns each text in capitals, and misbehaves according to its ``behaviour.json``.

    {"load": "hangs" | "crashes" | "fails", "seconds": 0.05, "wrong_above": 20, "fails_above": 20}

``seconds`` delays each response. Texts longer than ``wrong_above`` or ``fails_above`` characters get a wrong response
or an error.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.version = int(args["model_version"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self.behaviour = json.loads((folder / "behaviour.json").read_text())
        time.sleep(self.behaviour.get("load_seconds", 0))
        load = self.behaviour.get("load")
        if load == "hangs":
            time.sleep(3600)
        if load == "crashes":
            os.abort()
        if load == "fails":
            raise RuntimeError("scripted failure")

    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
        time.sleep(self.behaviour.get("seconds", 0))
        longest = max(len(text) for text in texts[:, 0])
        if longest > self.behaviour.get("fails_above", longest):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("scripted failure"))
        wrong = longest > self.behaviour.get("wrong_above", longest)
        answers = [[text.lower() if wrong else text.upper()] for text in texts[:, 0]]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("ANSWER", np.array(answers, dtype=np.object_)),
                pb_utils.Tensor("WORKER", np.full((len(texts), 1), self.version, dtype=np.float32)),
            ]
        )
