"""The logic of Trireme's Python-based Triton backends, independent of Triton, so that tests need no server."""

import os

# Disables ONNX Runtime's telemetry; it reads this at import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
