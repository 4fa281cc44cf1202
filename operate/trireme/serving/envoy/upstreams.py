"""Clusters and endpoints: which replicas there are, which of them get requests, and when one is left out.

A replica is chosen by the fewest requests in flight. It is left out while its agent's ``/readyz`` is not 200, and for
some seconds after it has failed several requests in a row, which is seen before any agent can tell.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from typing import Any

from trireme.serving.envoy.endpoint import Endpoint, FrontDoor

Json = dict[str, Any]

GRPC_CLUSTER = "triton_grpc"
HTTP_CLUSTER = "triton_http"
# The same replicas as GRPC_CLUSTER, chosen by the hash of a header instead.
BY_PREFIX_CLUSTER = "triton_grpc_by_prefix"
GRPC_BY_SEQUENCE_CLUSTER = "triton_grpc_by_sequence"
HTTP_BY_SEQUENCE_CLUSTER = "triton_http_by_sequence"
_BY_SEQUENCE_CLUSTERS = (GRPC_BY_SEQUENCE_CLUSTER, HTTP_BY_SEQUENCE_CLUSTER)
_HTTP_CLUSTERS = (HTTP_CLUSTER, HTTP_BY_SEQUENCE_CLUSTER)
CLUSTERS = (GRPC_CLUSTER, HTTP_CLUSTER, BY_PREFIX_CLUSTER, *_BY_SEQUENCE_CLUSTERS)

# A request is kept until it is answered, for a second try elsewhere. Above this limit Envoy would still pass it on, but
# silently try no second time.
BUFFER_BYTES = 16 * 1024**2
# A machine that is cut off acknowledges nothing: what waits for it is then tried on another one. Not with HTTP/2's own
# pings: gRPC servers end a connection that pings them more than once in five minutes.
_CUT_OFF_SECONDS = 4
_IPPROTO_TCP, _TCP_USER_TIMEOUT = 6, 18


def assignment(door: FrontDoor, cluster: str, endpoints: Sequence[Endpoint]) -> Json:
    """The endpoints of a cluster, by zone; a zone that is not Envoy's own has a lower priority."""
    groups = []
    for zone in sorted({endpoint.zone for endpoint in endpoints}):
        members = [_member(door, endpoint, cluster) for endpoint in endpoints if endpoint.zone == zone]
        priority = 0 if not door.own_zone or zone == door.own_zone else 1
        groups.append({"locality": {"zone": zone}, "priority": priority, "lb_endpoints": members})
    # Priorities must begin at 0, also when the own zone has no replica now.
    if groups and all(group["priority"] for group in groups):
        groups = [{**group, "priority": 0} for group in groups]
    return {
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": groups,
    }


def _member(door: FrontDoor, endpoint: Endpoint, cluster: str) -> Json:
    port = endpoint.http_port if cluster in _HTTP_CLUSTERS else endpoint.grpc_port
    member: Json = {
        "endpoint": {
            "address": {"socket_address": {"address": endpoint.host, "port_value": port}},
            "hostname": endpoint.name,
            "health_check_config": {"port_value": endpoint.agent_port},
        }
    }
    if not door.by_name:
        # What is hashed goes to the same replica over both protocols, and also when its ports are others. A name that
        # DNS resolves may stand for several replicas.
        member["metadata"] = {"filter_metadata": {"envoy.lb": {"hash_key": endpoint.name}}}
    return member


def cluster_of(door: FrontDoor, name: str, endpoints: Sequence[Endpoint], eds: Json) -> Json:
    """A cluster; its endpoints come from ``eds``, an Envoy ConfigSource, or stand in it (``FrontDoor.by_name``)."""
    cluster: Json = {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "health_checks": [_health_check()],
        "ignore_health_on_host_removal": True,
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 2, "keepalive_interval": 1, "keepalive_probes": 3}
        },
        "upstream_bind_config": {"socket_options": [_user_timeout()]},
        # A sequence stays with its replica as long as its agent calls that ready: elsewhere it would have no state.
        **({} if name in _BY_SEQUENCE_CLUSTERS else {"outlier_detection": _outlier_detection()}),
        "circuit_breakers": {"thresholds": [_threshold(door)]},
        "common_lb_config": {
            # With none ready, a replica that calls itself unready is still better than none.
            "healthy_panic_threshold": {"value": 1.0},
        },
    }
    if name == BY_PREFIX_CLUSTER:
        cluster["lb_policy"] = "MAGLEV"
        # A replica that has half more requests than the mean is overloaded: the next one takes them.
        cluster["common_lb_config"]["consistent_hashing_lb_config"] = {"hash_balance_factor": 150}
    elif name in _BY_SEQUENCE_CLUSTERS:
        cluster["lb_policy"] = "MAGLEV"
    else:
        cluster["lb_policy"] = "LEAST_REQUEST"
        # A replica that has just become ready is still cold.
        cluster["least_request_lb_config"] = {"choice_count": 2, "slow_start_config": {"slow_start_window": "5s"}}
    protocol = "http_protocol_options" if name in _HTTP_CLUSTERS else "http2_protocol_options"
    cluster["typed_extension_protocol_options"] = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {protocol: {}},
            "http_filters": _attempt_filters(),
        }
    }
    if door.by_name:
        cluster["cluster_type"] = {
            "name": "envoy.cluster.dns",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
                "dns_refresh_rate": "1s",
                # Each address of a name is a replica.
                "all_addresses_in_single_endpoint": False,
            },
        }
        cluster["load_assignment"] = {
            field: value for field, value in assignment(door, name, endpoints).items() if field != "@type"
        }
    else:
        cluster["type"] = "EDS"
        cluster["eds_cluster_config"] = {"eds_config": eds}
    return cluster


def lua(script: str) -> Json:
    """The filter, with one of the scripts beside this module."""
    source = importlib.resources.files(__package__).joinpath(f"{script}.lua").read_text()
    config = _typed("extensions.filters.http.lua.v3.Lua", default_source_code={"inline_string": source})
    return {"name": "envoy.filters.http.lua", "typed_config": config}


def _attempt_filters() -> list[Json]:
    """Of each attempt of a request, the last of them its sending; see ``attempts.lua`` and ``failures.lua``."""
    connected = {"key": "x-trireme-connected", "value": "%UPSTREAM_LOCAL_ADDRESS%"}
    mutations = [
        {"remove": connected["key"]},
        {"append": {"header": connected, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}},
    ]
    mutation = _typed(
        "extensions.filters.http.header_mutation.v3.HeaderMutation", mutations={"request_mutations": mutations}
    )
    return [
        _but_at_first({"name": "envoy.filters.http.header_mutation", "typed_config": mutation}),
        _but_at_first(lua("attempts")),
        lua("failures"),
        {
            "name": "envoy.filters.http.upstream_codec",
            "typed_config": _typed("extensions.filters.http.upstream_codec.v3.UpstreamCodec"),
        },
    ]


def _but_at_first(http_filter: Json) -> Json:
    """The filter where it costs nothing: not at the first attempt of a request that was never lost before."""

    def is_one(name: str) -> Json:
        header = _typed("type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name)
        return {"single_predicate": {"input": {"name": name, "typed_config": header}, "value_match": {"exact": "1"}}}

    at_first = [is_one("x-envoy-attempt-count"), {"not_matcher": is_one("x-trireme-lost")}]
    skip = {"name": "skip", "typed_config": _typed("extensions.filters.common.matcher.action.v3.SkipFilter")}
    matcher = {"predicate": {"and_matcher": {"predicate": at_first}}, "on_match": {"action": skip}}
    config = _typed(
        "extensions.common.matching.v3.ExtensionWithMatcher",
        extension_config=http_filter,
        xds_matcher={"matcher_list": {"matchers": [matcher]}},
    )
    return {"name": http_filter["name"], "typed_config": config}


def _typed(type_name: str, **fields: Any) -> Json:
    return {"@type": f"type.googleapis.com/envoy.{type_name}", **fields}


def _health_check() -> Json:
    return {
        "timeout": "2s",
        "interval": "1s",
        "no_traffic_interval": "1s",
        # A 503 of the agent counts at once; only an agent that does not answer gets a second chance.
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/readyz", "codec_client_type": "HTTP1"},
    }


def _user_timeout() -> Json:
    return {
        "description": "unacknowledged data ends the connection",
        "level": _IPPROTO_TCP,
        "name": _TCP_USER_TIMEOUT,
        "int_value": _CUT_OFF_SECONDS * 1000,
        "state": "STATE_PREBIND",
    }


def _outlier_detection() -> Json:
    return {
        "interval": "1s",
        "base_ejection_time": "3s",
        "max_ejection_time": "30s",
        "max_ejection_percent": 50,
        # Connections refused or reset, tries that hang, answers that say the server cannot. Counted together: apart, a
        # replica that accepts connections and never answers was not ejected at little load.
        "split_external_local_origin_errors": False,
        "consecutive_gateway_failure": 5,
        "enforcing_consecutive_gateway_failure": 100,
        # A caller's own mistakes can be INTERNAL (a model's exception): they must not take replicas away from others.
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
    }


def _threshold(door: FrontDoor) -> Json:
    return {
        "priority": "DEFAULT",
        "max_connections": door.max_requests,
        "max_pending_requests": door.max_requests,
        "max_requests": door.max_requests,
        # A replica that dies with all its requests in flight: every one of them may be tried again.
        "retry_budget": {"budget_percent": {"value": 50.0}, "min_retry_concurrency": 128},
        "track_remaining": True,
    }
