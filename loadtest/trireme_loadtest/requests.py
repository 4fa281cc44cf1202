"""Requests as bytes, ready to send."""

from __future__ import annotations

from tritonclient.grpc import service_pb2


def text_request(model: str, text: str) -> bytes:
    """A ``ModelInferRequest`` with one row of ``TEXT``, serialised."""
    value = text.encode()
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="TEXT", datatype="BYTES", shape=[1, 1])
    # A BYTES tensor is its elements one after the other, each after its length as four bytes, little-endian.
    request.raw_input_contents.append(len(value).to_bytes(4, "little") + value)
    return bytes(request.SerializeToString())
