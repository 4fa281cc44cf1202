from __future__ import annotations

import json

import pytest
from trireme.errors import ConfigError, TriremeError
from trireme.repository.manifest import (
    Accuracy,
    Graph,
    Manifest,
    Origin,
    Parity,
    read_manifest,
    record_files,
    verify_files,
    write_manifest,
)


@pytest.fixture
def version_dir(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    write_manifest(
        Manifest(
            inputs_sha256="1",
            exporter="1",
            origins=(Origin("p", "1", "0", "o", "MIT"),),
            files=record_files(tmp_path.iterdir()),
            graph=Graph("int8", 18, 36, ("avx512_vnni",)),
            parity=Parity(0.1, 0.9, 0.2, 17),
            accuracy=Accuracy("uci_sentences", "accuracy", 0.9, 0.91, 100, 50, 3, 1.0, 0.1),
        ),
        tmp_path,
    )
    return tmp_path


def test_manifest_is_read_as_it_was_written(version_dir):
    manifest = read_manifest(version_dir)

    assert manifest.origins == (Origin("p", "1", "0", "o", "MIT"),)
    assert manifest.graph == Graph("int8", 18, 36, ("avx512_vnni",))
    assert list(manifest.files) == ["model.onnx"]
    verify_files(manifest, version_dir)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"weigh", "has 5 bytes, its manifest records 7"),
        (b"WEIGHTS", "does not match the sha256 in its manifest"),
        (None, "is missing"),
    ],
)
def test_truncated_changed_or_missing_file_is_reported(version_dir, content, problem):
    path = version_dir / "model.onnx"
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(TriremeError, match=f"{path} {problem}"):
        verify_files(read_manifest(version_dir), version_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origins": None}, "origins is None; it must be an array; export the model again"),
        (
            {"files": {"a": {"size": 1}}},
            r"files.a.size_bytes is missing; export(.|\n)*unknown key 'files.a.size'; available",
        ),
        ({"graph": {"precision": "int8"}}, "graph.opset is missing"),
    ],
)
def test_invalid_manifest_is_rejected_with_the_file(version_dir, change, message):
    path = version_dir / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    with pytest.raises(ConfigError, match=f"{path}: {message}"):
        read_manifest(version_dir)


def test_text_that_is_not_json_is_rejected_with_its_line(version_dir):
    (version_dir / "manifest.json").write_text('{\n  "files": }')

    with pytest.raises(ConfigError, match=r"manifest.json:2:12: not JSON"):
        read_manifest(version_dir)
