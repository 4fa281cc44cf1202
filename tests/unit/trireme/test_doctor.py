"""``trireme doctor`` reports problems with their numbers and fixes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from trireme.cli import main
from trireme.doctor import CheckStatus, memory, models, ports, software
from trireme.doctor.check import Check
from trireme.processes.machine import Machine
from trireme.processes.runtime import EmbeddedRuntime
from trireme.processes.shared_memory import new_region_prefix
from trireme.repository.folders import ModelRepository
from trireme.repository.manifest import Manifest, record_files, write_manifest
from trireme.repository.model_config import ModelConfig, parse_model_config
from trireme.repository.resource_requirements import compute_threads, instance_count, shared_memory_bytes
from trireme.settings import Settings

MIB = 1024**2
TWO_CORES = Machine(cores=2, gpus=0)


def config(text: str, name: str = "model") -> ModelConfig:
    parsed = parse_model_config(text.encode(), Path(name) / "config.pbtxt")
    assert parsed.config is not None, parsed.problems
    return parsed.config


def only(checks: Iterator[Check]) -> Check:
    (check,) = checks
    return check


@pytest.mark.parametrize(
    ("text", "machine", "instances"),
    [
        ('backend: "text_encoder"', TWO_CORES, 1),
        ('backend: "onnxruntime"', TWO_CORES, 2),
        ('backend: "onnxruntime" instance_group { kind: KIND_MODEL }', TWO_CORES, 1),
        ('backend: "onnxruntime" instance_group [ { count: 3 }, { kind: KIND_CPU } ]', TWO_CORES, 5),
        ('backend: "onnxruntime" instance_group { count: 2 }', Machine(cores=2, gpus=2), 4),
        ('backend: "onnxruntime" instance_group { count: 2 kind: KIND_GPU gpus: [ 1 ] }', Machine(cores=2, gpus=2), 2),
        ('platform: "ensemble"', TWO_CORES, 0),
    ],
)
def test_instances_are_counted_as_triton_starts_them(text: str, machine: Machine, instances: int) -> None:
    assert instance_count(config(text), machine) == instances


@pytest.mark.parametrize(
    ("text", "threads"),
    [
        ('backend: "onnxruntime"', 8),
        ('backend: "onnxruntime" parameters { key: "intra_op_thread_count" value { string_value: "1" } }', 2),
        ('backend: "label_decoder" instance_group { count: 9 }', 0),
    ],
)
def test_an_unlimited_session_uses_one_thread_per_core(text: str, threads: int) -> None:
    assert compute_threads(config(text), Machine(cores=4, gpus=0)) == threads


def test_shared_memory_follows_the_documented_formula() -> None:
    wide = config(
        'backend: "x" max_batch_size: 8 instance_group { count: 3 }'
        'input { name: "A" data_type: TYPE_FP32 dims: [ 65536 ] }'  # 8 rows of 256 KiB: 2 MiB a batch
    )
    small = config('backend: "x" input { name: "A" data_type: TYPE_STRING dims: [ 1 ] }')
    assert shared_memory_bytes([wide, small], TWO_CORES) == 3 * (1 + 2) * MIB + 1 * (1 + 1) * MIB


def test_too_little_shared_memory_fails_with_the_size_to_set(tmp_path: Path) -> None:
    many = [config('backend: "x" instance_group { count: 40 }')]
    check = only(memory.shared_memory(many, TWO_CORES, tmp_path, free_bytes=32 * MIB))
    assert check.status is CheckStatus.FAIL
    assert "40 MiB needed" in check.found
    assert "32 MiB present" in check.found
    assert "shm_size: 50m" in check.fix


def test_enough_shared_memory_is_ok(tmp_path: Path) -> None:
    few = [config('backend: "x" instance_group { count: 2 }')]
    assert only(memory.shared_memory(few, TWO_CORES, tmp_path, free_bytes=64 * MIB)).status is CheckStatus.OK


def test_a_full_disk_fails(tmp_path: Path) -> None:
    check = only(memory.disk(tmp_path, free_bytes=10 * MIB))
    assert check.status is CheckStatus.FAIL
    assert "10 MiB free" in check.found


def test_an_unmapped_region_is_stale_and_a_mapped_one_is_not(tmp_path: Path) -> None:
    dead = tmp_path / "triton_python_backend_shm_region_dead"
    dead.write_bytes(bytes(MIB))
    live = tmp_path / f"{new_region_prefix()}live"
    live.write_bytes(bytes(MIB))
    (tmp_path / "another_program").write_bytes(b"")
    hold = (
        f"import mmap, sys; file = open({str(live)!r}, 'r+b'); region = mmap.mmap(file.fileno(), 0);"
        "print('on', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"on\n"
        assert memory.find_stale_regions(tmp_path) == [dead]
    check = next(memory.stale_regions(tmp_path))
    assert check.status is CheckStatus.WARN
    assert f"{live} {dead}" in check.fix
    subprocess.run(["sh", "-c", check.fix], check=True)
    assert only(memory.stale_regions(tmp_path)).status is CheckStatus.OK


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_regions_of_another_user_are_ignored(tmp_path: Path) -> None:
    theirs = tmp_path / "trireme_1_1_theirs"
    theirs.write_bytes(b"")
    os.chown(theirs, 12345, 12345)
    assert memory.find_stale_regions(tmp_path) == []


def test_a_port_in_use_names_the_process_and_the_flag() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        check = only(ports.one_port(port, "--http-port"))
        own = only(ports.one_port(port, "--http-port", own={os.getpid()}))
    assert check.status is CheckStatus.FAIL
    assert f"pid {os.getpid()}" in check.found
    assert check.fix == f"kill {os.getpid()}, or choose another with --http-port"
    assert own.status is CheckStatus.OK
    assert only(ports.one_port(port, "--http-port")).status is CheckStatus.OK


def test_an_unsupported_python_fails() -> None:
    assert only(software.python((3, 13))).status is CheckStatus.FAIL
    assert only(software.python((3, 10))).status is CheckStatus.OK


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("glibc 2.31", CheckStatus.FAIL),
        ("glibc 2.35", CheckStatus.OK),
        ("glibc 3.0", CheckStatus.OK),
        ("no glibc", CheckStatus.FAIL),
    ],
)
def test_an_old_glibc_fails(version: str, status: CheckStatus) -> None:
    assert only(software.glibc(version)).status is status


def installed(versions: dict[str, str]) -> Callable[[str], str]:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    return version


def test_numpy_2_and_a_missing_package_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", installed({"numpy": "2.1.0", "tokenizers": "0.23.3"}))
    found = {check.subject: check for check in software.packages()}
    assert found["numpy"].status is CheckStatus.FAIL
    assert "numpy<2" in found["numpy"].fix
    assert found["onnxruntime"].status is CheckStatus.FAIL
    assert found["tokenizers"].status is CheckStatus.OK


def test_a_missing_runtime_fails_with_the_fix(tmp_path: Path) -> None:
    settings = Settings(project_dir=tmp_path, repository_dir=tmp_path, state_dir=tmp_path)
    check = only(software.runtime(settings))
    assert check.status is CheckStatus.FAIL
    assert check.fix == "make setup"


def test_a_library_that_the_loader_does_not_find_is_named() -> None:
    runtime = EmbeddedRuntime.find(Settings.from_environment())
    assert software.missing_libraries(runtime.stub_path, runtime.environment()) == []
    # The server includes stubs for unsupported Python versions, whose libraries need not be installed.
    foreign = runtime.stub_path.parents[1] / "3.8" / runtime.stub_path.name
    assert software.missing_libraries(foreign, runtime.environment()) == ["libpython3.8.so.1.0"]


def repository(folder: Path, **configs: str) -> ModelRepository:
    for name, text in configs.items():
        (folder / name).mkdir()
        (folder / name / "config.pbtxt").write_text(text)
    return ModelRepository(folder)


def test_weights_that_are_not_exported_yet_fail(tmp_path: Path) -> None:
    found = repository(tmp_path, encoder='backend: "text_encoder"')
    (tmp_path / "encoder" / "export.toml").write_text("")
    check = only(models.exported(found))
    assert check.status is CheckStatus.FAIL
    assert "encoder" in check.found
    version = tmp_path / "encoder" / "1"
    version.mkdir()
    (version / "tokenizer.json").write_text("{}")
    write_manifest(Manifest("", "", (), record_files([version / "tokenizer.json"])), version)
    assert only(models.exported(found)).status is CheckStatus.OK


@pytest.mark.parametrize("spoiled", ["tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_incomplete_weights_fail_with_the_command_that_fixes_them(tmp_path: Path, spoiled: str, how: str) -> None:
    found = repository(tmp_path, encoder='backend: "text_encoder"')
    (tmp_path / "encoder" / "export.toml").write_text("")
    version = tmp_path / "encoder" / "1"
    version.mkdir()
    (version / "tokenizer.json").write_text('{"vocab": []}')
    write_manifest(Manifest("", "", (), record_files([version / "tokenizer.json"])), version)
    path = version / spoiled
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:7])
    check = only(models.exported(found))
    assert check.status is CheckStatus.FAIL
    assert check.fix == "trireme export encoder"


def test_a_repository_that_triton_rejects_fails(tmp_path: Path) -> None:
    check = only(models.accepted(repository(tmp_path, encoder='platform: "python"'), TWO_CORES))
    assert check.status is CheckStatus.FAIL
    assert check.fix == "trireme lint"


def test_an_empty_repository_fails(tmp_path: Path) -> None:
    assert only(models.accepted(ModelRepository(tmp_path), TWO_CORES)).status is CheckStatus.FAIL


def test_more_threads_than_cores_are_a_warning_that_names_the_model() -> None:
    greedy = config('backend: "onnxruntime" instance_group { count: 3 }')
    check = only(models.threads({"greedy": greedy}, TWO_CORES))
    assert check.status is CheckStatus.WARN
    assert "6 used by greedy, 2 cores" in check.found


def test_the_command_prints_one_row_per_check_and_exits_by_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    subjects = [check["subject"] for check in report["checks"]]
    assert {"python", "glibc", "numpy", "shared memory", "stale regions", "threads", "disk"} <= set(subjects)
    assert code == (0 if report["passed"] else 1)
    assert report["passed"] == all(check["status"] != "fail" for check in report["checks"])
    assert all(check["fix"] for check in report["checks"] if check["status"] != "ok")


def test_a_region_removed_during_the_check_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "trireme_1_gone"
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
    assert memory.find_stale_regions(tmp_path) == []
