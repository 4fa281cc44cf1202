"""Triton's own protocol definitions, as the ``tritonclient`` package ships them: the one place that imports them.

None of them is typed, so each is named ``Any`` here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import grpc as _grpc  # type: ignore[import-untyped,unused-ignore]
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc  # type: ignore[import-untyped,unused-ignore]

grpc: Any = _grpc
pb: Any = service_pb2
config_pb: Any = model_config_pb2
stubs: Any = service_pb2_grpc

# The names of the service's methods are its own; a message is a protobuf message of `pb`.
Message = Any
