"""The logic of Trireme's Python-based Triton backends, free of Triton: every module here is tested without a server."""

import os

# ONNX Runtime would send usage events to its makers; it reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
