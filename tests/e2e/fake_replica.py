"""A fake replica for tests of Envoy: Triton's gRPC and HTTP APIs, an agent's ``/readyz``, and scripted failures."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from trireme.processes.ports import LOOPBACK
from trireme.serving.envoy.proxy_config import ReplicaEndpoint
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from tests.deadlines import scaled

# Like tritonserver, whose gRPC API accepts messages of any size.
_ANY_SIZE = (("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0))

Behaviour = Callable[[grpc.ServicerContext], None]


def answer(_: grpc.ServicerContext) -> None:
    """Respond normally."""


def fail(code: grpc.StatusCode, message: str = "scripted failure") -> Behaviour:
    return lambda context: context.abort(code, message)


class FakeReplica:
    """Responds to every inference with its name.

    Attributes:
        ready: what its agent says.
        behaviour: before each gRPC inference.
        http_status: of each HTTP inference; 0: the connection ends instead. http_error: what it says then.
        request_ids: the request id (header) of each inference that it received, in order.
    """

    def __init__(self, name: str, zone: str = "a") -> None:
        self.name = name
        self.ready = True
        self.behaviour: Behaviour = answer
        self.http_status = 200
        self.http_error = ""
        self.request_ids: list[str] = []
        self._agent = _serve_http(self._handle_agent)
        self._http = _serve_http(self._handle_http)
        self._grpc = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=_ANY_SIZE)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(self), self._grpc)
        self._cable = Cable(self._grpc.add_insecure_port(f"{LOOPBACK}:0"))
        self._grpc.start()
        ports = (self._cable.port, self._http.server_port, self._agent.server_port)
        self.endpoint = ReplicaEndpoint(name, zone, LOOPBACK, *ports)

    def kill_grpc(self) -> None:
        """Behave like a killed process: nothing listens, connections are reset."""
        self._cable.cut()

    def restart_grpc(self) -> None:
        self._cable.join()

    def close(self) -> None:
        self._cable.cut()
        self._grpc.stop(0).wait(timeout=scaled(10.0))
        for server in (self._http, self._agent):
            server.shutdown()
            server.server_close()

    def _handle_agent(self, handler: BaseHTTPRequestHandler) -> None:
        _send(handler, 200 if self.ready else 503, {"state": "ready" if self.ready else "unready"})

    def _handle_http(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.request_ids.append(handler.headers.get("x-request-id", ""))
        if not self.http_status:
            handler.connection.shutdown(socket.SHUT_RDWR)
        elif self.http_error:
            _send(handler, self.http_status, {"error": self.http_error})
        else:
            seen = {"sequence": handler.headers.get("x-trireme-sequence"), "bytes": len(body)}
            _send(handler, self.http_status, {"name": self.name, "path": handler.path, **seen})


class Cable:
    """Forwards connections to a port until it is cut: then they are reset, and new ones are refused."""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self._to_port = to_port
        self._ends: list[socket.socket] = []
        self.join()

    def join(self) -> None:
        """Listen, on the previous port if any."""
        self._listener = socket.create_server((LOOPBACK, self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        # close() alone would leave the thread in accept() and the port in use.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                # No linger: the connection is reset.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((LOOPBACK, self._to_port))
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, replica: FakeReplica) -> None:
        self._replica = replica

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        """A model ``m`` with numeric inputs."""
        answer = service_pb2.ModelConfigResponse()
        answer.config.name = request.name
        answer.config.input.add(name="X", data_type=model_config_pb2.TYPE_FP32, dims=[1])
        return answer

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._begin(context)
        return service_pb2.ModelInferResponse(model_name=self._replica.name, id=request.id)

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """For each request: a message, the behaviour, another message."""
        for request in requests:
            self._replica.request_ids.append(dict(context.invocation_metadata()).get("x-request-id", ""))
            if request.id == "fail-first":
                self._replica.behaviour(context)
            answer = service_pb2.ModelInferResponse(model_name=self._replica.name, id=request.id)
            yield service_pb2.ModelStreamInferResponse(infer_response=answer)
            self._replica.behaviour(context)
            yield service_pb2.ModelStreamInferResponse(infer_response=answer)

    def _begin(self, context: grpc.ServicerContext) -> None:
        self._replica.request_ids.append(dict(context.invocation_metadata()).get("x-request-id", ""))
        self._replica.behaviour(context)


def _serve_http(handle: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            handle(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Ignore connections that a proxy closes early."""

    server = Server((LOOPBACK, 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def _send(handler: BaseHTTPRequestHandler, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(body)
