"""Trireme: operate a Triton Inference Server, its model repository and its releases."""

import os

# Disables telemetry in ONNX Runtime, which reads this on import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
