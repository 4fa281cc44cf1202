"""Trireme: operate a Triton Inference Server, its model repository and its releases."""

import os

# ONNX Runtime would send usage events to its makers; it reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
