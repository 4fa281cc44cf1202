"""Envoy's configuration files: the templates ``*.yaml.j2``, rendered into directories that Envoy watches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trireme.files import write_atomic
from trireme.processes.ports import LOOPBACK
from trireme.serving.envoy.proxy_config import ProxyConfig, ReplicaEndpoint

GRPC_CLUSTER = "triton_grpc"
HTTP_CLUSTER = "triton_http"
# All clusters and their protocols; see clusters.yaml.j2 for the differences.
_CLUSTERS = {
    GRPC_CLUSTER: "grpc",
    HTTP_CLUSTER: "http",
    "triton_grpc_by_prefix": "grpc",
    "triton_grpc_by_sequence": "grpc",
    "triton_http_by_sequence": "http",
}

_FOLDER = Path(__file__).parent
_TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
# Names and paths are rendered with `tojson`: every JSON string is a valid YAML string.
_TEMPLATES.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "default": str}
_TEMPLATES.globals.update(lua=lambda name: (_FOLDER / name).read_text().rstrip(), loopback=LOOPBACK)


def write_config(
    directory: Path, proxy: ProxyConfig, endpoints: Sequence[ReplicaEndpoint], *, seen_at: Path | None = None
) -> Path:
    """Write all files; return the path of the bootstrap file.

    Args:
        seen_at: the path of ``directory`` from Envoy's point of view, if different: in a container.
    """
    if not proxy.by_name:
        write_endpoints(directory, proxy, endpoints)
    values = {"proxy": proxy, "endpoints": endpoints, "directory": seen_at or directory}
    _render("clusters", directory / "cds/resources.yaml", clusters=_CLUSTERS, **values)
    for protocol in ("grpc", "http"):
        _render("routes", directory / f"rds/{protocol}/resources.yaml", protocol=protocol, **values)
    _render("listeners", directory / "lds/resources.yaml", **values)
    bootstrap = directory / "bootstrap.yaml"
    _render("bootstrap", bootstrap, **values)
    return bootstrap


def write_endpoints(directory: Path, proxy: ProxyConfig, endpoints: Sequence[ReplicaEndpoint]) -> None:
    """Replace the endpoints; a running Envoy applies them within 0.1 s."""
    for cluster, protocol in _CLUSTERS.items():
        path = directory / f"eds/{cluster}/resources.yaml"
        _render("endpoints", path, proxy=proxy, endpoints=endpoints, cluster=cluster, protocol=protocol)


def _render(template: str, path: Path, **values: object) -> None:
    write_atomic(path, _TEMPLATES.get_template(f"{template}.yaml.j2").render(values).encode())
