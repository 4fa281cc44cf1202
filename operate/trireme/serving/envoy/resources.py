"""What Envoy shall do, as its v3 resources: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api.

Listeners and routes here; clusters and endpoints in ``upstreams``. All are plain JSON documents, since that is what
Envoy reads; their types are Envoy's own and are checked by ``envoy --mode validate`` in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trireme.processes.ports import LOOPBACK
from trireme.serving.envoy.endpoint import FrontDoor, TlsFiles
from trireme.serving.envoy.upstreams import (
    BUFFER_BYTES,
    BY_PREFIX_CLUSTER,
    GRPC_BY_SEQUENCE_CLUSTER,
    GRPC_CLUSTER,
    HTTP_BY_SEQUENCE_CLUSTER,
    HTTP_CLUSTER,
    lua,
)

Json = dict[str, Any]

MIB = 1024**2
# tritonserver 24.10 dies of an HTTP body of about 4.5 MB.
HTTP_BODY_BYTES = 4 * MIB
# Requests that share their beginning go where it is in the cache, see ``trireme_client.generation``.
PREFIX_HEADER = "x-trireme-prefix"
# Requests of one sequence go where its state is. The client sets it; of HTTP requests ``requests.lua`` does.
SEQUENCE_HEADER = "x-trireme-sequence"
# To ``attempts.lua``: after how long without an answer another replica is asked too.
PATIENCE_HEADER = "x-trireme-patience-ms"
# A stream without a byte for this long is dead; a language model says something at every token.
_IDLE_SECONDS = 300

# What callers need. Everything else changes the server or reaches into its memory.
_GRPC_METHODS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "ModelInfer",
    "ModelStreamInfer",
)
# Of an answer: that the model's process is dead. Of a request: how often the caller lost it. See ``attempts.lua``.
_LOST_HEADER = "x-trireme-lost"
_CHECKS = "envoy.filters.http.lua"
_GRPC_SERVICE = "/inference.GRPCInferenceService"
_MODEL_PATH = r"/v2/models/[^/]+(/versions/[0-9]+)?"
_INFER_PATH = rf"{_MODEL_PATH}/infer"
_GENERATE_PATH = rf"{_MODEL_PATH}/generate(_stream)?"
_HTTP_PATHS = (
    r"/v2(/health/live|/health/ready|/models/stats)?",
    rf"{_MODEL_PATH}(/(ready|config|stats))?",
)
_NOT_HERE = (
    "only inference, metadata, health and statistics are served here; what controls a server, ask the replica itself"
)


def listeners(door: FrontDoor, rds: Mapping[str, Json]) -> list[Json]:
    """The listeners ``grpc`` and ``http``, and beside a door with TLS ``grpc-plain`` and ``http-plain``.

    Args:
        rds: where the routes of gRPC and HTTP come from (an Envoy ConfigSource).
    """
    http_filters = [_limit(), {**lua("requests"), "disabled": True}]
    statistics = {
        "name": "envoy.filters.http.grpc_stats",
        "typed_config": _typed("extensions.filters.http.grpc_stats.v3.FilterConfig", emit_filter_state=True),
    }
    doors = {"": door}
    if door.plain:
        doors["-plain"] = replace(
            door, host=LOOPBACK, grpc_port=door.plain.grpc, http_port=door.plain.http, tls=None, plain=None
        )
    return [
        listener
        for suffix, one in doors.items()
        for listener in (
            _listener(one, f"grpc{suffix}", "grpc", one.grpc_port, rds["grpc"], [statistics]),
            _listener(one, f"http{suffix}", "http", one.http_port, rds["http"], http_filters),
        )
    ]


def routes(door: FrontDoor) -> Mapping[str, Json]:
    """By listener, which requests go where.

    Inference may be sent twice: what fails before its answer has begun, and may go well elsewhere, is sent again.
    """
    return {
        "grpc": _route_table("grpc", [*_grpc_routes(door), _refusal(_NOT_HERE)]),
        "http": _route_table("http", [*_http_routes(door), _refusal(_NOT_HERE)]),
    }


def _grpc_routes(door: FrontDoor) -> list[Json]:
    retries = _retries("connect-failure,refused-stream,reset,unavailable,retriable-headers")
    entries: list[Json] = []
    for method in _GRPC_METHODS:
        match = {"path": f"{_GRPC_SERVICE}/{method}"}
        second_try = door.second_try_seconds if method == "ModelInfer" else 0.0
        if method in ("ModelInfer", "ModelStreamInfer"):
            entries.append(_route(match, GRPC_BY_SEQUENCE_CLUSTER, by_header=SEQUENCE_HEADER))
            entries.append(_route(match, BY_PREFIX_CLUSTER, retries, second_try, by_header=PREFIX_HEADER))
        entries.append(_route(match, GRPC_CLUSTER, retries, second_try))
    return [*entries, _route({"prefix": "/grpc.health.v1.Health/"}, GRPC_CLUSTER, retries)]


def _http_routes(door: FrontDoor) -> list[Json]:
    retries = _retries("connect-failure,refused-stream,reset,gateway-error,retriable-headers")
    checked = {"typed_per_filter_config": {_CHECKS: _typed("config.route.v3.FilterConfig", config={})}}
    entries: list[Json] = []
    for path in (_INFER_PATH, _GENERATE_PATH):
        match = {"safe_regex": {"regex": path}}
        second_try = door.second_try_seconds if path == _INFER_PATH else 0.0
        entries.append({**_route(match, HTTP_BY_SEQUENCE_CLUSTER, by_header=SEQUENCE_HEADER), **checked})
        entries.append({**_route(match, HTTP_CLUSTER, retries, second_try), **checked})
    return [*entries, *(_route({"safe_regex": {"regex": path}}, HTTP_CLUSTER, retries) for path in _HTTP_PATHS)]


def _route(
    match: Json, cluster: str, retries: Json | None = None, second_try_seconds: float = 0.0, *, by_header: str = ""
) -> Json:
    """Requests that match, to a replica of the cluster.

    Args:
        retries: what is sent again, and how; nothing, where the state of a sequence is in the replica.
        second_try_seconds: without an answer for so long another replica is asked too; 0: never.
        by_header: those with this header alone, all of one value to the same replica.
    """
    action: Json = {
        "cluster": cluster,
        # None of Envoy's own: the caller's deadline goes with the request, and a stream lasts as long as it talks.
        "timeout": "0s",
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
        # How ``attempts.lua`` sees that a request was sent.
        "auto_host_rewrite": True,
        "append_x_forwarded_host": True,
    }
    # What ``attempts.lua`` reads is Envoy's own, not the caller's.
    route: Json = {"match": match, "route": action, "request_headers_to_remove": ["x-forwarded-host", PATIENCE_HEADER]}
    if retries:
        action["retry_policy"] = retries
    if second_try_seconds:
        action["retry_policy"] = {**(retries or {}), "per_try_timeout": f"{second_try_seconds:g}s"}
        action["hedge_policy"] = {"hedge_on_per_try_timeout": True}
        patience = {"key": PATIENCE_HEADER, "value": f"{second_try_seconds * 1000:g}"}
        route["request_headers_to_add"] = [{"header": patience}]
    if by_header:
        route["match"] = {**match, "headers": [{"name": by_header, "present_match": True}]}
        action["hash_policy"] = [{"header": {"header_name": by_header}}]
    return route


def _limit() -> Json:
    """Joins a body's chunks, too: tritonserver 24.10 dies of 600,000 of one byte."""
    config = _typed("extensions.filters.http.buffer.v3.Buffer", max_request_bytes=HTTP_BODY_BYTES)
    return {"name": "envoy.filters.http.buffer", "typed_config": config}


def _listener(door: FrontDoor, name: str, protocol: str, port: int, rds: Json, filters: list[Json]) -> Json:
    router = {"name": "envoy.filters.http.router", "typed_config": _typed("extensions.filters.http.router.v3.Router")}
    manager = _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=protocol,
        codec_type="AUTO",
        rds={"route_config_name": protocol, "config_source": rds},
        http_filters=[*filters, router],
        # The caller's own id goes through, and the answer tells it.
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        stream_idle_timeout=f"{_IDLE_SECONDS}s",
        request_headers_timeout="10s",
        common_http_protocol_options={"idle_timeout": "3600s"},
        access_log=[_access_log(door, protocol)],
    )
    if protocol == "http":
        # As Triton says its errors.
        manager["local_reply_config"] = {"body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}}}
    chain: Json = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if door.tls:
        chain["transport_socket"] = _tls(door.tls, "h2" if protocol == "grpc" else "http/1.1")
    return {
        **_typed("config.listener.v3.Listener"),
        "name": name,
        "address": _address(door.host, port),
        "filter_chains": [chain],
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
    }


def _tls(files: TlsFiles, protocol: str) -> Json:
    context: Json = {
        "alpn_protocols": [protocol],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(files.certificate)},
                "private_key": {"filename": str(files.private_key)},
            }
        ],
    }
    tls = _typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=context)
    if files.client_ca:
        context["validation_context"] = {"trusted_ca": {"filename": str(files.client_ca)}}
        tls["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": tls}


def _access_log(door: FrontDoor, name: str) -> Json:
    """The names are those of our own log lines, see docs/observability.md."""
    fields = {
        "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
        "level": "info",
        "logger": f"envoy.{name}",
        "message": "%REQ(:METHOD)% %REQ(:PATH)%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS%",
        "response_flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "upstream": "%UPSTREAM_HOST%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
    }
    log = _typed(
        "extensions.access_loggers.file.v3.FileAccessLog",
        path=str(door.access_log),
        log_format={"json_format": fields},
    )
    return {"name": "envoy.access_loggers.file", "typed_config": log}


def _route_table(name: str, entries: list[Json]) -> Json:
    return {
        **_typed("config.route.v3.RouteConfiguration"),
        "name": name,
        "virtual_hosts": [
            {"name": name, "domains": ["*"], "routes": entries, "include_request_attempt_count": True},
        ],
    }


def _retries(conditions: str) -> Json:
    return {
        "retry_on": conditions,
        # A status alone does not tell a dead process from a model's own exception, which would only come again.
        "retriable_headers": [{"name": _LOST_HEADER, "present_match": True}],
        # Connections that are refused count as well; how often it is sent, ``attempts.lua`` limits.
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        # Another replica, not the one that has just failed.
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": _typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
            }
        ],
        # A dead replica has the least requests, so it is drawn three times in four: few draws may all miss another.
        "host_selection_retry_max_attempts": "32",
        # Another zone, if there is one: health checks may not have told yet that this one is gone.
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": _typed(
                "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", update_frequency=1
            ),
        },
    }


def _refusal(text: str) -> Json:
    """Of everything that no route before it has taken."""
    return {"match": {"prefix": "/"}, "direct_response": {"status": 403, "body": {"inline_string": text}}}


def admin(door: FrontDoor) -> Json:
    """Where statistics are; other machines get nothing else there."""
    place: Json = {"address": _address(door.admin_host, door.admin_port)}
    if door.admin_host != LOOPBACK:
        place["allow_paths"] = [{"prefix": path} for path in ("/stats", "/ready", "/clusters", "/server_info")]
    return place


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _typed(type_name: str, **fields: Any) -> Json:
    return {"@type": f"type.googleapis.com/envoy.{type_name}", **fields}
