"""Triton's protocol definitions from the ``tritonclient`` package. Only this module imports them.

They are untyped, so each is named ``Any`` here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import grpc as _grpc  # type: ignore[import-untyped,unused-ignore]
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc  # type: ignore[import-untyped,unused-ignore]

grpc: Any = _grpc
pb: Any = service_pb2
config_pb: Any = model_config_pb2
stubs: Any = service_pb2_grpc

# The service's methods keep their names; a message is a protobuf message of `pb`.
Message = Any
