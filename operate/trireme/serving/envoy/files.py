"""The files that Envoy reads, each replaced by rename in a directory of its own that Envoy watches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trireme.files import write_json_atomic
from trireme.serving.envoy.endpoint import Endpoint, FrontDoor
from trireme.serving.envoy.resources import admin, listeners, routes
from trireme.serving.envoy.upstreams import CLUSTERS, assignment, cluster_of

Json = dict[str, Any]

BOOTSTRAP_NAME = "bootstrap.json"
_FILE_NAME = "resources.json"


def write_config(
    directory: Path, door: FrontDoor, endpoints: Sequence[Endpoint], *, seen_at: Path | None = None
) -> Path:
    """Write everything anew; gives the bootstrap file.

    Args:
        seen_at: where Envoy will see ``directory``, if elsewhere: in a container.
    """
    seen = seen_at or directory
    for cluster in [] if door.by_name else CLUSTERS:
        _write(directory, f"eds/{cluster}", [assignment(door, cluster, endpoints)])
    _write(
        directory,
        "cds",
        [cluster_of(door, cluster, endpoints, _source(seen, f"eds/{cluster}")) for cluster in CLUSTERS],
    )
    tables = routes(door)
    for name, table in tables.items():
        _write(directory, f"rds/{name}", [table])
    _write(directory, "lds", listeners(door, {name: _source(seen, f"rds/{name}") for name in tables}))
    bootstrap = {
        "node": {"id": "front", "cluster": "trireme", "locality": {"zone": door.own_zone}},
        "admin": admin(door),
        "dynamic_resources": {"lds_config": _source(seen, "lds"), "cds_config": _source(seen, "cds")},
    }
    write_json_atomic(directory / BOOTSTRAP_NAME, bootstrap)
    return directory / BOOTSTRAP_NAME


def write_endpoints(directory: Path, door: FrontDoor, endpoints: Sequence[Endpoint]) -> None:
    """Have a running Envoy know these endpoints, and no others, from now on (within 0.1 s)."""
    for cluster in CLUSTERS:
        _write(directory, f"eds/{cluster}", [assignment(door, cluster, endpoints)])


def _source(seen: Path, place: str) -> Json:
    # A directory for each resource: Envoy reads its file anew when anything in the directory is renamed, and of
    # endpoints and routes it takes one resource from a file.
    folder = seen / place
    return {
        "path_config_source": {"path": str(folder / _FILE_NAME), "watched_directory": {"path": str(folder)}},
        "resource_api_version": "V3",
    }


def _write(directory: Path, place: str, resources: list[Json]) -> None:
    folder = directory / place
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / _FILE_NAME, {"resources": resources})
