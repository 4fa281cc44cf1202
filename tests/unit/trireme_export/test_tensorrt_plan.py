from __future__ import annotations

import sys
from pathlib import Path

import pytest
from onnx import helper
from trireme import cli
from trireme.errors import SetupError, TriremeError
from trireme_export.recipe import TensorRtProfile
from trireme_export.tensorrt_plan import build_plan, check_operators, check_profile

from tests.unit.trireme_export.tiny import tiny_encoder

PROFILE = TensorRtProfile([1, 1], [8, 32], [64, 256])


def test_profile_that_accepts_every_batch_of_the_config_passes():
    check_profile(PROFILE, 64, "tiny")


def test_batches_above_the_profile_are_rejected_with_both_numbers():
    with pytest.raises(TriremeError, match=r"config.pbtxt allows batches of 8, but the TensorRT profile only 1; raise"):
        check_profile(TensorRtProfile([1, 1], [1, 8], [1, 256]), 8, "tiny")


@pytest.mark.parametrize("shapes", [([2, 1], [1, 8], [8, 8]), ([0, 1], [1, 8], [8, 8]), ([1], [1], [8])])
def test_shapes_that_do_not_ascend_are_rejected(shapes):
    with pytest.raises(TriremeError, match="is not three ascending shapes"):
        check_profile(TensorRtProfile(*shapes), 1, "tiny")


def test_operators_of_onnxruntime_are_rejected_by_name():
    model = tiny_encoder()
    check_operators(model, "tiny")
    model.graph.node.append(helper.make_node("Gelu", ["hidden"], ["x"], domain="com.microsoft"))

    with pytest.raises(TriremeError, match=r"TensorRT does not support com.microsoft.Gelu; .* kind 'torch'"):
        check_operators(model, "tiny")


def test_without_tensorrt_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as Python marks a module that cannot be found
    with pytest.raises(SetupError, match=r"needs the extra \[gpu\].*to fix it: pip install"):
        build_plan(Path("model.onnx"), PROFILE, "tiny")


def test_plan_with_a_profile_below_max_batch_size_is_not_written(workshop, capsys):
    workshop.publish()
    other = workshop.settings.repository_dir / "tiny_trt"
    other.mkdir()
    (other / "config.pbtxt").write_text('platform: "tensorrt_plan"\nmax_batch_size: 8\n')
    (other / "export.toml").write_text(
        '[source]\nkind = "model"\nmodel = "tiny_encoder"\n'
        "[tensorrt]\nmin_shape = [1, 1]\nopt_shape = [1, 1]\nmax_shape = [1, 64]\n"
    )

    assert cli.main(["export", "tiny_trt"]) == 1
    assert "allows batches of 8, but the TensorRT profile only 1" in capsys.readouterr().err
    assert not (other / "1").exists()
