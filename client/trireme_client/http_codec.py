"""Converts gRPC messages to and from Triton's HTTP requests and responses. Independent of connections.

Source: Open Inference Protocol (KServe v2), HTTP/REST, with Triton's extensions for binary tensor data, model
configuration, statistics, model repository and shared memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from google.protobuf import json_format

from trireme_client._protos import Message, pb
from trireme_client.request import read_parameters

_HEADER_LENGTH = "Inference-Header-Content-Length"
_MODEL_PATHS = {"ModelConfig": "config", "ModelReady": "ready", "ModelStatistics": "stats"}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The HTTP request of a gRPC method ``rpc``; ``path`` follows ``/v2/``."""

    rpc: str
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def encode_request(method: str, request: Message) -> HttpRequest:
    """Encode a request of a gRPC method as an HTTP request."""
    if method == "ModelInfer":
        return _encode_inference(request)
    if method in _MODEL_PATHS and request.name:
        return HttpRequest(method, "GET", f"{_model_path(request.name, request.version)}/{_MODEL_PATHS[method]}")
    if method == "RepositoryIndex":
        return HttpRequest(method, "POST", "repository/index")
    if method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        what = "load" if method == "RepositoryModelLoad" else "unload"
        return HttpRequest(method, "POST", f"repository/models/{quote(request.model_name, safe='')}/{what}")
    if method == "SystemSharedMemoryRegister":
        body = {"key": request.key, "offset": request.offset, "byte_size": request.byte_size}
        return HttpRequest(
            method, "POST", f"systemsharedmemory/region/{request.name}/register", json.dumps(body).encode()
        )
    if method == "SystemSharedMemoryUnregister":
        return HttpRequest(method, "POST", f"systemsharedmemory/region/{request.name}/unregister")
    paths = {
        "ServerLive": "health/live",
        "ServerReady": "health/ready",
        "ServerMetadata": "",
        "ModelStatistics": "models/stats",
        "SystemSharedMemoryStatus": "systemsharedmemory/status",
    }
    return HttpRequest(method, "GET", paths[method])


def _model_path(model: str, version: str) -> str:
    path = f"models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _encode_inference(request: Message) -> HttpRequest:
    raw = iter(request.raw_input_contents)
    inputs = []
    for tensor in request.inputs:
        parameters: dict[str, Any] = read_parameters(tensor)
        if "shared_memory_region" not in parameters:
            parameters["binary_data_size"] = len(next(raw))
        inputs.append(
            {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "parameters": parameters}
        )
    head: dict[str, Any] = {"id": request.id, "inputs": inputs, "parameters": read_parameters(request)}
    if request.outputs:
        head["outputs"] = [
            {"name": output.name, "parameters": read_parameters(output) or {"binary_data": True}}
            for output in request.outputs
        ]
    else:
        head["parameters"]["binary_data_output"] = True
    text = json.dumps(head).encode()
    return HttpRequest(
        "ModelInfer",
        "POST",
        f"{_model_path(request.model_name, request.model_version)}/infer",
        b"".join((text, *request.raw_input_contents)),
        {_HEADER_LENGTH: str(len(text)), "Content-Type": "application/octet-stream"},
    )


def decode_response(method: str, content: bytes, headers: Mapping[str, str]) -> Message:
    """Decode an HTTP response with status 200 into a gRPC message.

    Raises:
        ValueError: the content does not follow the protocol.
    """
    if method == "ModelInfer":
        return _decode_inference(content, headers)
    if method in ("ServerReady", "ModelReady"):
        return getattr(pb, f"{method}Response")(ready=True)
    if method == "ServerLive":
        return pb.ServerLiveResponse(live=True)
    if method == "ModelConfig":
        response = pb.ModelConfigResponse()
        return _parse(content, response, response.config)
    if method in ("ModelStatistics", "ServerMetadata"):
        response = getattr(pb, f"{method}Response")()
        return _parse(content, response, response)
    if method == "RepositoryIndex":
        response = pb.RepositoryIndexResponse()
        return _parse(b'{"models": %b}' % content, response, response)
    if method == "SystemSharedMemoryStatus":
        response = pb.SystemSharedMemoryStatusResponse()
        for region in json.loads(content):
            response.regions[region["name"]].key = region["key"]
        return response
    return getattr(pb, f"{method}Response")()


def _parse(content: bytes, response: Message, into: Message) -> Message:
    json_format.Parse(content, into, ignore_unknown_fields=True)
    return response


def _decode_inference(content: bytes, headers: Mapping[str, str]) -> Message:
    length = int(headers.get(_HEADER_LENGTH, len(content)))
    head = json.loads(content[:length])
    response = pb.ModelInferResponse(
        model_name=head["model_name"], model_version=head.get("model_version", ""), id=head.get("id", "")
    )
    _set_parameters(response, head.get("parameters", {}))
    at = length
    for output in head.get("outputs", ()):
        tensor = response.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
        parameters = output.get("parameters", {})
        size = parameters.pop("binary_data_size", None)
        _set_parameters(tensor, parameters)
        if "data" in output:
            raise ValueError(f"output {output['name']!r} arrived as JSON although binary data was requested")
        # Without a size it is in shared memory; over gRPC such an output has an empty entry.
        response.raw_output_contents.append(content[at : at + (size or 0)])
        at += size or 0
    return response


def _set_parameters(message: Message, parameters: Mapping[str, Any]) -> None:
    for key, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(message.parameters[key], kind, value)


def decode_error(content: bytes) -> str:
    """The error message in an HTTP response with another status."""
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:500]
