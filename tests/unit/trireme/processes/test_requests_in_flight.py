from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from trireme.processes.ports import free_ports
from trireme.processes.server_metrics import requests_in_flight, wait_until_quiet

METRICS = """# HELP nv_inference_pending_request_count Number of pending requests
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="echo",version="1"} %d
nv_inference_pending_request_count{model="route",version="1"} 1
# HELP trireme_generation_running Requests that are being generated
# TYPE trireme_generation_running gauge
trireme_generation_running{model="writer",version="1"} 3
# HELP nv_inference_count Number of inferences performed
# TYPE nv_inference_count counter
nv_inference_count{model="echo",version="1"} 99
"""


class Server(http.server.ThreadingHTTPServer):
    """Responds with these metrics in order, then always with the last ones."""

    texts: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        texts = self.server.texts
        text = texts.pop(0) if len(texts) > 1 else texts[0]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=[0.01])
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_queued_and_generating_requests_are_counted(server: Server) -> None:
    server.texts = [METRICS % 2]
    assert requests_in_flight(f"127.0.0.1:{server.server_port}") == 2 + 1 + 3


def test_an_exited_server_is_quiet() -> None:
    assert requests_in_flight(f"127.0.0.1:{free_ports(1)[0]}") == 0
    assert wait_until_quiet(f"127.0.0.1:{free_ports(1)[0]}", 0.0)


def test_it_waits_for_the_last_request(server: Server) -> None:
    server.texts = [METRICS % 2, METRICS % 1, "nv_inference_count 99\n"]
    assert wait_until_quiet(f"127.0.0.1:{server.server_port}", 30.0)
    assert len(server.texts) == 1


def test_it_waits_until_the_deadline_at_most(server: Server) -> None:
    server.texts = [METRICS % 2]
    assert not wait_until_quiet(f"127.0.0.1:{server.server_port}", 0.0)
