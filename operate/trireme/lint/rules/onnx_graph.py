"""An ONNX model against its config: what the file takes and gives, and whether it is whole.

Source of the rules: triton's onnxruntime backend, ``ValidateInputs``, ``ValidateOutputs`` and ``CompareDimsSupported``.
"""

from __future__ import annotations
