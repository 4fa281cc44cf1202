"""Streams its text back, but for what the file ``behaviour`` beside the models says: ``busy`` or ``hang``."""

import threading
import time
from pathlib import Path

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self._behaviour = Path(args["model_repository"]).with_name("behaviour")
        self._family = pb_utils.MetricFamily(
            name="trireme_generation_steps_total", description="steps", kind=pb_utils.MetricFamily.COUNTER
        )
        self._steps = self._family.Metric(labels={"model": args["model_name"], "version": args["model_version"]})

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            threading.Thread(target=self._answer, args=(request.get_response_sender(), text)).start()

    def _answer(self, sender, text):
        while self._told() in ("busy", "hang"):
            if self._told() == "busy":
                self._steps.increment(1)
            time.sleep(0.05)
        response = pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", text)])
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _told(self):
        return self._behaviour.read_text() if self._behaviour.exists() else ""
