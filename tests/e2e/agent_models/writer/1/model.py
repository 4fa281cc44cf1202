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
        self._open = []
        self._lock = threading.Lock()
        # One, as that of an engine: a metric that several threads write may end the server.
        threading.Thread(target=self._work, daemon=True).start()

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            with self._lock:
                self._open.append((request.get_response_sender(), text))

    def _work(self):
        while True:
            behaviour = self._behaviour.read_text() if self._behaviour.exists() else ""
            with self._lock:
                if behaviour == "busy" and self._open:
                    self._steps.increment(1)
                    time.sleep(0.1)
                elif behaviour != "hang":
                    for sender, text in self._open:
                        response = pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", text)])
                        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                    self._open.clear()
            time.sleep(0.01)
