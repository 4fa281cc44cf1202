from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from trireme import cli
from trireme.errors import ConfigError, NotFoundError
from trireme.repository.manifest import read_manifest, verify_files
from trireme_export.exporter import Exporter

from tests.deadlines import scaled
from tests.unit.trireme_export import tiny
from tests.unit.trireme_export.tiny import tiny_encoder

DEADLINE_SECONDS = scaled(60)


def export(workshop, name="tiny_encoder", **options):
    return Exporter(workshop.settings, lambda *_: None).export(name, **options)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-u", tiny.__file__, "export", *arguments]


def environment() -> dict[str, str]:
    root = Path(tiny.__file__).parents[3]
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("head", ["embedding", "sentiment"])
@pytest.mark.parametrize(("precision", "parity"), [("fp32", "max_abs_diff = 1e-4"), ("int8", "min_cosine = 0.9")])
def test_version_has_graph_tokenizer_and_a_correct_manifest(workshop, head, precision, parity):
    workshop.publish(head=head, precision=precision, parity=parity)

    manifest = export(workshop).manifest

    assert sorted(path.name for path in workshop.version_dir.iterdir()) == [
        "manifest.json", "model.onnx", "tokenizer.json",
    ]  # fmt: skip
    assert read_manifest(workshop.version_dir) == manifest
    verify_files(manifest, workshop.version_dir)
    assert manifest.graph.precision == precision
    assert (manifest.graph.quantized_operators > 0) == (precision == "int8")
    assert [origin.package for origin in manifest.origins] == ["tiny-model"]
    written = onnx.load(workshop.version_dir / "model.onnx").graph.output[0].name
    assert written == {"embedding": "EMBEDDING", "sentiment": "PROBABILITIES"}[head]
    baked_in = json.loads((workshop.version_dir / "tokenizer.json").read_text())
    assert baked_in["padding"] is None
    assert baked_in["truncation"]["max_length"] == 64


def test_an_intact_version_is_not_exported_again(workshop):
    workshop.publish()
    assert export(workshop).made
    written = (workshop.version_dir / "model.onnx").stat().st_mtime_ns

    assert not export(workshop).made
    assert (workshop.version_dir / "model.onnx").stat().st_mtime_ns == written
    assert export(workshop, force=True).made


@pytest.mark.parametrize("damaged", ["model.onnx", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("keep_bytes", [None, 100])
def test_missing_or_truncated_file_is_exported_again(workshop, damaged, keep_bytes):
    workshop.publish()
    export(workshop)
    path = workshop.version_dir / damaged
    content = path.read_bytes()
    path.unlink()
    if keep_bytes is not None:
        path.write_bytes(content[:keep_bytes])

    assert export(workshop).made
    verify_files(read_manifest(workshop.version_dir), workshop.version_dir)


def test_changed_recipe_is_exported_again_and_a_comment_is_not(workshop):
    recipe = workshop.publish()
    export(workshop)

    (workshop.model_dir / "export.toml").write_text("# why\n" + recipe)
    assert not export(workshop).made
    (workshop.model_dir / "export.toml").write_text(recipe.replace("max_tokens = 64", "max_tokens = 32"))
    assert export(workshop).made


@pytest.mark.parametrize(
    ("model", "recipe", "message"),
    [
        (tiny_encoder(batch=1), {}, "dimension 0 of input_ids is fixed at 1"),
        (tiny_encoder(flattens_batch=True), {}, r"its source: parity gate failed: a batch of shape \[2, 36\]"),
        (tiny_encoder(leaks_padding=True), {}, "alone_vs_batch_diff gate failed: measured"),
        (tiny_encoder(), {"min_accuracy": 1.0}, r"accuracy gate failed: measured 0\.\d+, threshold 1"),
        (tiny_encoder(), {"parity": "max_abs_diff = 0"}, r"parity max_abs_diff gate failed: measured \S+, threshold 0"),
    ],
)
def test_failing_gate_exits_1_reports_both_numbers_and_keeps_the_old_version(workshop, capsys, model, recipe, message):
    workshop.publish()
    export(workshop)
    before = (workshop.version_dir / "model.onnx").read_bytes()

    workshop.publish(model, **recipe)
    code = cli.main(["export", "tiny_encoder", "--force"])

    assert code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(message, error), error
    assert (workshop.version_dir / "model.onnx").read_bytes() == before
    assert sorted(path.name for path in workshop.model_dir.iterdir()) == ["1", "config.pbtxt", "export.toml"]


def test_failing_first_export_leaves_no_version(workshop):
    workshop.publish(min_accuracy=1.0)

    assert cli.main(["export", "tiny_encoder"]) == 1
    assert not workshop.version_dir.exists()


def test_shared_graph_is_one_file_on_disk(workshop):
    workshop.publish()
    other = workshop.settings.repository_dir / "tiny_onnx"
    other.mkdir()
    (other / "config.pbtxt").write_text('backend: "onnxruntime"\nmax_batch_size: 8\n')
    (other / "export.toml").write_text('[source]\nkind = "model"\nmodel = "tiny_encoder"\n')

    assert Exporter(workshop.settings, lambda *_: None).model_names() == ["tiny_encoder", "tiny_onnx"]
    manifest = export(workshop, "tiny_onnx").manifest

    assert (other / "1/model.onnx").samefile(workshop.version_dir / "model.onnx")
    assert list(manifest.files) == ["model.onnx"]
    assert manifest.parity == read_manifest(workshop.version_dir).parity
    assert not export(workshop, "tiny_onnx").made


def test_sharing_with_a_model_without_a_graph_is_rejected(workshop):
    (workshop.model_dir / "export.toml").write_text('[source]\nkind = "model"\nmodel = "tiny_encoder"\n')

    with pytest.raises(ConfigError, match="'tiny_encoder' has no graph to share"):
        export(workshop)


def test_model_without_recipe_is_an_error_that_lists_those_with_one(workshop):
    workshop.publish()
    plain = workshop.settings.repository_dir / "plain"
    plain.mkdir()
    (plain / "config.pbtxt").write_text("")

    with pytest.raises(NotFoundError, match="no export recipe for a model named 'plain'; available: tiny_encoder"):
        export(workshop, "plain")


def test_json_output_has_the_manifests_and_nothing_else(workshop, capsys):
    workshop.publish()

    assert cli.main(["export", "--all", "--json"]) == 0
    captured = capsys.readouterr()
    (model,) = json.loads(captured.out)["models"]
    assert (model["model"], model["made"]) == ("tiny_encoder", True)
    assert model["accuracy"]["held_out_rows"] == 200
    assert "tiny_encoder: parity:" in captured.err


@pytest.mark.parametrize("arguments", [[], ["tiny_encoder", "--all"]])
def test_giving_neither_or_both_is_a_usage_error(workshop, arguments):  # noqa: ARG001
    assert cli.main(["export", *arguments]) == 2


@pytest.mark.parametrize("step", ["fetching", "parity", "accuracy"])
def test_killed_at_any_step_leaves_no_partial_files_and_the_next_run_succeeds(workshop, step):
    workshop.publish(fetched=step != "fetching")
    with subprocess.Popen(command("tiny_encoder"), stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert any(step in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    # The version may exist already; then it must be intact.
    if workshop.version_dir.exists():
        verify_files(read_manifest(workshop.version_dir), workshop.version_dir)

    export(workshop)

    verify_files(read_manifest(workshop.version_dir), workshop.version_dir)
    assert sorted(path.name for path in workshop.model_dir.iterdir()) == ["1", "config.pbtxt", "export.toml"]


def test_interrupt_leaves_no_version_and_no_traceback(workshop):
    workshop.publish(fetched=False)
    with subprocess.Popen(
        command("tiny_encoder"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert any("fetching" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=DEADLINE_SECONDS)

    assert process.returncode == 130
    assert "Traceback" not in error
    assert not workshop.version_dir.exists()
    assert list(workshop.settings.sources_dir.glob("*")) == []


def test_full_disk_gives_one_line_and_leaves_no_files(workshop):
    workshop.publish()
    # A limit on file size fails the write as a full disk does, in the middle of a file.
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))  # noqa: E731
    export(workshop)
    (workshop.version_dir / "model.onnx").unlink()

    done = subprocess.run(
        command("tiny_encoder"), env=environment(), timeout=DEADLINE_SECONDS, capture_output=True, text=True,
        preexec_fn=limit, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert "no partial files remain" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in workshop.model_dir.iterdir()) == ["1", "config.pbtxt", "export.toml"]


def test_second_export_reports_that_it_waits_for_the_first(workshop):
    workshop.publish()
    workshop.settings.state_dir.mkdir(exist_ok=True)
    with (workshop.settings.state_dir / "export.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(command("tiny_encoder"), stdout=subprocess.PIPE, text=True, env=environment())
        assert process.stdout.readline() == "export: waiting for another export to finish\n"
        assert not workshop.version_dir.exists()
    rest, _ = process.communicate(timeout=DEADLINE_SECONDS)

    assert process.returncode == 0
    assert rest.endswith("export: tiny_encoder: done\n")
